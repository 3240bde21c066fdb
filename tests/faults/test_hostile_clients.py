"""Bodies made to hurt, sent to a real server by several clients at once.

Meanwhile a trainer goes on with its work.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.databases import copied_file
from tests.faults.conftest import open_run
from tests.faults.crowd import Crowd, check_account
from tests.server import Server, running

MILLION = 1_000_000
JSON = {"content-type": "application/json"}
PATHS = [
    "/outcomes",
    "/select_batch",
    "/predict_difficulty",
    "/pools/run/prompts",
    "/allocate_budget",
]


def million_rows(_: str) -> bytes:
    """Every column of a report, a million rows long."""
    columns = {
        "draw_id": '"d1-0"',
        "successes": "1",
        "trials": "1",
        "keys": '"k0"',
        "candidates": '"k0"',
    }
    rows = ", ".join(
        f'"{name}": [{", ".join([value] * MILLION)}]' for name, value in columns.items()
    )
    return f'{{"run": "run", "batch_size": 1, {rows}}}'.encode()


def deep(_: str) -> bytes:
    return b'{"run":' * MILLION


def deep_lists(_: str) -> bytes:
    return b'{"run": "run", "keys": ' + b"[" * MILLION + b"]" * MILLION + b"}"


def many_fields(_: str) -> bytes:
    return json.dumps({f"field-{number}": number for number in range(MILLION // 5)}).encode()


def one_long_string(_: str) -> bytes:
    return b'{"run": "' + b"r" * 20 * MILLION + b'"}'


def one_long_number(_: str) -> bytes:
    return b'{"run": "run", "batch_size": ' + b"9" * MILLION + b"}"


def wrong_rows(path: str) -> bytes:
    """Rows each of which is wrong, so that each could make a fault."""
    body = {
        "run": "run",
        "draw_id": [7] * 100_000,
        "keys": [7] * 8_000,
        "candidates": [7] * 100_000,
    }
    return json.dumps(body | {"successes": ["x"] * 100_000, "trials": [-1] * 100_000}).encode()


@pytest.fixture(scope="module")
def url(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return copied_file(sqlite_template, tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def server(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(url, tmp_path_factory.mktemp("server")) as started:
        open_run(started)
        yield started


@pytest.mark.timeout(240)
def test_a_trainer_goes_on_while_strangers_send_what_they_like(url: str, server: Server) -> None:
    kinds: list[Callable[[str], bytes]] = [
        million_rows,
        deep,
        deep_lists,
        many_fields,
        one_long_string,
        one_long_number,
        wrong_rows,
    ]
    answers: dict[tuple[str, str], httpx.Response] = {}

    def send(path: str) -> None:
        for kind in kinds:
            answers[path, kind.__name__] = server.request(
                "POST", path, content=kind(path), headers=JSON
            )

    with Crowd(server, clients=2) as crowd:
        crowd.wait_for_more(5)
        strangers = [threading.Thread(target=send, args=(path,)) for path in PATHS]
        for stranger in strangers:
            stranger.start()
        for stranger in strangers:
            stranger.join()
            crowd.wait_for_more(2)
    assert len(answers) == len(PATHS) * len(kinds)
    for (path, kind), answer in answers.items():
        assert answer.status_code in (400, 413, 422), (
            path,
            kind,
            answer.status_code,
            answer.text[:500],
        )
        assert answer.headers["content-type"] == "application/problem+json"
        assert len(answer.content) < 10_000, (path, kind)
    assert not crowd.refusals
    assert "Traceback" not in server.log.read_text()
    check_account(url, server, crowd)

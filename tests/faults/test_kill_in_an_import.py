"""Kill -9 and SIGTERM in the middle of a large import: the pool shows all of it or nothing."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.conftest import DIMENSION, query, vector
from tests.server import Server, running, wait_for

ROWS = 30_000
LINES = {"content-type": "application/jsonl"}


@pytest.fixture(scope="module")
def large() -> bytes:
    """A pool file that takes some seconds to import."""
    return b"".join(
        json.dumps({"key": f"k{row}", "vector": vector(row), "domain": f"d{row % 7}"}).encode()
        + b"\n"
        for row in range(ROWS)
    )


class Import(threading.Thread):
    """An import under way."""

    def __init__(self, server: Server, content: bytes) -> None:
        super().__init__()
        self._server = server
        self._content = content
        self.answer: httpx.Response | None = None

    def run(self) -> None:
        try:
            self.answer = self._server.request(
                "POST", "/pools/pool/prompts", content=self._content, headers=LINES
            )
        except httpx.TransportError:
            self.answer = None


def begin(server: Server, database_url: str, content: bytes) -> Import:
    """Begin an import and wait until some of it, and not all, is in the database."""
    server.json(
        "POST", "/pools", {"name": "pool", "embedding": {"kind": "given", "dimension": DIMENSION}}
    )
    importing = Import(server, content)
    importing.start()
    staged = "SELECT COUNT(*) FROM pool_chunks"
    wait_for(
        lambda: query(database_url, staged)[0][0] >= 1 or not importing.is_alive(),
        60.0,
        "the first chunk",
    )
    return importing


@pytest.mark.timeout(180)
def test_a_killed_import_shows_nothing_and_a_later_one_works(
    database_url: str, tmp_path: Path, large: bytes
) -> None:
    with running(database_url, tmp_path) as server:
        importing = begin(server, database_url, large)
        server.kill()
        importing.join()
        assert importing.answer is None, "the import was over before the kill"
    with running(database_url, tmp_path, PROMPTGPS_LEASE_SECONDS="1") as server:
        assert query(database_url, "SELECT COUNT(*) FROM prompts")[0][0] > 0
        assert server.json("GET", "/pools/pool")["prompts"] == 0
        refused = server.request("POST", "/runs", json={"name": "run", "pool": "pool"})
        assert refused.status_code == 422
        assert "empty" in refused.json()["detail"]

        _wait_out_the_lease(server, large)
        answer = server.request("POST", "/pools/pool/prompts", content=large, headers=LINES)
        assert answer.json()["total"] == ROWS
        again = server.request(
            "POST",
            "/pools/pool/prompts",
            content=large[:100_000].rpartition(b"\n")[0],
            headers=LINES,
        )
        assert again.json()["added"] == 0
    _check_rows(database_url)


def _wait_out_the_lease(server: Server, content: bytes) -> None:
    """The dead import holds the pool until this process has seen it stand still for long enough."""

    def free() -> bool:
        few = content[:1000].rpartition(b"\n")[0]
        answer = server.request("POST", "/pools/pool/prompts", content=few, headers=LINES)
        assert answer.status_code in (200, 429), answer.text
        assert answer.status_code == 200 or int(answer.headers["retry-after"]) >= 1
        return answer.status_code == 200

    assert not free()
    wait_for(free, 60.0, "the dead import to make room", pause=0.2)


def _check_rows(database_url: str) -> None:
    keys = query(database_url, "SELECT position, key FROM prompts ORDER BY position")
    assert [(row.position, row.key) for row in keys] == [(row, f"k{row}") for row in range(ROWS)]
    chunks = query(database_url, "SELECT start, size FROM pool_chunks ORDER BY start")
    ends: list[Any] = [0]
    for chunk in chunks:
        assert chunk.start == ends[-1]
        ends.append(chunk.start + chunk.size)
    assert ends[-1] == ROWS


@pytest.mark.timeout(180)
def test_sigterm_answers_the_import_under_way_and_takes_no_new_request(
    database_url: str, tmp_path: Path, large: bytes
) -> None:
    with running(database_url, tmp_path) as server:
        importing = begin(server, database_url, large)
        assert importing.is_alive(), "the import was over before the signal"
        server.terminate()
        wait_for(lambda: _refuses(server), 10.0, "the server to take no new connection")
        importing.join()
        # uvicorn ends by the signal itself once all is answered
        assert server.wait() in (0, -signal.SIGTERM)
    assert importing.answer is not None
    told = importing.answer.json()
    assert (told["added"], told["duplicates"], told["total"]) == (ROWS, 0, ROWS)
    _check_rows(database_url)
    assert query(database_url, "SELECT prompts FROM pools")[0][0] == ROWS


def _refuses(server: Server) -> bool:
    try:
        server.request("GET", "/healthz")
    except httpx.TransportError:
        return True
    return False

"""What is too large: lists, texts and bodies, with and without a length in the header."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from promptgps_client.wire import (
    MAX_BUDGETED,
    MAX_CANDIDATES,
    MAX_PREDICTIONS,
    MAX_PROMPTS_IN_REQUEST,
    MAX_ROLLOUTS_IN_REPORT,
)
from promptgps_service.app import create_app
from starlette.testclient import TestClient

from tests.api.conftest import BATCH, World, make_world, refused, settings_for

LARGE = (413, "too-large")
JSON = {"content-type": "application/json"}
# limits of the fixture's application, in bytes
BODY = 1_000_000
FILE = 2_000_000


@pytest.fixture(scope="module")
def world(http: TestClient) -> World:
    """One for all tests of this file: each shows that it leaves it as it was."""
    return make_world(http)


@pytest.fixture
def roomy(roomy_http: TestClient) -> World:
    """A world behind the default limit of bodies, where only the limits of lists bite."""
    return make_world(roomy_http)


@pytest.mark.parametrize(
    ("path", "column", "limit"),
    [
        ("/outcomes", "draw_id", MAX_ROLLOUTS_IN_REPORT),
        ("/outcomes", "trials", MAX_ROLLOUTS_IN_REPORT),
        ("/predict_difficulty", "keys", MAX_PREDICTIONS),
        ("/allocate_budget", "keys", MAX_BUDGETED),
        ("/pools/{pool}/prompts", "keys", MAX_PROMPTS_IN_REQUEST),
        ("/select_batch", "exclude", MAX_CANDIDATES),
    ],
)
def test_a_list_over_its_documented_limit_is_a_413_that_names_it(
    roomy: World, path: str, column: str, limit: int
) -> None:
    before = roomy.footprint()
    long: list[Any] = [1 if column == "trials" else "k0"] * (limit + 1)
    sound: dict[str, dict[str, Any]] = {
        "/outcomes": roomy.outcomes(),
        "/predict_difficulty": {"run": roomy.run},
        "/allocate_budget": {"run": roomy.run, "mean": 1},
        "/pools/{pool}/prompts": {"vectors": [[1, 2, 3]]},
        "/select_batch": {"run": roomy.run, "batch_size": 1},
    }
    answer = roomy.http.post(path.format(pool=roomy.pool), json=sound[path] | {column: long})
    refused(answer, *LARGE, column)
    assert roomy.footprint() == before


@pytest.mark.parametrize(
    ("field", "entries"), [("predictor_parameters", 65), ("domain_quotas", 1025)]
)
def test_a_mapping_over_its_limit_is_a_413_that_names_it(
    world: World, field: str, entries: int
) -> None:
    letters = [chr(97 + digit) for digit in range(26)]
    names = [
        "".join(name) for name in itertools.islice(itertools.product(letters, repeat=3), entries)
    ]
    body = {
        "name": "new",
        "pool": world.pool,
        "selection": {field: dict.fromkeys(names, 1 / entries)},
    }
    before = world.footprint()
    refused(world.http.post("/runs", json=body), *LARGE, f"selection.{field}")
    assert world.footprint() == before


def test_a_text_over_its_limit_names_its_row(roomy: World) -> None:
    body = {"texts": ["a", "t" * 1_000_001], "vectors": [[1, 2, 4], [1, 2, 5]]}
    refused(
        roomy.http.post(f"/pools/{roomy.pool}/prompts", json=body),
        422,
        "invalid-request",
        "texts",
        1,
    )


@pytest.mark.parametrize(
    "path",
    ["/outcomes", "/select_batch", "/predict_difficulty", "/allocate_budget", "/runs", "/pools"],
)
@pytest.mark.parametrize("kind", ["application/json", "Application/JSON", "text/plain", None])
@pytest.mark.parametrize("chunked", [False, True], ids=["with length", "chunked"])
def test_a_body_over_the_limit_is_a_413(
    world: World, path: str, kind: str | None, chunked: bool
) -> None:
    before = world.footprint()
    body = json.dumps(world.outcomes()).encode().ljust(BODY + 1)
    headers = {"content-type": kind} if kind else {}
    answer = world.http.post(path, content=_parts(body) if chunked else body, headers=headers)
    if chunked and kind in (None, "text/plain"):  # refused for its type before it is read
        refused(answer, 422, "invalid-request", "body")
    else:
        assert "1 MB" in refused(answer, *LARGE)["detail"]
    assert world.footprint() == before


@pytest.mark.parametrize("chunked", [False, True], ids=["with length", "chunked"])
def test_a_file_may_be_larger_than_a_body_but_not_than_its_own_limit(
    world: World, chunked: bool
) -> None:
    line = json.dumps({"key": "k0", "vector": [1.0, 1.0, 0.0]}).encode()
    path = f"/pools/{world.pool}/prompts"
    headers = {"content-type": "application/jsonl"}
    before = world.footprint()
    for size, status in ((FILE - 1, 200), (FILE + 1, 413)):
        body = line.ljust(size)
        answer = world.http.post(path, content=_parts(body) if chunked else body, headers=headers)
        assert answer.status_code == status, answer.text
    refused(answer, *LARGE)
    assert world.footprint() == before


def test_prompts_in_json_keep_to_the_limit_of_bodies(world: World) -> None:
    body = json.dumps({"vectors": [[1, 2, 3]]}).encode().ljust(BODY + 1)
    for content in (body, _parts(body)):
        refused(
            world.http.post(f"/pools/{world.pool}/prompts", content=content, headers=JSON), *LARGE
        )


def test_the_service_answers_on_after_all_that(world: World) -> None:
    assert world.http.post("/outcomes", content=b" " * (BODY + 1), headers=JSON).status_code == 413
    assert world.http.get(f"/runs/{world.run}").status_code == 200


def _parts(body: bytes) -> Iterator[bytes]:
    """A body in parts, so that its length is not told beforehand."""
    for start in range(0, len(body), 65_536):
        yield body[start : start + 65_536]


def test_who_draws_and_never_reports_gets_no_more_until_he_does(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = settings_for(
        tmp_path_factory.mktemp("draws"), sqlite_template, max_open_draws=BATCH + 1
    )
    with TestClient(create_app(settings), raise_server_exceptions=False) as http:
        world = make_world(http)  # which has drawn one batch
        before = world.footprint()
        asked = {"run": world.run, "sequence": 1, "batch_size": 2}
        answer = http.post("/select_batch", json=asked)
        refused(answer, 429, "busy")
        assert int(answer.headers["retry-after"]) >= 1
        assert world.footprint() == before
        assert http.post("/select_batch", json=asked | {"batch_size": 1}).status_code == 200
        again = http.post(
            "/select_batch", json={"run": world.run, "sequence": 0, "batch_size": BATCH}
        )
        # what was drawn already can be had at any time
        assert again.json()["draws"]["draw_id"] == world.draws
        assert http.post("/outcomes", json=world.outcomes()).status_code == 200
        assert http.post("/select_batch", json=asked | {"sequence": 2}).status_code == 200

"""Bodies that no honest client sends.

Broken JSON, numbers and strings that JSON can say and nobody can store.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.api.conftest import World, make_world, refused

INVALID = (422, "invalid-request")
MALFORMED = (400, "malformed")
ENDPOINTS = [
    "/pools",
    "/runs",
    "/select_batch",
    "/outcomes",
    "/predict_difficulty",
    "/pools/{pool}/prompts",
]
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def world(http: TestClient) -> World:
    """One for all tests of this file: each shows that it leaves it as it was."""
    return make_world(http)


def send(world: World, path: str, body: bytes | str, headers: dict[str, str] | None = None) -> Any:
    return world.http.post(
        path.format(pool=world.pool), content=body, headers=JSON if headers is None else headers
    )


def report(world: World, **raw: str) -> str:
    """A sound report with some values in raw JSON."""
    fields = {name: json.dumps(value) for name, value in world.outcomes().items()} | raw
    return "{" + ", ".join(f'"{name}": {value}' for name, value in fields.items()) + "}"


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"not json",
        b'{"name": "a",}',
        b"{'name': 1}",
        b"\xff\xfe",
        b'{"name": "\xff"}',
        b'{"a": 01}',
        b"\x00",
        b'{"name": "a"} {}',
    ],
    ids=["cut", "words", "comma", "quotes", "bytes", "latin", "octal", "nul", "two"],
)
def test_what_is_not_json_is_a_400(world: World, path: str, body: bytes) -> None:
    before = world.footprint()
    refused(send(world, path, body), *MALFORMED)
    assert world.footprint() == before


@pytest.mark.parametrize("path", ENDPOINTS)
def test_deep_nesting_is_refused_and_harms_nobody(world: World, path: str) -> None:
    for body in (
        "[" * 200_000,
        '{"a":' * 100_000,
        '{"selection":' + "[" * 50_000 + "]" * 50_000 + "}",
    ):
        answer = send(world, path, body)
        assert answer.status_code in (400, 422)
        refused(answer, *(MALFORMED if answer.status_code == 400 else INVALID), *_first(answer))
    assert world.http.get("/healthz").status_code == 200


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"7", b'"text"', b"true"])
def test_a_body_that_is_no_object_is_refused(world: World, path: str, body: bytes) -> None:
    before = world.footprint()
    answer = send(world, path, body)
    refused(answer, *INVALID, "body")
    assert world.footprint() == before


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("column", ["successes", "trials", "policy_version"])
def test_numbers_that_are_none_are_refused(world: World, column: str, literal: str) -> None:
    value = literal if column == "policy_version" else f"[1, {literal}, 0, 4]"
    before = world.footprint()
    answer = send(world, "/outcomes", report(world, **{column: value}))
    if answer.status_code == 400:
        refused(answer, *MALFORMED)
    else:
        refused(answer, *INVALID, column, None if column == "policy_version" else 1)
    assert world.footprint() == before


@pytest.mark.parametrize(
    "literal", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400, "1" + "0" * 5000]
)
def test_vectors_of_numbers_that_are_none_are_refused(world: World, literal: str) -> None:
    before = world.footprint()
    for path, body in (
        ("/pools/{pool}/prompts", f'{{"vectors": [[1, 2, 3], [1, {literal}, 3]]}}'),
        (
            "/predict_difficulty",
            f'{{"run": "{world.run}", "vectors": [[1, 2, 3], [1, {literal}, 3]]}}',
        ),
    ):
        answer = send(world, path, body)
        refused(answer, *(MALFORMED if answer.status_code == 400 else INVALID), *_first(answer))
    assert world.footprint() == before


@pytest.mark.parametrize(
    "number", [str(2**53), str(2**63), str(-(2**63)), "9" * 400, "9" * 5000, "1e30", "3.0"]
)
@pytest.mark.parametrize("field", ["sequence", "batch_size", "policy_version"])
def test_integers_that_no_database_holds_are_refused(world: World, field: str, number: str) -> None:
    before = world.footprint()
    body = {"run": f'"{world.run}"', "batch_size": "2"} | {field: number}
    answer = send(
        world,
        "/select_batch",
        "{" + ", ".join(f'"{key}": {value}' for key, value in body.items()) + "}",
    )
    refused(answer, *(MALFORMED if answer.status_code == 400 else INVALID), *_first(answer))
    assert world.footprint() == before


STRINGS = {"NUL": r"a\u0000b", "lone high surrogate": r"a\ud800b", "lone low surrogate": r"\udc00"}


@pytest.mark.parametrize("text", STRINGS.values(), ids=STRINGS.keys())
@pytest.mark.parametrize("column", ["keys", "texts", "domains"])
def test_strings_that_no_database_holds_are_refused_among_prompts(
    world: World, column: str, text: str
) -> None:
    before = world.footprint()
    columns = {"texts": '["a", "b"]', "vectors": "[[1, 2, 4], [1, 2, 5]]"} | {
        column: f'["c", "{text}"]'
    }
    body = "{" + ", ".join(f'"{key}": {value}' for key, value in columns.items()) + "}"
    answer = send(world, "/pools/{pool}/prompts", body)
    if answer.status_code == 400:
        refused(answer, *MALFORMED)
    else:
        refused(answer, *INVALID, column, 1)
    assert world.footprint() == before


@pytest.mark.parametrize("text", STRINGS.values(), ids=STRINGS.keys())
def test_strings_that_no_database_holds_are_refused_everywhere_else(
    world: World, text: str
) -> None:
    before = world.footprint()
    run = f'"run": "{world.run}"'
    for path, body in (
        ("/pools", f'{{"name": "{text}"}}'),
        ("/pools", f'{{"name": "p", "embedding": {{"kind": "folder", "path": "{text}"}}}}'),
        ("/runs", f'{{"name": "r", "pool": "{text}"}}'),
        (
            "/runs",
            f'{{"name": "r", "pool": "{world.pool}", '
            f'"selection": {{"domain_quotas": {{"{text}": 1.0}}}}}}',
        ),
        ("/runs", f'{{"name": "r", "pool": "{world.pool}", "{text}": 1}}'),
        ("/select_batch", f'{{{run}, "batch_size": 1, "candidates": ["{text}"]}}'),
        ("/select_batch", f'{{{run}, "batch_size": 1, "exclude": ["{text}"]}}'),
        ("/select_batch", f'{{{run}, "batch_size": 1, "{text}": ["k0"]}}'),
        ("/outcomes", f'{{{run}, "draw_id": ["{text}"], "successes": [1], "trials": [1]}}'),
        ("/outcomes", f'{{{run}, "prompt": ["{text}"], "successes": [1], "trials": [1]}}'),
        ("/outcomes", f'{{{run}, "{text}": ["{text}"], "successes": [1], "trials": [1]}}'),
        ("/predict_difficulty", f'{{{run}, "keys": ["{text}"]}}'),
        ("/predict_difficulty", f'{{{run}, "texts": ["{text}"]}}'),
        ("/pools/{pool}/prompts", f'{{"vectors": [[1, 2, 4]], "{text}": ["k0"]}}'),
    ):
        answer = send(world, path, body)
        refused(answer, *(MALFORMED if answer.status_code == 400 else INVALID), *_first(answer))
    assert world.footprint() == before


@pytest.mark.parametrize("path", ENDPOINTS[:-1])
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/octet-stream", "*"]
)
def test_json_under_another_name_is_refused(world: World, path: str, kind: str) -> None:
    before = world.footprint()
    sound = json.dumps(world.outcomes())
    refused(send(world, path, sound, {"content-type": kind}), *INVALID, "body")
    assert world.footprint() == before


@pytest.mark.parametrize(
    "headers", [{}, {"content-type": "text/html"}, {"content-type": "application/xml"}]
)
def test_prompts_in_an_unknown_format_are_a_415_that_says_what_is_taken(
    world: World, headers: dict[str, str]
) -> None:
    before = world.footprint()
    problem = refused(
        send(world, "/pools/{pool}/prompts", "a,b", headers), 415, "unsupported-media-type"
    )
    assert "application/jsonl" in problem["detail"]
    assert world.footprint() == before


def test_a_field_that_is_there_twice_counts_once(world: World) -> None:
    answer = send(world, "/outcomes", report(world)[:-1] + ', "trials": [3, 3, 3, 4]}')
    assert answer.json()["log_position"] == 4


def test_sql_and_paths_in_names_are_only_names(world: World) -> None:
    before = world.footprint()
    for hostile in (
        "'; DROP TABLE pools; --",
        "../../etc/passwd",
        "%s%s%n",
        "{0.__class__}",
        "${jndi:ldap://x}",
    ):
        refused(
            world.http.post("/predict_difficulty", json={"run": world.run, "keys": [hostile]}),
            404,
            "not-found",
            "keys",
            0,
        )
        answer = world.http.post("/pools", json={"name": hostile})
        refused(answer, *INVALID, "name")
    assert world.footprint() == before


def _first(answer: Any) -> tuple[str | None, int | None]:
    """Field and row of the first fault, where any will do."""
    faults = answer.json()["errors"]
    return (faults[0]["field"], faults[0]["row"]) if faults else (None, None)

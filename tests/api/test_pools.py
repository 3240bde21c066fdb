"""Pools over HTTP: the same prompts in every format, told apart by key or else by content."""

from __future__ import annotations

import gzip
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from tests.api.conftest import World, make_world, refused

INVALID = (422, "invalid-request")
ROWS: list[dict[str, Any]] = [
    {
        "key": f"p{row}",
        "text": f"What is {row} + {row * 7}?",
        "domain": f"d{row % 2}",
        "prior_successes": float(row % 4),
        "prior_trials": 4.0,
    }
    for row in range(10)
]


def json_columns(rows: list[dict[str, Any]]) -> tuple[bytes, str]:
    names = {"key": "keys", "text": "texts", "vector": "vectors", "domain": "domains"}
    columns = {names.get(field, field): [row[field] for row in rows] for field in rows[0]}
    return json.dumps(columns).encode(), "application/json"


def json_lines(rows: list[dict[str, Any]]) -> tuple[bytes, str]:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows), "application/jsonl"


def zipped_lines(rows: list[dict[str, Any]]) -> tuple[bytes, str]:
    return gzip.compress(json_lines(rows)[0]), "application/x-ndjson; charset=utf-8"


def parquet(rows: list[dict[str, Any]]) -> tuple[bytes, str]:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue(), "application/vnd.apache.parquet"


FORMATS = [json_columns, json_lines, zipped_lines, parquet]


def add(http: TestClient, pool: str, sent: tuple[bytes, str]) -> Any:
    return http.post(f"/pools/{pool}/prompts", content=sent[0], headers={"content-type": sent[1]})


def counts(answer: Any) -> dict[str, int]:
    """How many rows became what."""
    told = answer.json()
    return {name: told[name] for name in ("added", "duplicates", "aliases", "total")}


def text_pool(http: TestClient, name: str) -> str:
    assert http.post("/pools", json={"name": name}).json()["dimension"] == 256
    return name


@pytest.mark.parametrize("form", FORMATS)
def test_a_pool_is_filled_and_what_it_has_is_passed_over(
    http: TestClient, name: str, form: Any
) -> None:
    pool = text_pool(http, name)
    assert counts(add(http, pool, form(ROWS[:6]))) == {
        "added": 6,
        "duplicates": 0,
        "aliases": 0,
        "total": 6,
    }
    assert counts(add(http, pool, form(ROWS))) == {
        "added": 4,
        "duplicates": 6,
        "aliases": 0,
        "total": 10,
    }
    assert http.get(f"/pools/{pool}").json()["prompts"] == 10


@pytest.mark.parametrize("form", FORMATS)
def test_other_keys_of_the_same_texts_are_prompts_of_their_own_or_aliases_on_request(
    http: TestClient, name: str, form: Any
) -> None:
    pool = text_pool(http, name)
    assert add(http, pool, form(ROWS)).status_code == 200
    again, more = (
        [row | {"key": f"{row['key']}-{word}"} for row in ROWS] for word in ("again", "more")
    )
    assert counts(add(http, pool, form(again))) == {
        "added": 10,
        "duplicates": 0,
        "aliases": 0,
        "total": 20,
    }
    content, kind = form(more)
    sent = http.post(
        f"/pools/{pool}/prompts?on_equal_content=merge",
        content=content,
        headers={"content-type": kind},
    )
    assert counts(sent) == {"added": 0, "duplicates": 0, "aliases": 10, "total": 20}
    assert http.post("/runs", json={"name": pool, "pool": pool}).json()["prompts"] == 20
    asked = {"run": pool, "batch_size": 1, "candidates": ["p3-more"]}
    assert http.post("/select_batch", json=asked).json()["draws"]["prompt"] == ["p3"]
    refused(
        http.post(
            f"/pools/{pool}/prompts?on_equal_content=both",
            content=content,
            headers={"content-type": kind},
        ),
        *INVALID,
        "on_equal_content",
    )


def test_json_says_what_becomes_of_equal_content(http: TestClient, name: str) -> None:
    pool = text_pool(http, name)
    body = {"keys": ["a", "b"], "texts": ["same", "same"], "on_equal_content": "merge"}
    sent = http.post(f"/pools/{pool}/prompts", json=body)
    assert counts(sent) == {"added": 1, "duplicates": 0, "aliases": 1, "total": 1}


def test_every_format_makes_the_same_pool(http: TestClient, name: str) -> None:
    predictions = []
    for index, form in enumerate(FORMATS):
        pool = text_pool(http, f"{name}-{index}")
        assert add(http, pool, form(ROWS)).status_code == 200
        assert http.post("/runs", json={"name": pool, "pool": pool, "seed": 1}).status_code == 201
        body = {"run": pool, "keys": [row["key"] for row in ROWS]}
        predictions.append(http.post("/predict_difficulty", json=body).json())
    assert all(told == predictions[0] for told in predictions)


def test_duplicates_inside_one_request_count_once(http: TestClient, name: str) -> None:
    pool = text_pool(http, name)
    body = {"texts": ["a", "b", "a", "c", "b"]}
    sent = http.post(f"/pools/{pool}/prompts", json=body)
    assert counts(sent) == {"added": 3, "duplicates": 2, "aliases": 0, "total": 3}


@pytest.mark.parametrize("form", FORMATS)
def test_a_key_that_stands_for_another_content_is_a_409_that_names_the_row(
    http: TestClient, name: str, form: Any
) -> None:
    pool = text_pool(http, name)
    assert add(http, pool, form(ROWS[:3])).status_code == 200
    rows = [ROWS[5], ROWS[6], ROWS[1] | {"text": "something else"}]
    refused(add(http, pool, form(rows)), 409, "conflict", "keys", 2)
    assert http.get(f"/pools/{pool}").json()["prompts"] == 3


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"text": ""}, "text"),
        ({"key": "k" * 513}, "key"),
        ({"domain": "d" * 129}, "domain"),
        ({"prior_successes": 9.0}, "prior_successes"),
        ({"prior_trials": -1.0}, "prior_trials"),
    ],
)
def test_a_wrong_row_refuses_the_whole_import_and_is_named(
    http: TestClient, name: str, form: Any, change: dict[str, Any], field: str
) -> None:
    pool = text_pool(http, name)
    rows = [*ROWS[:7], ROWS[7] | change]
    columns = {"text": "texts", "key": "keys", "domain": "domains"}
    named = columns.get(field, field) if form is json_columns else field
    refused(add(http, pool, form(rows)), *INVALID, named, 7)
    assert http.get(f"/pools/{pool}").json()["prompts"] == 0
    assert add(http, pool, form(ROWS)).json()["added"] == 10


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b'{"text": "a"}\n{"text": ', "application/jsonl"),
        (b"\x1f\x8bnothing", "application/jsonl"),
        (b"PAR1nothing", "application/vnd.apache.parquet"),
        (b"", "application/vnd.apache.parquet"),
    ],
)
def test_a_broken_file_is_refused_and_frees_the_pool(
    http: TestClient, name: str, content: bytes, kind: str
) -> None:
    pool = text_pool(http, name)
    answer = add(http, pool, (content, kind))
    refused(answer, *INVALID, "file", answer.json()["errors"][0]["row"])
    assert counts(add(http, pool, json_lines(ROWS))) == {
        "added": 10,
        "duplicates": 0,
        "aliases": 0,
        "total": 10,
    }


def test_an_empty_file_adds_nothing(http: TestClient, name: str) -> None:
    pool = text_pool(http, name)
    told = counts(add(http, pool, (b"", "application/jsonl")))
    assert told == {"added": 0, "duplicates": 0, "aliases": 0, "total": 0}


@pytest.mark.parametrize("form", FORMATS)
def test_given_vectors_go_by_direction_and_are_checked(
    http: TestClient, name: str, form: Any
) -> None:
    assert (
        http.post(
            "/pools", json={"name": name, "embedding": {"kind": "given", "dimension": 2}}
        ).status_code
        == 201
    )
    rows = [{"key": f"v{row}", "vector": [1.0, float(row)]} for row in range(5)]
    assert counts(add(http, name, form(rows))) == {
        "added": 5,
        "duplicates": 0,
        "aliases": 0,
        "total": 5,
    }
    longer = [{"key": f"v{row}", "vector": [2.0, 2.0 * row]} for row in range(5)]
    assert add(http, name, form(longer)).json()["duplicates"] == 5
    vectors = "vectors" if form is json_columns else None
    for wrong in ([0.0, 0.0], [1.0], [1.0, 2.0, 3.0]):
        answer = add(http, name, form([*rows, {"key": "x", "vector": wrong}]))
        assert answer.status_code == 422
        refused(answer, *INVALID, vectors or answer.json()["errors"][0]["field"], 5)
    answer = add(http, name, form([{"key": "x", "vector": [1.0, 2.0, 3.0]}]))
    assert "dimension 2" in refused(answer, *INVALID, "vectors", 0)["detail"]
    assert http.get(f"/pools/{name}").json()["prompts"] == 5


def test_texts_go_to_pools_of_texts_and_vectors_to_pools_of_vectors(
    http: TestClient, name: str
) -> None:
    world = make_world(http)
    refused(
        http.post(f"/pools/{world.pool}/prompts", json={"texts": ["a"]}), *INVALID, "vectors", 0
    )
    pool = text_pool(http, name)
    refused(
        http.post(f"/pools/{pool}/prompts", json={"vectors": [[1.0] * 256]}), *INVALID, "texts", 0
    )
    both = {"texts": ["a"], "vectors": [[1.0] * 256]}
    refused(http.post(f"/pools/{pool}/prompts", json=both), *INVALID, "vectors", 0)


@pytest.mark.parametrize(
    ("embedding", "field"),
    [
        ({"kind": "given"}, "embedding.dimension"),
        ({"kind": "given", "dimension": 0}, "embedding.dimension"),
        ({"kind": "given", "dimension": 2**63}, "embedding.dimension"),
        ({"kind": "wordllama", "dimension": 2}, "embedding.dimension"),
        ({"kind": "folder"}, "embedding.path"),
        ({"kind": "best"}, "embedding.kind"),
        ({"kind": "given", "dimension": True}, "embedding.dimension"),
    ],
)
def test_an_embedding_that_cannot_be_is_refused(
    http: TestClient, name: str, embedding: Any, field: str
) -> None:
    refused(http.post("/pools", json={"name": name, "embedding": embedding}), *INVALID, field)
    refused(http.get(f"/pools/{name}"), 404, "not-found")


def test_a_folder_that_is_not_there_is_refused(http: TestClient, name: str) -> None:
    body = {"name": name, "embedding": {"kind": "folder", "path": "/nowhere/at/all"}}
    answer = http.post("/pools", json=body)
    assert answer.status_code == 422, answer.text
    refused(http.get(f"/pools/{name}"), 404, "not-found")


def test_the_same_pool_again_is_the_same_and_another_of_its_name_is_a_409(world: World) -> None:
    body = {"name": world.pool, "embedding": {"kind": "given", "dimension": 3}}
    again = world.http.post("/pools", json=body)
    assert again.status_code == 200
    assert again.json()["prompts"] == 12
    for other in ({"kind": "given", "dimension": 4}, {"kind": "wordllama"}):
        refused(
            world.http.post("/pools", json=body | {"embedding": other}),
            409,
            "conflict",
            "embedding",
        )
    refused(world.http.post("/pools", json={"name": world.pool}), 409, "conflict", "embedding")


def test_domains_serve_as_quotas(http: TestClient, name: str) -> None:
    pool = text_pool(http, name)
    assert add(http, pool, json_lines(ROWS)).status_code == 200
    quotas = {"domain_quotas": {"d0": 0.75, "d1": 0.25}}
    assert (
        http.post("/runs", json={"name": name, "pool": pool, "selection": quotas}).status_code
        == 201
    )
    batch = http.post("/select_batch", json={"run": name, "batch_size": 4}).json()
    domain = {row["key"]: row["domain"] for row in ROWS}
    assert sorted(domain[key] for key in batch["draws"]["prompt"]) == ["d0", "d0", "d0", "d1"]

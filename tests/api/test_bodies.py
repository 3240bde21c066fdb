"""Bodies in any encoding that is taken, and what is settled before a body is read."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from promptgps_service.api.bodies import SHORT
from promptgps_service.app import ROOMS, create_app
from promptgps_service.flow.keyring import add_key
from promptgps_service.store.unit import Store
from starlette.testclient import TestClient

from tests.api.conftest import World, make_world, refused, settings_for

JSON = {"content-type": "application/json"}
FILES = [
    "application/jsonl",
    "application/vnd.apache.parquet",
    "application/vnd.apache.arrow.file",
    "text/csv",
]


@pytest.fixture
def world(http: TestClient) -> World:
    return make_world(http)


def asked(world: World) -> list[tuple[str, str, dict[str, Any]]]:
    """A sound request to every route that takes JSON."""
    run = world.run
    pool = world.pool
    return [
        ("POST", "/pools", {"name": pool, "embedding": {"kind": "given", "dimension": 3}}),
        ("POST", f"/pools/{pool}/prompts", {"keys": ["k0"], "vectors": [[1.0, 1.0, 0.0]]}),
        ("POST", "/runs", {"name": run, "pool": pool, "rollouts_per_prompt": 4}),
        ("PATCH", f"/runs/{run}", {"rollouts_per_prompt": 4}),
        ("POST", "/select_batch", {"run": run, "sequence": 0, "batch_size": 4}),
        ("POST", "/outcomes", world.outcomes()),
        ("POST", "/predict_difficulty", {"run": run, "keys": ["k0"]}),
        ("POST", "/allocate_budget", {"run": run, "keys": ["k0"], "mean": 2}),
        ("POST", f"/runs/{run}/subsets", {"keys": ["k0", "k1"]}),
        ("POST", f"/runs/{run}/snapshots", {"tag": "t"}),
        ("POST", f"/runs/{run}/restore", {"tag": "t"}),
    ]


def test_no_route_leaves_its_body_to_the_framework() -> None:
    """It would parse all of it on the event loop, before rights and type are known."""
    routes = [route for room in ROOMS for route in room.router.routes]
    assert routes
    assert [route.path for route in routes if getattr(route, "body_field", None) is not None] == []


@pytest.mark.parametrize("padding", [0, 2 * SHORT], ids=["short", "long"])
def test_every_route_takes_gzip(world: World, padding: int) -> None:
    for method, path, body in asked(world):
        content = gzip.compress(json.dumps(body).encode() + b" " * padding)
        for encoding in ("gzip", "GZIP"):
            answer = world.http.request(
                method, path, content=content, headers=JSON | {"content-encoding": encoding}
            )
            assert answer.is_success, f"{path}: {answer.text}"


def test_files_take_gzip_around_them(world: World) -> None:
    rows = [{"key": f"g{row}", "vector": [1.0, row, 2.0]} for row in range(3)]
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), table)
    lines = "\n".join(map(json.dumps, rows)).encode()
    for kind, body in (
        ("application/jsonl", lines),
        ("application/vnd.apache.parquet", table.getvalue()),
    ):
        headers = {"content-type": kind, "content-encoding": "gzip"}
        answer = world.http.post(
            f"/pools/{world.pool}/prompts", content=gzip.compress(body), headers=headers
        )
        assert answer.json()["added"] + answer.json()["duplicates"] == 3, answer.text


@pytest.mark.parametrize("encoding", ["br", "zstd", "deflate", "gzip, gzip"])
def test_another_encoding_is_a_415_that_says_what_is_taken(world: World, encoding: str) -> None:
    for method, path, body in asked(world):
        headers = JSON | {"content-encoding": encoding}
        answer = world.http.request(method, path, content=json.dumps(body), headers=headers)
        assert "gzip" in refused(answer, 415, "unsupported-media-type")["detail"]


@pytest.mark.parametrize(
    "content",
    [b"no gzip", gzip.compress(b'{"tag": "t"}')[:-4], gzip.compress(b"{}") + b"x", b""],
    ids=["none", "cut off", "with more behind it", "empty"],
)
def test_broken_gzip_is_a_400(world: World, content: bytes) -> None:
    for method, path, _ in asked(world):
        answer = world.http.request(
            method, path, content=content, headers=JSON | {"content-encoding": "gzip"}
        )
        refused(answer, 400, "malformed")


def test_the_limit_is_of_what_is_inflated(world: World) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    for method, path, _ in asked(world):
        answer = world.http.request(
            method, path, content=bomb, headers=JSON | {"content-encoding": "gzip"}
        )
        refused(answer, 413, "too-large")
    for kind in FILES:
        headers = {"content-type": kind, "content-encoding": "gzip"}
        answer = world.http.post(f"/pools/{world.pool}/prompts", content=bomb, headers=headers)
        if kind == "application/jsonl":  # is inflated as it is read, and no line is so long
            refused(answer, 422, "invalid-request", "file", 0)
        else:
            assert answer.status_code == 413, answer.text


# ---- before the body -----------------------------------------------------------------------------


KEYS: dict[str, str] = {}


@pytest.fixture(scope="module")
def guarded(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    """An application with a key for reading and a limited one."""
    settings = settings_for(
        tmp_path_factory.mktemp("guarded"), sqlite_template, api_keys="all-rights"
    )
    store = Store(settings.database_url)
    KEYS["reader"] = add_key(store, "reader", (), read_only=True, days=None)
    KEYS["limited"] = add_key(store, "limited", ("other-*",), read_only=False, days=None)
    store.close()
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        client.headers["authorization"] = "Bearer all-rights"
        yield client


def status_without_reading(
    http: TestClient, method: str, path: str, key: str, kind: str = "application/json"
) -> int:
    """Status of the answer to a request whose body must not be asked for."""
    head = [
        (b"host", b"testserver"),
        (b"content-type", kind.encode()),
        (b"authorization", f"Bearer {key}".encode()),
    ]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": head,
        "scheme": "http",
        "root_path": "",
        "client": ("test", 1),
        "server": ("test", 80),
    }
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("the body was asked for")

    async def send(message: Any) -> None:
        sent.append(message)

    assert http.portal is not None
    http.portal.call(http.app, scope, receive, send)
    return int(sent[0]["status"])


def test_a_key_for_reading_is_refused_before_anything_is_read(guarded: TestClient) -> None:
    world = make_world(guarded)
    reader = KEYS["reader"]
    limited = KEYS["limited"]
    for method, path, _ in asked(world):
        if path not in ("/predict_difficulty", "/allocate_budget"):
            assert status_without_reading(guarded, method, path, reader) == 403, path
        if world.run in path:
            assert status_without_reading(guarded, method, path, limited) == 403, path
    for kind in FILES:
        assert (
            status_without_reading(guarded, "POST", f"/pools/{world.pool}/prompts", reader, kind)
            == 403
        )


def test_type_pool_and_imports_under_way_are_settled_before_a_file_is_read(
    guarded: TestClient,
) -> None:
    world = make_world(guarded)
    key = "all-rights"
    path = f"/pools/{world.pool}/prompts"
    assert status_without_reading(guarded, "POST", path, key, "application/xml") == 415
    assert status_without_reading(guarded, "POST", "/outcomes", key, "text/plain") == 422
    for kind in ("application/json", *FILES):
        assert status_without_reading(guarded, "POST", "/pools/nobody/prompts", key, kind) == 404
    context = guarded.app.state.context  # type: ignore[attr-defined]
    with context.store.write() as unit:
        pool = unit.pools.get(world.pool)
        unit.pools.begin_import(pool, "another", None)
    for kind in ("application/json", *FILES):
        assert status_without_reading(guarded, "POST", path, key, kind) == 429
    with context.store.write() as unit:
        unit.pools.abandon_import(pool.id, "another")
    assert guarded.post(f"/pools/{world.pool}/archive").status_code == 200
    for kind in ("application/json", *FILES):
        assert status_without_reading(guarded, "POST", path, key, kind) == 409


def test_small_requests_have_a_small_limit(roomy_http: TestClient) -> None:
    world = make_world(roomy_http)
    columns = {"/select_batch", "/outcomes", "/predict_difficulty", "/allocate_budget"}
    for method, path, _ in asked(world):
        if path in columns or path.endswith(("/prompts", "/subsets")):
            continue
        answer = roomy_http.request(method, path, content=b" " * 1_100_000, headers=JSON)
        assert "1 MB" in refused(answer, 413, "too-large")["detail"], path

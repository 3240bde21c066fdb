"""Keys that are limited: to names, to reading, or to both.

Of what is another's they learn and change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter
from promptgps_service.api.dependencies import GUARDS, Caller
from promptgps_service.app import create_app
from promptgps_service.flow.keyring import add_key
from starlette.testclient import TestClient

from tests.api.conftest import PROMPTS, refused, settings_for, vectors
from tests.api.test_access import GUARDED, bearer
from tests.databases import opened_store

FORBIDDEN = (403, "forbidden")
KEYS: dict[str, dict[str, Any]] = {
    "admin": {"patterns": []},
    "alice": {"patterns": ["alice-*", "both"]},
    "reader": {"patterns": [], "read_only": True},
    "alices-reader": {"patterns": ["alice-*"], "read_only": True},
}
# with a question that comes in a body
READING = {("POST", "/predict_difficulty"), ("POST", "/allocate_budget")}
EMBEDDING = {"kind": "given", "dimension": 3}


@pytest.fixture(scope="module")
def app(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An application with keys in its database, and two endpoints that somebody added later."""
    settings = settings_for(tmp_path_factory.mktemp("limited"), sqlite_template)
    with opened_store(settings.database_url) as store:
        keys = {
            name: add_key(
                store, name, rights["patterns"], read_only=rights.get("read_only", False), days=None
            )
            for name, rights in KEYS.items()
        }
    made = create_app(settings)
    late = APIRouter()
    late.get("/late")(lambda: {"seen": "everything"})
    late.post("/late")(lambda: {"changed": "everything"})

    @late.post("/asking")
    def asking(access: Caller) -> str | None:
        return access.key

    made.include_router(late, dependencies=GUARDS)
    made.state.keys = keys
    return made


@pytest.fixture(scope="module")
def clients(app: Any) -> Iterator[dict[str, TestClient]]:
    """A client for each key, of one application with pools and runs of alice and of bob."""
    with TestClient(app, raise_server_exceptions=False) as admin:
        made = {name: TestClient(app, raise_server_exceptions=False) for name in KEYS}
        for name, client in made.items():
            client.headers.update(bearer(app.state.keys[name]))
        admin = made["admin"]
        prompts = {"keys": [f"k{row}" for row in range(PROMPTS)], "vectors": vectors()}
        for pool in ("shared", "alice-pool", "bob-pool"):
            assert (
                admin.post("/pools", json={"name": pool, "embedding": EMBEDDING}).status_code == 201
            )
            assert admin.post(f"/pools/{pool}/prompts", json=prompts).status_code == 200
        for run, pool in (
            ("alice-1", "shared"),
            ("alice-2", "alice-pool"),
            ("bob-1", "bob-pool"),
            ("both", "shared"),
        ):
            assert admin.post("/runs", json={"name": run, "pool": pool}).status_code == 201
        yield made


def operations(owner: str) -> dict[tuple[str, str], tuple[str, str, Any]]:
    """Every guarded operation, aimed at what is an owner's.

    By its place in the document, method, path and body.
    """
    pool = f"{owner}-pool"
    run = f"{owner}-2" if owner == "alice" else f"{owner}-1"
    predict = {"run": run, "vectors": [[1.0, 2.0, 3.0]]}
    return {
        ("GET", "/pools/p"): ("GET", f"/pools/{pool}", None),
        ("POST", "/pools"): ("POST", "/pools", {"name": f"{owner}-new", "embedding": EMBEDDING}),
        ("POST", "/pools/p/prompts"): (
            "POST",
            f"/pools/{pool}/prompts",
            {"vectors": [[9.0, 9.0, 1.0]]},
        ),
        ("GET", "/runs/r"): ("GET", f"/runs/{run}", None),
        ("POST", "/runs"): ("POST", "/runs", {"name": f"{owner}-3", "pool": pool}),
        ("PATCH", "/runs/r"): ("PATCH", f"/runs/{run}", {"rollouts_per_prompt": 6}),
        ("POST", "/runs/r/subsets"): ("POST", f"/runs/{run}/subsets", {"keys": ["k0"]}),
        ("GET", "/runs/r/metrics"): ("GET", f"/runs/{run}/metrics", None),
        ("POST", "/select_batch"): ("POST", "/select_batch", {"run": run, "batch_size": 2}),
        ("POST", "/outcomes"): (
            "POST",
            "/outcomes",
            {"run": run, "prompt": ["nobody"], "successes": [1], "trials": [2]},
        ),
        ("POST", "/predict_difficulty"): ("POST", "/predict_difficulty", predict),
        ("POST", "/allocate_budget"): ("POST", "/allocate_budget", predict | {"total": 8}),
        ("POST", "/runs/r/snapshots"): ("POST", f"/runs/{run}/snapshots", {"tag": "here"}),
        ("GET", "/runs/r/snapshots"): ("GET", f"/runs/{run}/snapshots", None),
        ("POST", "/runs/r/restore"): ("POST", f"/runs/{run}/restore", {"tag": "here"}),
        ("GET", "/runs/r/events"): ("GET", f"/runs/{run}/events", None),
        ("GET", "/pools/p/events"): ("GET", f"/pools/{pool}/events", None),
        ("POST", "/pools/p/archive"): ("POST", f"/pools/{pool}/archive", None),
        ("POST", "/pools/p/open"): ("POST", f"/pools/{pool}/open", None),
        ("DELETE", "/pools/p"): ("DELETE", f"/pools/{owner}-new?dry_run=true", None),
        ("POST", "/runs/r/archive"): ("POST", f"/runs/{run}/archive", None),
        ("POST", "/runs/r/open"): ("POST", f"/runs/{run}/open", None),
        ("DELETE", "/runs/r"): ("DELETE", f"/runs/{run}?dry_run=true", None),
    }


LISTS = {("GET", "/pools"), ("GET", "/runs"), ("GET", "/metrics"), ("GET", "/events")}


def send(client: TestClient, operation: tuple[str, str, Any]) -> Any:
    method, path, body = operation
    return client.request(method, path, **({} if body is None else {"json": body}))


def footprint(clients: dict[str, TestClient]) -> Any:
    return [clients["admin"].get(path).json() for path in ("/pools", "/runs")]


def test_every_guarded_operation_is_tried_here() -> None:
    assert operations("bob").keys() | LISTS == set(GUARDED)


@pytest.mark.parametrize("operation", operations("bob"), ids=" ".join)
@pytest.mark.parametrize("key", ["alice", "alices-reader"])
def test_what_is_anothers_is_out_of_reach(
    clients: dict[str, TestClient], key: str, operation: tuple[str, str]
) -> None:
    before = footprint(clients)
    refused(send(clients[key], operations("bob")[operation]), *FORBIDDEN)
    assert footprint(clients) == before


@pytest.mark.parametrize("operation", operations("bob"), ids=" ".join)
def test_whether_it_exists_is_not_told(
    clients: dict[str, TestClient], operation: tuple[str, str]
) -> None:
    there, absent = (
        send(clients["alice"], operations(owner)[operation]) for owner in ("bob", "nob")
    )
    assert there.status_code == absent.status_code == 403
    told = there.json() | {"request_id": None}
    assert {name: str(value).replace("bob", "nob") for name, value in told.items()} == {
        name: str(value) for name, value in (absent.json() | {"request_id": None}).items()
    }


@pytest.mark.parametrize("owner", ["alice", "bob"])
@pytest.mark.parametrize("key", ["reader", "alices-reader"])
def test_a_key_for_reading_reads_and_changes_nothing(
    clients: dict[str, TestClient], key: str, owner: str
) -> None:
    before = footprint(clients)
    for operation, sent in operations(owner).items():
        answer = send(clients[key], sent)
        reads = operation[0] == "GET" or operation in READING
        if reads and (key == "reader" or owner == "alice"):
            assert answer.status_code == 200, answer.text
        else:
            refused(answer, *FORBIDDEN)
    assert footprint(clients) == before


@pytest.mark.parametrize("key", ["admin", "alice"])
def test_an_owner_does_everything(clients: dict[str, TestClient], key: str) -> None:
    for operation, sent in operations("alice").items():
        answer = send(clients[key], sent)
        if operation == ("POST", "/outcomes"):
            refused(answer, 404, "not-found", "prompt", 0)
        else:
            assert answer.status_code in (200, 201), answer.text


def test_lists_show_what_is_in_reach(clients: dict[str, TestClient]) -> None:
    def names(key: str, path: str) -> set[str]:
        return {each["name"] for each in clients[key].get(f"/{path}").json()[path]}

    assert {"bob-1", "alice-1", "both"} <= names("admin", "runs") == names("reader", "runs")
    assert {"shared", "alice-pool", "bob-pool"} <= names("reader", "pools")
    for key in ("alice", "alices-reader"):
        assert names(key, "runs") == {
            n for n in names("admin", "runs") if n.startswith("alice-")
        } | ({"both"} if key == "alice" else set())
        assert names(key, "pools") == {
            n for n in names("admin", "pools") if n.startswith("alice-")
        } | {"shared"}


def test_events_show_what_is_ones_own_page_by_page(clients: dict[str, TestClient]) -> None:
    def told(key: str, limit: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        asked = {"limit": limit}
        while True:
            page = clients[key].get("/events", params=asked).json()
            assert len(page["events"]) <= limit
            found += page["events"]
            if page["next"] is None:
                return found
            asked["before"] = page["next"]

    every = told("admin", 200)
    assert {"bob-1", "both"} <= {event["run"] for event in every}
    assert "key-added" in {event["action"] for event in every}
    for key, own in (("alice", ("alice-", "both")), ("alices-reader", ("alice-",))):
        mine = [event for event in every if str(event["run"] or event["pool"]).startswith(own)]
        assert [told(key, limit) for limit in (1, 3, 200)] == [mine] * 3
    refused(clients["alice"].get("/pools/bob-pool/events"), *FORBIDDEN)
    # a run of her own draws from it
    assert clients["alice"].get("/pools/shared/events").status_code == 200


def test_runs_of_others_that_stand_in_the_way_are_counted_and_not_named(
    clients: dict[str, TestClient],
) -> None:
    admin = clients["admin"]
    alice = clients["alice"]
    assert (
        admin.post("/pools", json={"name": "alice-crowd", "embedding": EMBEDDING}).status_code
        == 201
    )
    assert admin.post("/pools/alice-crowd/prompts", json={"vectors": vectors()}).status_code == 200
    for run in ("alice-c", "bob-c", "bob-d"):
        assert admin.post("/runs", json={"name": run, "pool": "alice-crowd"}).status_code == 201
    for client, names in ((admin, {"alice-c", "bob-c", "bob-d"}), (alice, {"alice-c"})):
        problem = refused(client.delete("/pools/alice-crowd"), 409, "conflict", "run", 0)
        assert len(problem["errors"]) == len(names)
        assert {name for name in ("alice-c", "bob-c", "bob-d") if name in str(problem)} == names
    assert "2 that this API key does not own" in problem["detail"]


def test_a_pool_of_others_is_seen_through_a_run_of_ones_own_and_not_changed(
    clients: dict[str, TestClient],
) -> None:
    alice = clients["alice"]
    assert alice.get("/pools/shared").status_code == 200
    refused(alice.post("/pools/shared/prompts", json={"vectors": [[7.0, 1.0, 1.0]]}), *FORBIDDEN)
    refused(alice.post("/pools", json={"name": "shared", "embedding": EMBEDDING}), *FORBIDDEN)
    assert (
        alice.post("/runs", json={"name": "alice-over-shared", "pool": "shared"}).status_code == 201
    )


@pytest.mark.parametrize(
    "change",
    [
        {"pool": "bob-pool"},
        {"pool": None, "pools": [{"pool": "shared"}, {"pool": "bob-pool"}]},
        {"warm_start_from": "bob-1"},
        {"name": "bob-9"},
    ],
    ids=["pool", "pools", "warm start", "name"],
)
def test_a_new_run_is_made_of_what_is_in_reach(
    clients: dict[str, TestClient], change: dict[str, Any]
) -> None:
    body = {"name": "alice-9", "pool": "shared"} | change
    refused(clients["alice"].post("/runs", json=body), *FORBIDDEN)
    assert clients["admin"].get("/runs/alice-9").status_code == 404


def test_a_limited_key_cannot_even_send_the_body_of_an_import(
    clients: dict[str, TestClient],
) -> None:
    headers = {"content-type": "application/jsonl"}
    for key in ("alice", "reader"):
        answer = clients[key].post(
            "/pools/bob-pool/prompts", content=b"not even JSON", headers=headers
        )
        refused(answer, *FORBIDDEN)


def test_prometheus_shows_every_run_and_so_is_for_keys_without_patterns(
    clients: dict[str, TestClient],
) -> None:
    assert clients["reader"].get("/metrics").status_code == 200
    for key in ("alice", "alices-reader"):
        refused(clients[key].get("/metrics"), *FORBIDDEN)


def test_an_endpoint_that_does_not_ask_who_calls_is_closed_to_limited_keys(
    clients: dict[str, TestClient],
) -> None:
    assert [client.get("/late").status_code for client in clients.values()] == [200, 403, 200, 403]
    assert [client.post("/late").status_code for client in clients.values()] == [200, 403, 403, 403]
    assert [client.post("/asking").json() for client in clients.values()] == list(KEYS)

"""Runs and pools put away and deleted over HTTP, and the events that tell of it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.api.conftest import World, make_world, new_name, refused, vectors


def test_an_archived_run_is_a_409_of_its_own_kind_until_it_is_opened(world: World) -> None:
    http = world.http
    run = world.run
    assert http.post(f"/runs/{run}/archive").json()["state"] == "archived"
    asked: list[tuple[str, str, Any]] = [
        ("POST", "/select_batch", {"run": run, "batch_size": 1}),
        ("POST", "/outcomes", world.outcomes()),
        ("PATCH", f"/runs/{run}", {"rollouts_per_prompt": 3}),
        ("POST", f"/runs/{run}/snapshots", {"tag": "here"}),
        ("POST", "/runs", {"name": run, "pool": world.pool, "rollouts_per_prompt": 4}),
    ]
    for method, path, body in asked:
        problem = refused(http.request(method, path, json=body), 409, "run-not-open")
        assert "archived since 20" in problem["detail"]
        assert f"POST /runs/{run}/open" in problem["detail"]
    assert (
        http.post("/predict_difficulty", json={"run": run, "keys": world.keys}).status_code == 200
    )
    assert http.get(f"/runs/{run}/metrics").status_code == 200
    assert {each["name"]: each["state"] for each in http.get("/runs").json()["runs"]}[
        run
    ] == "archived"
    assert http.post(f"/runs/{run}/open").json()["state"] == "open"
    assert http.post("/outcomes", json=world.outcomes()).json()["stored"] == 4


def test_an_archived_pool_is_a_409_of_its_own_kind_until_it_is_opened(world: World) -> None:
    http = world.http
    pool = world.pool
    assert http.post(f"/pools/{pool}/archive").json()["state"] == "archived"
    add: dict[str, Any] = {"json": {"vectors": [[5.0, 5.0, 9.0]]}}
    refused(http.post(f"/pools/{pool}/prompts", **add), 409, "pool-not-open")
    refused(http.post("/runs", json={"name": new_name(), "pool": pool}), 409, "pool-not-open")
    assert http.post("/select_batch", json={"run": world.run, "batch_size": 1}).status_code == 200
    assert http.get(f"/pools/{pool}").json()["state"] == "archived"
    assert http.post(f"/pools/{pool}/open").json()["state"] == "open"
    assert http.post(f"/pools/{pool}/prompts", **add).status_code == 200


def test_a_run_is_deleted_for_good_and_a_dry_run_only_says_what_would_go(world: World) -> None:
    http = world.http
    run = world.run
    http.post("/outcomes", json=world.outcomes())
    would = http.delete(f"/runs/{run}", params={"dry_run": True})
    assert would.status_code == 200
    assert would.json() | {"model_versions": 0} == {
        "name": run,
        "dry_run": True,
        "prompts": 0,
        "selections": 1,
        "draws": 4,
        "outcomes": 4,
        "model_versions": 0,
        "snapshots": 0,
    }
    assert http.get(f"/runs/{run}").status_code == 200
    assert http.delete(f"/runs/{run}").json()["dry_run"] is False
    late = http.post("/outcomes", json=world.outcomes())
    for answer in (late, http.get(f"/runs/{run}"), http.delete(f"/runs/{run}")):
        assert "it was deleted at 20" in refused(answer, 404, "not-found")["detail"]
    assert http.post("/runs", json={"name": run, "pool": world.pool}).status_code == 201
    late = http.post("/outcomes", json=world.outcomes())
    assert (
        "4 of 4 draw ids are not of this run"
        in refused(late, 404, "not-found", "draw_id", 0)["detail"]
    )


def test_a_pool_goes_after_its_runs(world: World) -> None:
    http = world.http
    problem = refused(http.delete(f"/pools/{world.pool}"), 409, "conflict", "run", 0)
    assert repr(world.run) in problem["detail"]
    assert http.delete(f"/runs/{world.run}").status_code == 200
    assert http.delete(f"/pools/{world.pool}").json()["prompts"] == 12
    refused(http.get(f"/pools/{world.pool}"), 404, "not-found")


def test_a_run_that_another_started_from_stays(http: TestClient) -> None:
    world = make_world(http)
    second = new_name()
    assert http.post("/outcomes", json=world.outcomes()).status_code == 200
    deadline = time.monotonic() + 30
    while http.get(f"/runs/{world.run}").json()["model_version"] == 0:
        http.post("/select_batch", json={"run": world.run, "batch_size": 1, "wait_seconds": 1})
        assert time.monotonic() < deadline
    started = {"name": second, "pool": world.pool, "warm_start_from": world.run}
    assert http.post("/runs", json=started).status_code == 201
    for dry_run in (True, False):
        answer = http.delete(f"/runs/{world.run}", params={"dry_run": dry_run})
        assert repr(second) in refused(answer, 409, "conflict", "run", 0)["detail"]
    for run in (second, world.run):
        assert http.delete(f"/runs/{run}").status_code == 200


def test_events_tell_what_was_done_page_by_page(world: World) -> None:
    http = world.http
    run = world.run
    http.patch(f"/runs/{run}", json={"rollouts_per_prompt": 5})
    http.post(f"/runs/{run}/archive")
    http.delete(f"/runs/{run}")
    page = http.get(f"/runs/{run}/events", params={"limit": 3}).json()
    assert [event["action"] for event in page["events"]] == [
        "run-deleted",
        "run-archived",
        "run-changed",
    ]
    assert page["events"][2]["detail"] == {"rollouts_per_prompt": "4 → 5"}
    rest = http.get(f"/runs/{run}/events", params={"before": page["next"]}).json()
    assert ([event["action"] for event in rest["events"]], rest["next"]) == (["run-created"], None)
    of_pool = http.get(f"/pools/{world.pool}/events").json()["events"]
    assert [event["action"] for event in of_pool] == ["prompts-added", "pool-created"]
    assert of_pool[0]["detail"]["added"] == 12
    newest = http.get("/events", params={"limit": 1}).json()
    assert newest["events"][0] == page["events"][0]
    assert newest["next"] == newest["events"][0]["id"]
    refused(http.get("/runs/nobody/events"), 404, "not-found")
    refused(http.get("/pools/nobody/events"), 404, "not-found")


@pytest.mark.parametrize(
    "asked", [{"limit": 0}, {"limit": 201}, {"before": 0}, {"before": "x"}, {"limit": 2**70}]
)
def test_a_page_of_events_is_bounded(http: TestClient, asked: dict[str, Any]) -> None:
    refused(http.get("/events", params=asked), 422, "invalid-request", next(iter(asked)))


def test_a_name_that_was_deleted_is_free_for_another_pool(world: World) -> None:
    http = world.http
    http.delete(f"/runs/{world.run}")
    http.delete(f"/pools/{world.pool}")
    other = {"name": world.pool, "embedding": {"kind": "given", "dimension": 2}}
    assert http.post("/pools", json=other).status_code == 201
    two = [row[:2] for row in vectors(4)]
    assert http.post(f"/pools/{world.pool}/prompts", json={"vectors": two}).json()["total"] == 4
    assert http.post("/runs", json={"name": world.run, "pool": world.pool}).json()["prompts"] == 4
    drawn = http.post("/select_batch", json={"run": world.run, "batch_size": 4}).json()["draws"][
        "draw_id"
    ]
    assert not set(drawn) & set(world.draws)

"""Snapshots and restores over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import World, refused


def ask(world: World, what: str, body: dict[str, Any], **headers: str) -> Any:
    return world.http.post(f"/runs/{world.run}/{what}", json=body, headers=headers)


def test_a_snapshot_is_made_once_and_listed(world: World) -> None:
    made, again = (ask(world, "snapshots", {"tag": "step-1"}) for _ in range(2))
    assert (made.status_code, again.status_code) == (201, 200)
    assert made.json() == again.json()
    assert (made.json()["draws"], made.json()["selections"], made.json()["log_position"]) == (
        4,
        1,
        0,
    )
    listed = world.http.get(f"/runs/{world.run}/snapshots").json()
    assert listed == {"run": world.run, "epoch": 0, "snapshots": [made.json()], "restores": []}


def test_what_a_restore_supersedes_is_counted_in_every_answer(world: World) -> None:
    ask(world, "snapshots", {"tag": "start"})
    late = world.http.post(
        "/select_batch", json={"run": world.run, "sequence": 1, "batch_size": 4}
    ).json()
    restored = ask(world, "restore", {"tag": "start"}).json()
    assert restored["superseded"] == {"selections": 1, "draws": 4, "outcomes": 0, "snapshots": 0}
    assert world.http.get(f"/runs/{world.run}").json()["epoch"] == restored["epoch"] == 1
    answer = world.http.post(
        "/outcomes", json=world.outcomes(draw_id=late["draws"]["draw_id"])
    ).json()
    assert (answer["stored"], answer["superseded"]) == (0, 4)
    answer = world.http.post("/outcomes", json=world.outcomes()).json()
    assert (answer["stored"], answer["superseded"]) == (4, 0)


def test_a_key_is_of_one_restore(world: World) -> None:
    ask(world, "snapshots", {"tag": "start"})
    world.http.post("/outcomes", json=world.outcomes())
    key = {"Idempotency-Key": f"restart-of-{world.run}"}
    first = ask(world, "restore", {"tag": "start"}, **key)
    world.http.post("/outcomes", json=world.outcomes())
    assert ask(world, "restore", {"tag": "start"}, **key).json() == first.json()
    assert world.http.get(f"/runs/{world.run}").json()["log_position"] == 4
    refused(ask(world, "restore", {"tag": "other"}, **key), 409, "conflict", "Idempotency-Key")


@pytest.mark.parametrize("tag", ["", "a b", "ä", "x" * 129, 7, None])
@pytest.mark.parametrize("what", ["snapshots", "restore"])
def test_a_tag_that_cannot_be_is_refused(world: World, what: str, tag: object) -> None:
    refused(ask(world, what, {"tag": tag}), 422, "invalid-request", "tag")


def test_what_is_not_there_is_a_404(world: World) -> None:
    refused(ask(world, "restore", {"tag": "never"}), 404, "not-found")
    for method, what in (("POST", "snapshots"), ("GET", "snapshots"), ("POST", "restore")):
        body = {"json": {"tag": "a"}} if method == "POST" else {}
        refused(world.http.request(method, f"/runs/nobody/{what}", **body), 404, "not-found")

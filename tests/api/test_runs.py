"""Runs, selections and outcomes, asked for rightly: what is repeated, changed and re-sent."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import World, make_world, refused


def test_the_same_run_again_is_the_same_and_another_of_its_name_is_a_409(world: World) -> None:
    body = {"name": world.run, "pool": world.pool, "rollouts_per_prompt": 4}
    again = world.http.post("/runs", json=body)
    assert again.status_code == 200
    assert again.json() == world.http.get(f"/runs/{world.run}").json()
    for change, field in (
        ({"seed": 9}, "seed"),
        ({"selection": {"strategy": "uniform"}}, "selection.strategy"),
    ):
        refused(world.http.post("/runs", json=body | change), 409, "conflict", field)


def test_a_run_spells_out_every_setting(world: World) -> None:
    run = world.http.get(f"/runs/{world.run}").json()
    settings = run["selection"]
    assert (settings["strategy"], settings["predictor"], settings["utility"]) == (
        "promptgps",
        "hierarchical",
        "mixed",
    )
    free = {"retire_above", "domain_quotas"}
    assert {name for name, value in settings.items() if value is None} <= free
    assert (run["draws"], run["selections"], run["log_position"], run["prompts"]) == (4, 1, 0, 12)


def test_a_change_of_settings_keeps_the_others(world: World) -> None:
    before = world.http.get(f"/runs/{world.run}").json()
    changed = world.http.patch(
        f"/runs/{world.run}", json={"selection": {"target": 0.7}, "rollouts_per_prompt": 6}
    )
    assert changed.status_code == 200
    assert changed.json()["selection"] == before["selection"] | {"target": 0.7}
    assert changed.json()["rollouts_per_prompt"] == 6
    assert world.http.patch(f"/runs/{world.run}", json={}).json() == changed.json()


def test_a_selection_is_replayed_whatever_shape_the_answer_is_asked_in(world: World) -> None:
    asked = {"run": world.run, "sequence": 0, "batch_size": 4}
    answers = [
        world.http.post("/select_batch", json=asked | shape).json()
        for shape in ({}, {"wait_seconds": 1.0}, {"include_text": True})
    ]
    assert all(answer["replayed"] for answer in answers)
    assert answers[0] == answers[1]
    assert answers[2]["draws"].pop("text") == [None] * 4
    answers[0]["draws"].pop("text")
    assert answers[2] == answers[0]
    assert answers[0]["draws"]["draw_id"] == world.draws
    refused(
        world.http.post("/select_batch", json=asked | {"exclude": ["k0"]}),
        409,
        "conflict",
        "sequence",
    )


def test_a_request_without_a_sequence_is_numbered(world: World) -> None:
    numbers = [
        world.http.post("/select_batch", json={"run": world.run, "batch_size": 1}).json()[
            "sequence"
        ]
        for _ in range(3)
    ]
    assert numbers == [1, 2, 3]


def test_a_batch_of_the_whole_pool_is_given_though_draws_are_pending(world: World) -> None:
    batch = world.http.post("/select_batch", json={"run": world.run, "batch_size": 12}).json()
    assert sorted(batch["draws"]["prompt"]) == sorted(world.keys)


@pytest.mark.parametrize(
    ("candidates", "exclude", "expected"),
    [
        (["k3", "k7"], None, {"k3", "k7"}),
        (["k1", "k2", "k3"], ["k2"], {"k1", "k3"}),
        (["k5", "k5"], [], {"k5"}),
    ],
)
def test_only_candidates_less_exclusions_are_drawn(
    world: World, candidates: list[str], exclude: list[str] | None, expected: set[str]
) -> None:
    body = {
        "run": world.run,
        "batch_size": len(expected),
        "candidates": candidates,
        "exclude": exclude,
    }
    assert set(world.http.post("/select_batch", json=body).json()["draws"]["prompt"]) == expected


def send(world: World, report: dict[str, Any], **headers: str) -> Any:
    answer = world.http.post("/outcomes", json=report, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def receipt(
    stored: int, duplicates: int, conflicts: list[int], log_position: int
) -> dict[str, Any]:
    return {
        "stored": stored,
        "duplicates": duplicates,
        "conflicts": conflicts,
        "superseded": 0,
        "log_position": log_position,
        "warnings": [],
    }


def test_a_report_sent_again_is_free_and_a_contradiction_changes_nothing(world: World) -> None:
    assert send(world, world.outcomes()) == receipt(4, 0, [], 4)
    assert send(world, world.outcomes()) == receipt(0, 4, [], 4)
    other = world.outcomes(successes=[1, 3, 0, 4])
    assert send(world, other) == receipt(0, 3, [1], 4)


def test_rollouts_come_one_by_one_in_any_order_and_twice(world: World) -> None:
    draw = world.draws[0]
    statuses = ["error", "ok", "truncated", "cancelled"]
    rewards = [None, 1.0, 0.0, None]
    for index in (2, 0, 3, 1):
        report = {
            "run": world.run,
            "draw_id": [draw],
            "rollout_index": [index],
            "reward": [rewards[index]],
            "status": [statuses[index]],
        }
        assert send(world, report)["stored"] == 1
        assert send(world, report)["duplicates"] == 1
    group = world.outcomes(draw_id=[draw], successes=[1], trials=[2])
    assert send(world, group)["duplicates"] == 1, "the group is what the rollouts have come to"
    more = world.outcomes(draw_id=[draw], successes=[3], trials=[4])
    assert send(world, more)["stored"] == 1, "rollouts that said nothing give way to the group"
    fewer = world.outcomes(draw_id=[draw], successes=[0], trials=[4])
    assert send(world, fewer)["conflicts"] == [0]


def test_a_row_that_is_twice_in_one_report_counts_once(world: World) -> None:
    draws = [world.draws[0], world.draws[0], world.draws[1], world.draws[1]]
    report = world.outcomes(draw_id=draws, successes=[1, 1, 2, 3])
    assert send(world, report) == receipt(2, 1, [3], 2)


def test_outcomes_by_prompt_go_by_their_idempotency_key(world: World) -> None:
    report = world.outcomes(draw_id=None, prompt=["k0", "k1", "k0", "k3"])
    key = {"Idempotency-Key": "step-7"}
    assert send(world, report, **key)["log_position"] == 4
    assert send(world, report, **key) == receipt(0, 4, [], 4)
    assert send(world, report)["log_position"] == 8, "without a key every report counts"
    other = world.http.post("/outcomes", json=report | {"successes": [0, 0, 0, 0]}, headers=key)
    refused(other, 409, "conflict", "Idempotency-Key")


@pytest.mark.parametrize("key", ["", "a b", "x" * 129])
def test_an_idempotency_key_that_cannot_be_one_is_refused(world: World, key: str) -> None:
    answer = world.http.post("/outcomes", json=world.outcomes(), headers={"Idempotency-Key": key})
    refused(answer, 422, "invalid-request", "Idempotency-Key")


@pytest.mark.parametrize(
    ("reward", "values", "successes"),
    [
        ({"kind": "threshold", "threshold": 0.5}, [0.49, 0.5, -3.0, 1e300], 2),
        ({"kind": "affine", "low": -1.0, "high": 1.0}, [-1e300, 0.0, 1.0, 7.0], 2.5),
        ({"kind": "binary"}, [0, 1, 1.0, 0.0], 2),
    ],
)
def test_rewards_become_successes_as_the_run_says(
    world: World, reward: dict[str, Any], values: list[float], successes: float
) -> None:
    run = f"{world.run}-rewards"
    body = {"name": run, "pool": world.pool, "rollouts_per_prompt": 4, "reward": reward}
    assert world.http.post("/runs", json=body).status_code == 201
    draw = world.http.post("/select_batch", json={"run": run, "batch_size": 1}).json()["draws"][
        "draw_id"
    ]
    send(world, {"run": run, "draw_id": draw * 4, "rollout_index": [0, 1, 2, 3], "reward": values})
    learned = {"run": run, "batch_size": 1, "wait_seconds": 30}
    assert world.http.post("/select_batch", json=learned).json()["trained_through"] == 4
    series = world.http.get(f"/runs/{run}/metrics").json()["series"]
    assert series["success_rate"] == [pytest.approx(successes / 4)]


def test_several_pools_serve_one_run_by_quota(world: World) -> None:
    other = make_world(world.http)
    shares = [{"pool": world.pool, "quota": 0.25}, {"pool": other.pool, "quota": 0.75}]
    run = {"name": f"{world.run}-two", "pools": shares}
    answer = world.http.post("/runs", json=run)
    assert answer.status_code == 201, answer.text
    assert answer.json()["prompts"] == 24
    for changed, row in (
        ([{"pool": world.pool, "quota": 0.5}, {"pool": other.pool, "quota": 0.75}], None),
        (
            [{"pool": world.pool, "quota": 0.5}, {"pool": other.pool, "quota": 0.5, "weight": 1.0}],
            1,
        ),
        ([{"pool": world.pool}, {"pool": world.pool}], None),
    ):
        body = {"name": f"{world.run}-three", "pools": changed}
        refused(world.http.post("/runs", json=body), 422, "invalid-request", "pools", row)
    refused(world.http.get(f"/runs/{world.run}-three"), 404, "not-found")


# ---- what is not taken is named in full, row by row --------------------------------------------


def test_every_wrong_row_of_a_report_is_named_up_to_twenty_and_their_number(world: World) -> None:
    draw = world.draws[0]
    few = {
        "run": world.run,
        "draw_id": [draw] * 4,
        "rollout_index": [0, 1, 2, 3],
        "reward": [1, 0.1 + 0.2, 0, 2],
    }
    problem = refused(world.http.post("/outcomes", json=few), 422, "invalid-request", "reward", 1)
    assert [(fault["field"], fault["row"]) for fault in problem["errors"]] == [
        ("reward", 1),
        ("reward", 3),
    ]
    assert "0.30000000000000004" in problem["errors"][0]["detail"]
    many = {
        "run": world.run,
        "draw_id": [draw] * 50,
        "rollout_index": [0] * 50,
        "reward": [0.5] * 50,
    }
    problem = refused(world.http.post("/outcomes", json=many), 422, "invalid-request", "reward", 0)
    assert [fault["row"] for fault in problem["errors"]] == list(range(20))
    assert "50 of 50 rows" in problem["detail"]


@pytest.mark.parametrize(
    ("change", "field", "rows"),
    [
        ({"successes": [5, 2, 6.5, 4]}, "successes", [0, 2]),
        ({"successes": [0.5, 2, 0, 0.75]}, "successes", [0, 3]),
        ({"trials": [8.0, 4, 4, 4.5]}, "trials", [0, 3]),
        ({"draw_id": ["d0-0", None, "d0-1", None]}, "draw_id", [0, 2]),
        (
            {
                "successes": None,
                "trials": None,
                "rollout_index": [0, 0, 0, 0],
                "reward": [None, 1, None, 0],
            },
            "reward",
            [0, 2],
        ),
        (
            {
                "successes": None,
                "trials": None,
                "rollout_index": [9, 0, 0, 7],
                "reward": [1, 1, 1, 0],
            },
            "rollout_index",
            [0, 3],
        ),
    ],
)
def test_every_kind_of_wrong_row_is_named(
    world: World, change: dict[str, Any], field: str, rows: list[int]
) -> None:
    if "draw_id" in change:
        filled = [new or old for new, old in zip(change["draw_id"], world.draws, strict=True)]
        change = change | {"draw_id": filled}
    answer = world.http.post("/outcomes", json=world.outcomes(**change))
    problem = refused(
        answer,
        answer.status_code,
        "not-found" if field == "draw_id" else "invalid-request",
        field,
        0,
    )
    assert [(fault["field"], fault["row"]) for fault in problem["errors"]] == [
        (field, row) for row in rows
    ]
    if field == "trials":
        assert "8.0" in problem["errors"][0]["detail"]
    assert world.http.get(f"/runs/{world.run}").json()["log_position"] == 0


def test_groups_come_as_floats_up_to_rounding(world: World) -> None:
    assert send(world, world.outcomes(successes=[1.0, 2.0000002, -1e-12, 4.000001]))["stored"] == 4
    assert send(world, world.outcomes(successes=[1, 2, 0, 4]))["duplicates"] == 4


def test_a_reward_is_patched_while_nothing_is_stored(world: World) -> None:
    asked = {"reward": {"kind": "affine", "low": -1.0, "high": 1.0}}
    changed = world.http.patch(f"/runs/{world.run}", json=asked)
    assert changed.json()["reward"] == {
        "kind": "affine",
        "low": -1.0,
        "high": 1.0,
        "threshold": None,
        "values": None,
    }
    rollouts = {
        "run": world.run,
        "draw_id": world.draws,
        "rollout_index": [0] * 4,
        "reward": [-1, 0.5, 3, 1],
    }
    (warning,) = send(world, rollouts)["warnings"]
    assert "3.0 in row 2" in warning
    other = world.http.patch(f"/runs/{world.run}", json={"reward": {"kind": "binary"}})
    problem = refused(other, 409, "conflict", "reward")
    assert "4 outcomes" in problem["detail"]
    wrong = world.http.patch(f"/runs/{world.run}", json={"reward": {"values": [0, 3]}})
    refused(wrong, 422, "invalid-request", "reward.values")


def test_rewards_of_minus_one_and_one_are_understood_and_the_run_says_so(world: World) -> None:
    rollouts = {
        "run": world.run,
        "draw_id": world.draws,
        "rollout_index": [0] * 4,
        "reward": [1, 1, -1, 1],
    }
    assert world.http.get(f"/runs/{world.run}").json()["reward"]["values"] is None
    assert send(world, rollouts)["stored"] == 4
    assert world.http.get(f"/runs/{world.run}").json()["reward"]["values"] == [-1.0, 1.0]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("since=-1", "since"),
        ("since=x", "since"),
        ("every=0", "every"),
        ("series=nothing_of_this_name", "series"),
        (f"series={'a' * 9000}", "series"),
    ],
)
def test_metrics_that_cannot_be_are_refused(world: World, query: str, field: str) -> None:
    send(world, world.outcomes())
    learned = {"run": world.run, "batch_size": 1, "wait_seconds": 30}
    assert world.http.post("/select_batch", json=learned).json()["trained_through"] == 4
    refused(world.http.get(f"/runs/{world.run}/metrics?{query}"), 422, "invalid-request", field)
    found = world.http.get(f"/runs/{world.run}/metrics?since=1&every=2&series=success_rate").json()
    assert found["series"] == {
        "model_version": [1.0],
        "trained_through": [4.0],
        "success_rate": [7 / 16],
    }
    assert found["next"] is None


def test_a_batch_asked_for_with_another_policy_version_is_the_same_with_a_warning(
    world: World,
) -> None:
    asked = {"run": world.run, "sequence": 0, "batch_size": 4}
    answer = world.http.post("/select_batch", json=asked | {"policy_version": 2}).json()
    assert answer["replayed"]
    assert answer["draws"]["draw_id"] == world.draws
    assert "no policy_version, not 2" in answer["warnings"][-1]
    other = refused(
        world.http.post("/select_batch", json=asked | {"batch_size": 5}),
        409,
        "conflict",
        "sequence",
    )
    assert [fault["field"] for fault in other["errors"]] == ["sequence", "batch_size"]

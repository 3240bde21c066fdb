"""POST /allocate_budget through the whole application."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from promptgps_client.wire import MAX_PREDICTIONS
from starlette.testclient import TestClient

from tests.api.conftest import World, make_world, new_name

OBJECTIVES = ("best_of_n", "majority_vote", "average")


@pytest.fixture(scope="module")
def world(http: TestClient) -> World:
    """A run that has learned: the first half of its keys is easy, the other hard."""
    world = make_world(http)
    groups = {
        "run": world.run,
        "prompt": world.keys * 2,
        "successes": [8 if row < 6 else 0 for row in range(12)] * 2,
        "trials": [8] * 24,
    }
    assert http.post("/outcomes", json=groups).status_code == 200
    batch = {"run": world.run, "batch_size": 1, "wait_seconds": 60}
    assert http.post("/select_batch", json=batch).json()["trained_through"] > 0
    return world


def asked(world: World, **fields: Any) -> dict[str, Any]:
    body = {"run": world.run, "keys": world.keys, "total": 48} | fields
    given = {name: value for name, value in body.items() if value is not None}
    answer = world.http.post("/allocate_budget", json=given)
    assert answer.status_code == 200, answer.text
    budget: dict[str, Any] = answer.json()
    return budget


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    "bounds", [{}, {"minimum": 2, "maximum": 5}, {"minimum": 4}, {"maximum": 4}]
)
def test_the_total_is_spent_and_the_bounds_are_kept(
    world: World, objective: str, bounds: dict[str, int]
) -> None:
    budget = asked(world, objective=objective, **bounds)
    samples = budget["samples"]
    assert (len(samples), sum(samples)) == (12, 48)
    assert bounds.get("minimum", 0) <= min(samples) <= max(samples) <= bounds.get("maximum", 4096)
    assert 0 <= budget["expected_value_uniform"] <= 1
    assert budget["expected_value"] >= budget["expected_value_uniform"] - 0.02
    assert budget["model_version"] > 0


def test_what_is_likely_solved_by_one_sample_gets_fewer_than_what_is_hard(world: World) -> None:
    samples = asked(world)["samples"]
    assert max(samples[:6]) < min(samples[6:])


def test_a_vote_spends_least_on_what_is_settled(world: World) -> None:
    known = {"keys": world.keys, "successes": [8] * 4 + [5] * 4 + [0] * 4, "trials": [8] * 12}
    so_far = {"successes": known["successes"], "trials": known["trials"]}
    samples = asked(world, objective="majority_vote", outcomes_so_far=so_far)["samples"]
    assert min(samples[4:8]) > max(samples[:4] + samples[8:])


def test_mean_is_total_by_another_name(world: World) -> None:
    assert asked(world, total=None, mean=4) == asked(world)
    assert sum(asked(world, total=None, mean=0.3)["samples"]) == 4
    assert asked(world, total=0)["samples"] == [0] * 12


def test_rounds_leave_solved_prompts_alone_and_outcomes_move_the_rest(world: World) -> None:
    so_far = {"successes": [1, *[0] * 11], "trials": [1, *[0] * 10, 40]}
    before = asked(world)
    after = asked(world, outcomes_so_far=so_far)
    assert after["samples"][0] == 0
    assert after["samples"][11] < before["samples"][11]
    assert after["expected_value"] > 1 / 12
    done = asked(world, outcomes_so_far={"successes": [1] * 12, "trials": [2] * 12})
    assert (done["expected_value"], done["next_gain"]) == (1.0, 0.0)
    assert sum(done["samples"]) == 48


def test_calibration_that_contradicts_the_predictions_levels_the_shares(world: World) -> None:
    """The easy ones are said to fail and the hard ones to succeed, by 64 samples each."""
    calibration = {"keys": world.keys * 10, "successes": [30] * 120, "trials": [64] * 120}
    before, after = (
        np.ptp(asked(world, calibration=given)["samples"]) for given in (None, calibration)
    )
    assert after < before


def test_wrong_answers_tell_how_far_a_vote_may_be_trusted(world: World) -> None:
    """Where wrong samples never agree a vote can be won by few right ones, and is worth more."""
    calibration = {"keys": world.keys, "successes": [4] * 12, "trials": [12] * 12}
    apart, together = (
        asked(
            world,
            objective="majority_vote",
            calibration={**calibration, "wrong_answers": [counts] * 12},
        )
        for counts in ([1] * 8, [8])
    )
    assert apart["expected_value"] > together["expected_value"]
    assert asked(world, objective="majority_vote", calibration=calibration) == together


def test_vectors_of_new_prompts_past_the_size_of_one_prediction(roomy_http: TestClient) -> None:
    world = make_world(roomy_http)
    count = MAX_PREDICTIONS + 7
    angles = np.linspace(0.1, 1.4, count)
    vectors = np.stack([np.cos(angles), np.sin(angles), np.ones(count)], axis=1).tolist()
    budget = asked(world, keys=None, vectors=vectors, total=3 * count)
    assert (len(budget["samples"]), sum(budget["samples"])) == (count, 3 * count)


def test_texts_of_new_prompts(http: TestClient) -> None:
    name = new_name()
    assert http.post("/pools", json={"name": name}).status_code == 201
    assert (
        http.post(f"/pools/{name}/prompts", json={"texts": ["1 + 1?", "Prove it."]}).status_code
        == 200
    )
    assert http.post("/runs", json={"name": name, "pool": name}).status_code == 201
    body = {"run": name, "texts": ["2 + 2?", "What is 3 * 17?", "Why?"], "total": 9}
    answer = http.post("/allocate_budget", json=body).json()
    assert answer["samples"] == [3, 3, 3]  # nothing was learned yet: all alike
    assert answer["expected_value"] == pytest.approx(answer["expected_value_uniform"])

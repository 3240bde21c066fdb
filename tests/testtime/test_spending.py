"""The bench's own arithmetic.

What is solved, what an even share is, where a curve reaches an accuracy.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.testtime.bench import needed
from benchmarks.testtime.cases import Case
from benchmarks.testtime.spending import ARMS, Arm, in_rounds, solved, voted


def case(*right: int, recorded: int = 16) -> Case:
    none = np.zeros(len(right))
    return Case(none, none + 1.0, np.array(right), np.full(len(right), recorded), 0.0)


def test_solved_and_voted_are_the_means_of_drawing_without_replacement() -> None:
    made = case(0, 1, 5, 9, 16)
    samples = np.array([3, 4, 5, 2, 1])
    random = np.random.default_rng(0)
    drawn = random.hypergeometric(
        made.right, made.recorded - made.right, samples, size=(200_000, 5)
    )
    assert solved(made, samples) == pytest.approx((drawn > 0).mean(), abs=2e-3)
    votes = (2 * drawn > samples) + 0.5 * (2 * drawn == samples)
    assert voted(made, samples) == pytest.approx(votes.mean(), abs=2e-3)


def test_one_sample_a_prompt_is_one_sample_a_prompt_in_however_many_rounds() -> None:
    made = case(*[4] * 400)
    found = [
        in_rounds(made, Arm("equal", 4), 400, 16, np.random.default_rng(seed)) for seed in range(50)
    ]
    assert np.mean(found) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("arm", [name for name, arm in ARMS.items() if arm.rounds > 1])
def test_rounds_draw_no_more_than_was_recorded_and_solve_no_more_than_can_be(arm: str) -> None:
    made = case(0, 1, 3, 15, 16)
    assert in_rounds(made, ARMS[arm], 5 * 16, 16, np.random.default_rng(1)) <= 0.8


def test_a_budget_is_interpolated_and_absent_where_the_accuracy_is_out_of_reach() -> None:
    curve = np.array([0.2, 0.4, 0.5])
    means = (1.0, 2.0, 4.0)
    assert needed(curve, means, 0.45) == pytest.approx(3.0)
    assert math.isnan(needed(curve, means, 0.6))
    assert math.isnan(needed(curve, means, 0.1))

"""Value curves against enumeration, SciPy and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from promptgps_service.allocation.belief import GRID, masses
from promptgps_service.allocation.curves import (
    average,
    best_of_n,
    curves_of,
    majority_vote,
    rival_share,
)
from scipy import stats
from scipy.special import expit

P = expit(GRID)
SOME = [20, 40, 48, 52, 70]  # points of the grid


def plurality(p: float, rival: float, b: int) -> float:
    """By enumeration: each sample is right, the rival, or wrong in its own way; ties by lot."""
    chances = (p, rival * (1 - p), (1 - rival) * (1 - p))
    value = 0.0
    for kinds in itertools.product(range(3), repeat=b):
        counts = [kinds.count(0), kinds.count(1)] + [1] * kinds.count(2)
        winners = counts.count(max(counts))
        value += math.prod(chances[kind] for kind in kinds) * (counts[0] == max(counts)) / winners
    return value


@pytest.mark.parametrize("rival", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("point", SOME)
def test_a_vote_against_enumeration(rival: float, point: int) -> None:
    table = majority_vote(7, rival)
    assert table[point, 0] == 0
    assert table[point, 1:] == pytest.approx([plurality(P[point], rival, b) for b in range(1, 8)])


@pytest.mark.parametrize("b", [101, 2048, 8191])
def test_a_long_vote_between_two_answers_is_a_binomial(b: int) -> None:
    truth = stats.binom.sf(b / 2, b, P) + 0.5 * stats.binom.pmf(b / 2, b, P)
    assert majority_vote(b, 1.0)[:, b] == pytest.approx(truth, abs=1e-9)


def test_a_long_vote_with_a_rival_is_decided_by_which_is_likelier() -> None:
    table = majority_vote(4096, 0.25)
    assert (table[P > 0.3 * (1 - P), -1] > 0.99).all()
    assert (table[P < 0.2 * (1 - P), -1] < 0.01).all()
    assert ((table >= -1e-9) & (table <= 1 + 1e-9)).all()


def test_best_of_n_and_average_are_their_formulas() -> None:
    b = np.arange(1, 200)
    assert best_of_n(199)[:, 1:] == pytest.approx(1 - (1 - P[:, None]) ** b, abs=1e-12)
    assert average(199)[:, 1:] == pytest.approx(1 - (P * (1 - P))[:, None] / b)
    assert (best_of_n(1)[:, 0] == 0).all()
    assert (average(1)[:, 0] == 0).all()


def test_the_mean_of_b_samples_is_as_far_off_as_the_average_says() -> None:
    p = P[44]
    b = 6
    wins = np.arange(b + 1)
    error = stats.binom.pmf(wins, b, p) @ (wins / b - p) ** 2
    assert average(b)[44, b] == pytest.approx(1 - error)


def test_earlier_samples_count_for_the_vote_and_the_mean_and_a_solved_prompt_is_done() -> None:
    belief = masses(np.zeros(3), np.ones(3))
    successes = np.array([0, 1, 2])
    trials = np.array([3, 3, 5])
    rows = np.arange(3)
    mean = curves_of("average", belief, successes, trials, 1.0).values(rows, 0, 4)
    assert mean[0] == pytest.approx(belief[0] @ average(7)[:, 3:8])
    assert mean[2] == pytest.approx(belief[2] @ average(9)[:, 5:10])
    vote = curves_of("majority_vote", belief, successes, trials, 0.5).values(rows[1:2], 1, 2)
    assert vote[0] == pytest.approx(belief[1] @ majority_vote(6, 0.5)[:, 4:7])
    best = curves_of("best_of_n", belief, successes, trials, 1.0).values(rows, 0, 4)
    assert best[0] == pytest.approx(belief[0] @ best_of_n(4))
    assert (best[1:] == 1).all()


def test_the_rival_share_is_what_wrong_samples_show() -> None:
    assert rival_share([]) == 1.0
    assert rival_share([[1], [], [1]]) == 1.0  # a single wrong sample agrees with nobody
    assert rival_share([[1, 1]]) == pytest.approx(math.sqrt(8 / 9))
    random = np.random.default_rng(3)
    for rival in (0.2, 0.6):
        rivals = random.binomial(12, rival, size=2000)
        found = rival_share([[int(count), *[1] * (12 - int(count))] for count in rivals])
        assert found == pytest.approx(rival, abs=0.02)

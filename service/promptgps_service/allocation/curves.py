"""What b samples of a prompt are worth: tables over the grid of p, mixed by the belief.

================  ===================================================================  ============
objective         value of b samples, given p                                          concave in b
================  ===================================================================  ============
best_of_n         1 − (1 − p)^b: one of them is right, and a verifier finds it         yes
majority_vote     chance that the plurality answer is right, ties broken by lot        no
average           1 − p(1 − p)/b: one minus the mean squared error of their mean       yes
================  ===================================================================  ============

Without a sample the value is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from promptgps_service.allocation.belief import GRID, LOG_P, LOG_Q, Floats, Integers

P = np.exp(LOG_P)
Q = np.exp(LOG_Q)
AGREEING = 8.0  # prompts that the prior counts whose wrong samples all agree


def best_of_n(width: int) -> Floats:
    """1 − q^b for b = 0 … width, float64[G, width + 1]."""
    return -np.expm1(LOG_Q[:, None] * np.arange(width + 1))


def average(width: int) -> Floats:
    """1 − pq/b, float64[G, width + 1].

    Neyman's allocation minimises what is left (J. R. Stat. Soc. 97, 1934).
    """
    return np.concatenate(
        [np.zeros((GRID.size, 1)), 1.0 - (P * Q)[:, None] / np.arange(1, width + 1)], axis=1
    )


def majority_vote(width: int, rival: float) -> Floats:
    """Probability that the plurality of b samples is right, float64[G, width + 1].

    Exact where a sample is right with p, wrong in the one way of the rival answer with
    r = rival · q, and else, with u, wrong in a way of its own. Then the lead D of the right answer
    over the rival is a lazy walk, and by reflection one more sample adds (p − r) P(D = 0) / 2 to
    P(D > 0) + P(D = 0) / 2. P(D = 0) is a central trinomial coefficient, and obeys Legendre's
    recurrence. While no answer has come twice all b tie: there the walk is put right.

    Args:
        width: largest b.
        rival: share of the wrong samples that agree, in [0, 1]. With 1, the vote is right where
            more than half are.
    """
    r = rival * Q
    u = (1.0 - rival) * Q
    led = np.full_like(P, 0.5)
    tied = np.ones_like(P)
    before = np.zeros_like(P)

    table = np.zeros((P.size, width + 1))
    for b in range(width):
        led = led + 0.5 * (P - r) * tied
        tied, before = ((2 * b + 1) * u * tied - b * (u * u - 4.0 * P * r) * before) / (b + 1), tied
        n = b + 1
        alone = (
            0.5 * u**n
            + (n - 1) * P * u ** (n - 1)
            + 0.5 * (n - 1) * (n - 2) * P * r * u ** max(n - 2, 0)
        )
        table[:, n] = led - alone

    return table


def rival_share(wrong_answers: Sequence[Sequence[int]]) -> float:
    """Share of the wrong samples that fall on the rival answer, from calibration samples.

    Two wrong samples of a prompt agree with probability rival². Without evidence they always do:
    the cautious view, under which a vote needs more than half of the samples.

    Args:
        wrong_answers: how often each different wrong answer came, for each prompt.
    """
    counts = [np.asarray(prompt, np.float64) for prompt in wrong_answers if sum(prompt) > 1]
    agree = [
        float((count * (count - 1)).sum() / (count.sum() * (count.sum() - 1))) for count in counts
    ]
    return math.sqrt((AGREEING + sum(agree)) / (AGREEING + len(agree)))


@dataclass(frozen=True)
class Curves:
    """Value curves of N prompts.

    Attributes:
        weights: belief, float64[N, G].
        table: value for each p and number of samples up to a width, float64[G, width + 1].
        concave: whether every curve is.
        earlier: samples drawn before that count with the new ones, int64[N].
        solved: nothing is left to gain, bool[N].
    """

    weights: Floats
    table: Callable[[int], Floats]
    concave: bool
    earlier: Integers
    solved: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.weights)

    def values(self, rows: Integers, start: int, width: int) -> Floats:
        """V of start, start + 1, …, start + width more samples, float64[M, width + 1]."""
        earlier = self.earlier[rows]
        table = self.table(int(earlier.max(initial=0)) + start + width)
        answer = np.empty((rows.size, width + 1))
        for count in np.unique(earlier):
            own = earlier == count
            answer[own] = (
                self.weights[rows[own]] @ table[:, count + start : count + start + width + 1]
            )

        answer[self.solved[rows]] = 1.0
        return answer


def curves_of(
    objective: str, weights: Floats, successes: Integers, trials: Integers, rival: float
) -> Curves:
    """Curves of one of the objectives.

    For `best_of_n` a prompt with a success is solved. The vote and the mean go on over all trials;
    given p, a vote is valued as if none of it had been drawn yet, so that what its earlier samples
    said enters by the belief alone.
    """
    never = np.zeros(len(weights), np.bool_)
    if objective == "best_of_n":
        return Curves(weights, best_of_n, True, np.zeros_like(trials), successes > 0)
    if objective == "majority_vote":
        return Curves(weights, partial(majority_vote, rival=rival), False, trials, never)

    return Curves(weights, average, True, trials, never)

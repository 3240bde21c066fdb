"""Prompts to spread samples over: sharp and vague beliefs, by hand and at random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st
from promptgps_service.allocation.belief import Floats, Integers, masses
from promptgps_service.allocation.curves import Curves, curves_of
from promptgps_service.allocation.plan import Tried
from scipy.special import expit, logit

OBJECTIVES = ("best_of_n", "majority_vote", "average")
CONCAVE = ("best_of_n", "average")

prompts = st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 4)), min_size=1, max_size=5)
many_prompts = st.lists(st.tuples(st.floats(-9, 9), st.floats(0, 4)), min_size=1, max_size=40)
rivals = st.sampled_from([0.0, 0.3, 1.0])


def curves(
    moments: Sequence[tuple[float, float]], objective: str = "best_of_n", rival: float = 1.0
) -> Curves:
    """Curves of untried prompts with normal log-odds of these means and standard deviations."""
    mu, sd = np.array(moments, np.float64).T
    none = np.zeros(len(moments), np.int64)
    return curves_of(objective, masses(mu, sd), none, none, rival)


def tried(
    mu: Floats, sd: Floats, successes: Integers | None = None, trials: Integers | None = None
) -> Tried:
    """Prompts with outcomes, by default without any."""
    none = np.zeros(mu.size, np.int64)
    return Tried(
        mu, sd, none if successes is None else successes, none if trials is None else trials
    )


def learned(seed: int, count: int, told: float = 1.0, doubt: float = 1.0) -> tuple[Tried, Floats]:
    """A world of the model's own, as (Tried, p).

    Predictions have standard deviation ``told``, truths are ``doubt`` away.
    """
    random = np.random.default_rng(seed)
    mu = random.normal(0.0, told, count)
    return tried(mu, np.full(count, doubt)), expit(mu + doubt * random.normal(size=count))


def certain(*p: float) -> Sequence[tuple[float, float]]:
    """Moments of prompts whose success rate is known."""
    return [(float(logit(value)), 0.0) for value in p]


def majorant(curve: Floats) -> Floats:
    """The least concave majorant by its definition: at each column the highest chord over it."""
    columns = range(len(curve))
    chords = (
        [
            curve[i] + (curve[j] - curve[i]) * (b - i) / (j - i)
            for i in columns[:b]
            for j in columns[b + 1 :]
        ]
        for b in columns
    )
    return np.array([max([curve[b], *over]) for b, over in enumerate(chords)])

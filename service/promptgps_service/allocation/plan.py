"""From predictions and outcomes to a plan: corrected, updated, valued, spread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from promptgps_service.allocation.belief import Floats, Integers, masses, update
from promptgps_service.allocation.bins import correction
from promptgps_service.allocation.budget import Plan, allocate
from promptgps_service.allocation.curves import curves_of


@dataclass(frozen=True)
class Tried:
    """Prompts as predicted, and what came of them so far.

    Attributes:
        mu: mean of the log-odds, float64[N].
        sd: its standard deviation, float64[N].
        successes: right samples, int64[N].
        trials: samples, int64[N].
    """

    mu: Floats
    sd: Floats
    successes: Integers
    trials: Integers

    def and_then(self, other: Tried) -> Tried:
        """Both, one after the other."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in vars(self))
        return Tried(*(np.concatenate(pair) for pair in pairs))

    def only(self, rows: NDArray[np.bool_] | Integers) -> Tried:
        """The prompts of these rows, bool[N] or int64[M]."""
        return Tried(*(column[rows] for column in vars(self).values()))


def plan(
    objective: str,
    asked: Tried,
    *,
    total: int,
    minimum: int,
    maximum: int,
    calibration: Tried | None = None,
    rival: float = 1.0,
) -> Plan:
    """Spread samples over prompts.

    Everything that was tried corrects the predictions of all (empirical Bayes); then each prompt's
    own outcomes update the belief of it.

    Args:
        objective: `best_of_n`, `majority_vote` or `average`.
        asked: the prompts, with the outcomes of earlier rounds.
        total: samples to spend now.
        minimum: of them on each prompt.
        maximum: of them on one prompt.
        calibration: other prompts with outcomes.
        rival: share of the wrong samples that agree, for `majority_vote`.

    Raises:
        ValueError: the total does not lie between N · minimum and N · maximum.
    """
    evidence = asked if calibration is None else asked.and_then(calibration)
    evidence = evidence.only(evidence.trials > 0)
    mu = asked.mu
    sd = asked.sd
    if evidence.mu.size:
        mu, sd = correction(evidence.mu, evidence.sd, evidence.successes, evidence.trials).apply(
            mu, sd
        )

    belief = masses(mu, sd)
    if asked.trials.any():
        belief = update(belief, asked.successes, asked.trials)

    curves = curves_of(objective, belief, asked.successes, asked.trials, rival)
    return allocate(curves, total=total, minimum=minimum, maximum=maximum)

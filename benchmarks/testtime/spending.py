"""Budgets spent on recorded samples, drawn without replacement: what each way to spend solves."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from promptgps_service.allocation.belief import Integers, masses
from promptgps_service.allocation.budget import allocate
from promptgps_service.allocation.curves import curves_of
from promptgps_service.allocation.plan import Tried, plan
from scipy.special import logit
from scipy.stats import hypergeom

from benchmarks.testtime.cases import Case


@dataclass(frozen=True)
class Arm:
    """A way to spend: whose beliefs, in how many equal rounds.

    Beliefs are `equal`, `model`, `shuffled` or `oracle`.
    """

    belief: str
    rounds: int


ARMS = {
    "uniform": Arm("equal", 1),
    "unsolved evenly, 4 rounds": Arm("equal", 4),
    "model, one-shot": Arm("model", 1),
    "model, 4 rounds": Arm("model", 4),
    "model, 8 rounds": Arm("model", 8),
    "shuffled, one-shot": Arm("shuffled", 1),
    "shuffled, 4 rounds": Arm("shuffled", 4),
    "oracle, one-shot": Arm("oracle", 1),
    "oracle, 4 rounds": Arm("oracle", 4),
}


def believed(case: Case, belief: str, random: np.random.Generator) -> Tried:
    """What an arm thinks of the prompts before the first sample."""
    none = np.zeros_like(case.right)
    mu = case.mu
    sd = case.sd

    if belief == "shuffled":
        order = random.permutation(mu.size)
        mu = mu[order]
        sd = sd[order]
    elif belief == "oracle":
        mu = np.clip(logit(case.right / case.recorded), -20.0, 20.0)
        sd = np.zeros_like(sd)

    return Tried(mu, sd, none, none)


def share_out(belief: str, asked: Tried, objective: str, total: int, most: int) -> Integers:
    """Samples for each prompt.

    A model's predictions are corrected by what came of earlier rounds, the truth is not.
    """
    if belief == "equal":
        return _evenly(asked, total, most)
    if belief in ("model", "shuffled"):
        return plan(objective, asked, total=total, minimum=0, maximum=most).samples

    curves = curves_of(
        objective, masses(asked.mu, asked.sd), asked.successes, asked.trials, rival=1.0
    )
    return allocate(curves, total=total, minimum=0, maximum=most).samples


def _evenly(asked: Tried, total: int, most: int) -> Integers:
    """Sample by sample to whichever unsolved prompt has had the fewest, in all rounds."""
    had = asked.trials.copy()
    unsolved = asked.successes == 0

    while total > 0 and (open_ := unsolved & (had < most)).any():
        fewest = np.flatnonzero(open_ & (had == had[open_].min()))[:total]
        had[fewest] += 1
        total -= fewest.size
    return had - asked.trials


def solved(case: Case, samples: Integers) -> float:
    """Expected share of prompts with a right one among so many of their recorded samples: exact."""
    return float(hypergeom.sf(0, case.recorded, case.right, samples).mean())


def voted(case: Case, samples: Integers) -> float:
    """Share of prompts expected to have more than half of their samples right; exact.

    A tie counts half.
    """
    half = samples / 2
    more = hypergeom.sf(np.floor(half), case.recorded, case.right, samples)
    tied = np.where(
        samples % 2 == 0, hypergeom.pmf(samples // 2, case.recorded, case.right, samples), 0.0
    )
    return float(np.where(samples > 0, more + 0.5 * tied, 0.0).mean())


def in_rounds(case: Case, arm: Arm, total: int, most: int, random: np.random.Generator) -> float:
    """Share of prompts solved by one spending in rounds."""
    asked = believed(case, arm.belief, random)
    shares = np.diff(np.linspace(0, total, arm.rounds + 1).round().astype(np.int64))

    for share in shares:
        wanted = share_out(arm.belief, asked, "best_of_n", int(share), most)
        left = case.recorded - asked.trials
        # a prompt whose recorded samples are used up has no more to give
        samples = np.minimum(wanted, left)
        drawn = random.hypergeometric(
            case.right - asked.successes, left - case.right + asked.successes, samples
        )
        asked = replace(asked, successes=asked.successes + drawn, trials=asked.trials + samples)

    return float((asked.successes > 0).mean())

"""Closed loop against the simulated learner, where choosing changes what is chosen from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from promptgps_service.model.features import Features

from benchmarks.replay.chooser import Chooser
from benchmarks.replay.simulation import Learner, make_learner

ROLLOUTS = 8


@dataclass(frozen=True)
class SimulatedLoop:
    """True share of mixed groups to be expected of the chosen, and the prompts used.

    Over all steps, the first tenth, and the second half.
    """

    mixed: float
    first_tenth: float
    second_half: float
    distinct: int
    top: float


def simulated_loop(
    features: Features,
    selection: dict[str, Any],
    *,
    batch: int,
    steps: int,
    feedback: float,
    seed: int,
    texts: Sequence[str] = (),
) -> SimulatedLoop:
    """One run.

    Args:
        features: of the pool.
        selection: as in `POST /runs`.
        batch: prompts a step.
        steps: how many.
        feedback: log-odds that a prompt gains by a mixed group of its own.
        seed: of the learner and the run.
        texts: of the pool; needed with diversity.
    """
    learner = make_learner(features, feedback=feedback, seed=seed)
    chooser = Chooser(features, selection, seed=seed, rollouts=ROLLOUTS, texts=texts)
    drawn = torch.zeros(features.rows, dtype=torch.int64)
    # nothing is known at the first
    shares = [_step(learner, chooser, drawn, batch) for _ in range(steps)][1:]
    tenth = max(1, len(shares) // 10)
    most = drawn.sort(descending=True).values[: max(1, len(drawn) // 20)]

    return SimulatedLoop(
        mixed=sum(shares) / len(shares),
        first_tenth=sum(shares[:tenth]) / tenth,
        second_half=sum(shares[len(shares) // 2 :]) / (len(shares) - len(shares) // 2),
        distinct=int((drawn > 0).sum()),
        top=float(most.sum() / drawn.sum()),
    )


def _step(learner: Learner, chooser: Chooser, drawn: torch.Tensor, batch: int) -> float:
    rows = chooser.choose(batch)
    share = learner.mixed(rows, ROLLOUTS)
    successes = learner.roll_out(rows, ROLLOUTS)
    chooser.observe(rows, successes, torch.full_like(successes, ROLLOUTS))
    learner.step(rows, successes, ROLLOUTS)
    drawn[rows] += 1
    return share

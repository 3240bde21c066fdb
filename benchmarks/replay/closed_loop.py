"""Closed loop: the service's own choice takes a batch each step.

It gets what those prompts recorded at that step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from promptgps_service.acquisition.utility import mixed_probability
from promptgps_service.model.features import Features
from torch import Tensor

from benchmarks.replay.chooser import Chooser
from benchmarks.replay.histories import History


@dataclass(frozen=True)
class ClosedLoop:
    """Share of effective prompts (0 < s < n) over the run, in its first and last quarter.

    Also how many prompts were used.

    ``top`` is the share of draws that went to the most drawn twentieth of the pool.
    """

    effective: float
    first_quarter: float
    last_quarter: float
    distinct: int
    top: float


def closed_loop(
    history: History, features: Features, selection: dict[str, Any], *, batch: int, seed: int
) -> ClosedLoop:
    """Replay a history with the settings of a run.

    Args:
        history: what is replayed.
        features: of its prompts.
        selection: as in `POST /runs`.
        batch: prompts a step.
        seed: of the run.
    """
    chooser = Chooser(
        features, selection, seed=seed, rollouts=int(history.trials.max()), texts=history.texts
    )
    drawn = torch.zeros(history.prompts, dtype=torch.int64)

    shares = []
    for step in range(history.steps):
        rows = chooser.choose(batch, allowed=history.trials[:, step] > 0)
        shares.append(_effective(history, rows, step))
        drawn[rows] += 1
        chooser.observe(rows, history.successes[rows, step], history.trials[rows, step])

    return _summary(shares, drawn)


def oracle_loop(history: History, *, batch: int) -> ClosedLoop:
    """The same for a selector that knows the neighbouring visits: about the ceiling."""
    drawn = torch.zeros(history.prompts, dtype=torch.int64)

    shares = []
    for step in range(history.steps):
        around = [place for place in (step - 1, step + 1) if 0 <= place < history.steps]
        rate = history.successes[:, around].sum(1) / history.trials[:, around].sum(1).clamp_min(1.0)
        worth = mixed_probability(rate, int(history.trials.max())).masked_fill(
            history.trials[:, step] == 0, -1.0
        )
        rows = worth.topk(batch).indices
        shares.append(_effective(history, rows, step))
        drawn[rows] += 1

    return _summary(shares, drawn)


def _summary(shares: list[float], drawn: Tensor) -> ClosedLoop:
    quarter = max(1, len(shares) // 4)
    most = drawn.sort(descending=True).values[: max(1, len(drawn) // 20)]

    return ClosedLoop(
        effective=sum(shares) / len(shares),
        first_quarter=sum(shares[:quarter]) / quarter,
        last_quarter=sum(shares[-quarter:]) / quarter,
        distinct=int((drawn > 0).sum()),
        top=float(most.sum() / drawn.sum()),
    )


def _effective(history: History, rows: Tensor, step: int) -> float:
    s = history.successes[rows, step]
    n = history.trials[rows, step]
    return float(((s > 0) & (s < n)).double().mean())

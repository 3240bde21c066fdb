"""Closed loop: a selector takes a batch each step and gets what those prompts recorded at that step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from promptgps_service.model.predictor import Posterior, Predictor
from torch import Tensor

from benchmarks.replay.histories import History

Utility = Callable[[Posterior, torch.Generator], Tensor]
BONUS = 0.5  # standard deviations of the utility under the posterior


@dataclass(frozen=True)
class ClosedLoop:
    """Share of effective prompts (0 < s < n) over steps 1.., in the first and last quarter; prompts used.

    ``oracle`` is the share for a selector that knows the neighbouring visits, ``top`` the share of draws that
    went to the most drawn twentieth of the pool.
    """

    effective: float
    first_quarter: float
    last_quarter: float
    distinct: int
    top: float
    oracle: float


def mixed(trials: int) -> Utility:
    """E m + SD/2, m = 1 − γⁿ − (1 − γ)ⁿ."""
    return lambda posterior, _: _optimistic(posterior, lambda p: 1.0 - p**trials - (1.0 - p) ** trials)


def information() -> Utility:
    """E r + SD/2, r = γ(1 − γ)."""
    return lambda posterior, _: _optimistic(posterior, lambda p: p * (1.0 - p))


def thompson() -> Utility:
    """A draw of γ, nearest to a half (MoPPS)."""

    def utility(posterior: Posterior, random: torch.Generator) -> Tensor:
        level = torch.rand(posterior.mean.shape, generator=random, dtype=torch.float64)
        return -(posterior.quantile(level.clamp(1e-9, 1.0 - 1e-9)).cpu() - 0.5).square()

    return utility


def nearest() -> Utility:
    """E γ, nearest to a half (GPS)."""
    return lambda posterior, _: -(posterior.mean - 0.5).square()


def closed_loop(
    history: History, predictor: Predictor, utility: Utility, *, batch: int, candidates: int | None, seed: int
) -> ClosedLoop:
    """Choose ``batch`` prompts a step, the first at random, with free reuse.

    Args:
        history: what is replayed.
        predictor: fresh, over the history's prompts.
        utility: what is to be high.
        batch: prompts a step.
        candidates: random prompts to choose among, None for all.
        seed: of the random choices.
    """
    random = torch.Generator().manual_seed(seed)
    drawn = torch.zeros(history.prompts, dtype=torch.int64)
    shares, oracle = [], []
    for step in range(history.steps):
        rows = torch.randperm(history.prompts, generator=random)  # also breaks ties
        rows = rows[history.trials[rows, step] > 0][:candidates]
        if step:
            oracle.append(_effective(history, _best(_neighbours(history, step)[rows], rows, batch), step))
            rows = _best(utility(predictor.predict(), random).cpu()[rows], rows, batch)
            shares.append(_effective(history, rows, step))
        rows = rows[:batch]
        drawn[rows] += 1
        predictor.observe(history.visits(rows, step))
    quarter = max(1, len(shares) // 4)
    top = drawn.sort(descending=True).values[: max(1, history.prompts // 20)]
    return ClosedLoop(
        effective=sum(shares) / len(shares),
        first_quarter=sum(shares[:quarter]) / quarter,
        last_quarter=sum(shares[-quarter:]) / quarter,
        distinct=int((drawn > 0).sum()),
        top=float(top.sum() / drawn.sum()),
        oracle=sum(oracle) / len(oracle),
    )


def _optimistic(posterior: Posterior, reward: Callable[[Tensor], Tensor]) -> Tensor:
    values, weight = posterior.nodes()
    values = reward(values)
    mean = values @ weight
    return mean + BONUS * ((values.square() @ weight) - mean.square()).clamp_min(0.0).sqrt()


def _best(utility: Tensor, rows: Tensor, batch: int) -> Tensor:
    """The rows of highest utility, equal to 1e-6 counting as tied and taken in the order of ``rows``."""
    return rows[torch.argsort(utility.mul(1e6).round(), descending=True, stable=True)[:batch]]


def _effective(history: History, rows: Tensor, step: int) -> float:
    s, n = history.successes[rows, step], history.trials[rows, step]
    return float(((s > 0) & (s < n)).double().mean())


def _neighbours(history: History, step: int) -> Tensor:
    """p(1 − p) at the rate of the visits before and after."""
    around = [place for place in (step - 1, step + 1) if place < history.steps]
    p = history.successes[:, around].sum(1) / history.trials[:, around].sum(1).clamp_min(1.0)
    return p * (1.0 - p)

"""Prequential scores: how good was a prediction, before anyone learned from its outcomes?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 10
_EDGE = 1e-6  # a prediction of exactly 0 or 1 that fails costs log(1e6), not infinity


@dataclass(frozen=True)
class Scores:
    """Scores of one step; lower is better but for ``spearman``.

    Attributes:
        prompts: M.
        attempts: sum of n.
        log_loss: nats per attempt.
        brier: mean over attempts of (E γ − s/n)², see ``brier``.
        spearman: rank correlation of E γ with s/n, None where it is not defined.
        calibration_error: see ``calibration_error``.
    """

    prompts: int
    attempts: float
    log_loss: float
    brier: float
    spearman: float | None
    calibration_error: float


def score(mean: Tensor, successes: Tensor, trials: Tensor) -> Scores:
    """All scores of E γ, float[M], against s of n, float[M] each, M ≥ 1."""
    mean, s, n = mean.double(), successes.to(mean).double(), trials.to(mean).double()
    return Scores(
        prompts=len(mean),
        attempts=float(n.sum()),
        log_loss=log_loss(mean, s, n),
        brier=brier(mean, s, n),
        spearman=spearman(mean, s / n),
        calibration_error=calibration_error(mean, s, n),
    )


def log_loss(mean: Tensor, successes: Tensor, trials: Tensor) -> float:
    """−Σ [s log p + (n − s) log(1 − p)] / Σ n, nats per attempt."""
    p = mean.clamp(_EDGE, 1.0 - _EDGE)
    total = torch.xlogy(successes, p) + torch.xlogy(trials - successes, 1.0 - p)
    return float(-total.sum() / trials.sum())


def brier(mean: Tensor, successes: Tensor, trials: Tensor) -> float:
    """Σ n (p − s/n)² / Σ n: squared error against the observed share.

    Each prompt weighs as its attempts.

    The Brier score of single attempts is larger by Σ n (s/n)(1 − s/n) / Σ n, which no predictor can
    change.
    """
    return float((trials * (mean - successes / trials).square()).sum() / trials.sum())


def calibration_error(mean: Tensor, successes: Tensor, trials: Tensor, bins: int = BINS) -> float:
    """Expected calibration error: Σ_b (n_b / n) |mean prediction − success rate|.

    The bins are of p, equally wide.
    """
    place = (mean * bins).long().clamp(0, bins - 1)
    gap = torch.zeros(bins, dtype=mean.dtype, device=mean.device)
    gap.index_add_(0, place, trials * mean - successes)
    return float(gap.abs().sum() / trials.sum())


def spearman(x: Tensor, y: Tensor) -> float | None:
    """Rank correlation of float[M] with float[M], ties by average rank.

    None with fewer than three different values of ``x``, the prediction, or where ``y`` is
    constant.
    """
    if len(torch.unique(x)) < 3 or len(torch.unique(y)) < 2:
        return None

    a = average_ranks(x)
    b = average_ranks(y)
    a = a - a.mean()
    b = b - b.mean()

    return float((a @ b) / (a.norm() * b.norm()))


def average_ranks(x: Tensor) -> Tensor:
    """Ranks from 1, ties sharing the mean of theirs, float64[M]."""
    _, place, count = torch.unique(x, return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    ranks: Tensor = (last - (count.double() - 1.0) / 2.0)[place]
    return ranks

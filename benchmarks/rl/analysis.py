"""Numbers read off records: rollouts to a target, calibration, means with their spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr

from benchmarks.rl.train import Record

Floats = NDArray[np.float64]

GAIN_SHARE = 0.9
"""A, the target, lies this share of uniform's gain above the start."""
WARM_UP_ROLLOUTS = 5_000
"""Mean accuracy is taken from here on, where the arms have parted."""


def smooth(values: ArrayLike, window: int) -> Floats:
    """Centred moving average, [S] to [S]; at the ends over what there is."""
    x = np.asarray(values, float)
    ones = np.ones(window)
    half = window // 2
    total = np.convolve(np.pad(x, half), ones, "valid")
    return np.asarray(total / np.convolve(np.pad(np.ones_like(x), half), ones, "valid"))


def accuracy_curve(record: Record) -> Floats:
    """Held-out accuracy at each evaluation, a three-point mean.

    But for the start, which is exact for all arms.
    """
    curve = smooth(record.accuracy, 3)
    curve[0] = record.accuracy[0]
    return curve


def target_accuracy(uniform: Sequence[Record]) -> float:
    """A: the start plus 90 % of uniform's gain at the end, means over seeds."""
    start = float(np.mean([r.accuracy[0] for r in uniform]))
    end = float(np.mean([accuracy_curve(r)[-1] for r in uniform]))
    return start + GAIN_SHARE * (end - start)


def rollouts_to(record: Record, target: float) -> float | None:
    """Rollouts generated when the curve first reaches `target`, interpolated; None if never."""
    curve = accuracy_curve(record)
    at = np.asarray(record.eval_rollouts, float)
    reached = np.flatnonzero(curve >= target)
    if len(reached) == 0:
        return None

    i = int(reached[0])
    if i == 0:
        return float(at[0])

    return float(np.interp(target, curve[i - 1 : i + 1], at[i - 1 : i + 1]))


def mean_accuracy(record: Record) -> float:
    """Mean over evaluations after WARM_UP_ROLLOUTS, or over the second half of a shorter run."""
    at = np.asarray(record.eval_rollouts)
    return float(np.mean(np.asarray(record.accuracy)[at >= min(WARM_UP_ROLLOUTS, at[-1] / 2)]))


class Calibration(NamedTuple):
    """Bins of predictions: mean predicted and realised success rate, weight; and the summary."""

    predicted: Floats
    realised: Floats
    weight: Floats  # share of the predictions in the bin
    rank_correlation: float
    error: float  # mean |predicted - realised| over bins, weighted


def calibration(
    predicted: ArrayLike, realised: ArrayLike, bins: int = 10, least: int = 8
) -> Calibration | None:
    """Equal-width bins, those with fewer than `least` left out.

    None where no bin is left or all is constant.
    """
    p = np.ravel(np.asarray(predicted, float))
    y = np.ravel(np.asarray(realised, float))
    if len(p) == 0 or np.ptp(p) == 0 or np.ptp(y) == 0:
        return None

    which = np.minimum((p * bins).astype(int), bins - 1)
    count = np.bincount(which, minlength=bins)
    kept = count >= least
    if not kept.any():
        return None

    mean_p = np.bincount(which, p, bins)[kept] / count[kept]
    mean_y = np.bincount(which, y, bins)[kept] / count[kept]
    error = float(np.average(np.abs(mean_p - mean_y), weights=count[kept]))

    return Calibration(
        mean_p, mean_y, count[kept] / count[kept].sum(), float(spearmanr(p, y).statistic), error
    )


def spread(values: Sequence[float | None], digits: int = 3) -> str:
    """`mean ± sample sd` of what is there; a dash for nothing.

    With the number reached where some are None.
    """
    there = [v for v in values if v is not None]
    if not there:
        return "–"

    text = f"{np.mean(there):.{digits}f}"
    if len(there) > 1:
        text += f" ± {np.std(there, ddof=1):.{digits}f}"
    return text if len(there) == len(values) else f"{text} ({len(there)}/{len(values)})"

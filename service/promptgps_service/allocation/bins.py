"""Predictions corrected by outcomes.

The correction is a shift of the log-odds for each bin of predicted difficulty, and a factor of
spread:

    theta = f(mu) + spread · (theta' − mu),
    f(mean mu of bin g) = mean mu of bin g + shift_g, linear between

Shifts and spread are posterior means on a grid, from the likelihood of every prompt's outcomes
under its predicted distribution so changed. Their priors are centred on no change, so that few
outcomes change little. f does not descend: where a predictor is worth nothing it becomes flat, all
prompts look alike, and their shares become equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from scipy.special import logsumexp

from promptgps_service.allocation.belief import Floats, Integers
from promptgps_service.model.quadrature import log_expected_likelihood

BINS = 8
LEAST_IN_BIN = 25
MOST_USED = 2048  # prompts; more would only make the correction slower
SHIFTS: Floats = np.arange(-3.0, 3.01, 0.25)  # logits
SHIFT_SPREAD = 1.0  # of the prior, logits
SPREADS: Floats = 2.0 ** np.arange(-1.5, 1.6, 0.5)
SPREAD_SPREAD = 0.5  # of the prior, of its logarithm


@dataclass(frozen=True)
class Correction:
    """f by its corners, and the factor of spread.

    Attributes:
        predicted: mean mu of each bin, ascending, float64[B].
        corrected: f there, not descending, float64[B].
        spread: factor of the standard deviation of the log-odds.
    """

    predicted: Floats
    corrected: Floats
    spread: float

    def apply(self, mu: Floats, sd: Floats) -> tuple[Floats, Floats]:
        """(mu, sd) corrected.

        Outside the corners f goes on with its mean slope, but no steeper than 1.
        """
        inside = np.interp(mu, self.predicted, self.corrected)
        width = self.predicted[-1] - self.predicted[0]
        slope = min((self.corrected[-1] - self.corrected[0]) / width, 1.0) if width > 0 else 1.0
        return inside + slope * (
            mu - np.clip(mu, self.predicted[0], self.predicted[-1])
        ), self.spread * sd


def correction(mu: Floats, sd: Floats, successes: Integers, trials: Integers) -> Correction:
    """What outcomes say of predictions.

    Args:
        mu: predicted mean of the log-odds of J prompts with outcomes, J ≥ 1, float64[J].
        sd: its standard deviation, float64[J].
        successes: s, int64[J].
        trials: n, positive, int64[J].
    """
    order = np.argsort(mu, kind="stable")
    order = order[np.linspace(0, order.size - 1, min(order.size, MOST_USED)).astype(np.int64)]
    mu = mu[order]
    sd = sd[order]
    successes = successes[order]
    trials = trials[order]

    where = _bins(mu)
    log = _log_evidence(mu, sd, successes, trials)
    # [B, spreads, shifts]
    in_bin = np.stack([log[where == g].sum(axis=0) for g in range(where.max() + 1)])
    in_bin -= 0.5 * np.square(SHIFTS / SHIFT_SPREAD)
    over_shifts = logsumexp(in_bin, axis=2)  # [B, spreads]
    given_spread = np.exp(in_bin - over_shifts[:, :, None]) @ SHIFTS
    of_spread = over_shifts.sum(axis=0) - 0.5 * np.square(np.log(SPREADS) / SPREAD_SPREAD)
    of_spread = np.exp(of_spread - logsumexp(of_spread))

    count = np.bincount(where)
    centre = np.bincount(where, mu) / count
    increasing = isotonic_regression(centre + given_spread @ of_spread, weights=count)
    return Correction(centre, increasing.x, float(np.exp(of_spread @ np.log(SPREADS))))


def _bins(mu: Floats) -> Integers:
    """Number of the quantile bin of each prediction, int64[J].

    Equal predictions share a bin, and no bin is empty.
    """
    count = min(max(mu.size // LEAST_IN_BIN, 1), BINS)
    edges = np.quantile(mu, np.linspace(0.0, 1.0, count + 1)[1:-1])
    return np.unique(np.searchsorted(edges, mu, side="right"), return_inverse=True)[1]


def _log_evidence(mu: Floats, sd: Floats, successes: Integers, trials: Integers) -> Floats:
    """Log-likelihood of each prompt's outcomes by spread and shift, float64[J, spreads, shifts]."""
    centre = torch.from_numpy(mu)[:, None, None] + torch.from_numpy(SHIFTS)
    variance = torch.from_numpy(np.square(np.maximum(sd, 1e-3)[:, None] * SPREADS))[:, :, None]
    s, n = (
        torch.from_numpy(column.astype(np.float64))[:, None, None] for column in (successes, trials)
    )
    found: Floats = log_expected_likelihood(centre, variance, s, n).numpy()
    return found

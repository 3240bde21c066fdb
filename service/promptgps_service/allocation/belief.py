"""What is believed of the success rates p of N prompts.

Each has a distribution, on one common grid of log-odds. A common grid turns every expectation over
p into one matrix product. It is also fine enough where the nine nodes of a posterior are not: under
the wide posteriors of prompts never tried (a standard deviation of 2.6 logits) these miss the gain
of one more sample by up to a half.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit, ndtr

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

STEP = 0.25  # logits
# What lies beyond counts as the ends: 5e-5 and 1 − 5e-5.
GRID: Floats = np.arange(-10.0, 10.0 + STEP / 2, STEP)
LOG_P: Floats = -np.logaddexp(0.0, -GRID)
LOG_Q: Floats = -np.logaddexp(0.0, GRID)
_NEAREST = 1e-7  # of a node to 0 or 1: single precision knows nothing nearer to 1
_LEAST_SPREAD = 1e-3  # logits


def log_odds(nodes: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of the log-odds of p, float64[N] each.

    Args:
        nodes: values of p by quadrature, float64[N, K].
        weights: of the nodes, float64[K]. Those of a logit-normal are exact for both moments.
    """
    theta = logit(np.clip(nodes, _NEAREST, 1.0 - _NEAREST))
    mu: Floats = theta @ weights
    return mu, np.sqrt(np.square(theta - mu[:, None]) @ weights)


def masses(mu: Floats, sd: Floats) -> Floats:
    """Normal log-odds on the grid, float64[N, G]; rows sum to one.

    Mass between two points is shared by linear interpolation: weights are second differences of the
    integrated distribution function, max(x − mu, 0) + sd (φ(z) − |z| Φ(−|z|)). That keeps the mean
    however narrow the normal, and tails to their last digit; it widens by a variance of STEP² / 6,
    which is taken off before.
    """
    mu = mu[:, None]
    sd = np.sqrt(np.maximum(np.square(sd) - STEP**2 / 6.0, _LEAST_SPREAD**2))[:, None]
    z = np.abs(GRID - mu) / sd
    smooth = np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi) - z * ndtr(-z)
    smooth *= sd / STEP
    weights: Floats = np.diff(np.diff(smooth, axis=1), axis=1, prepend=0.0, append=0.0)

    place = np.clip((mu - GRID[0]) / STEP, 0.0, GRID.size - 1.0)
    low = np.minimum(place.astype(np.int64), GRID.size - 2)
    every = np.arange(len(mu))[:, None]
    weights[every, low] += low + 1 - place
    weights[every, low + 1] += place - low
    return weights.clip(min=0.0)


def update(weights: Floats, successes: Integers, trials: Integers) -> Floats:
    """Bayes: weights × p^s (1 − p)^(n − s), normalised, float64[N, G].

    The likelihood is binomial, samples being independent given p. Its coefficient cancels, and so
    does any rule by which it was decided to go on or to stop.

    Args:
        weights: float64[N, G].
        successes: s, right samples so far, int64[N].
        trials: n, samples so far, int64[N].
    """
    with np.errstate(divide="ignore"):
        log = np.log(weights) + successes[:, None] * LOG_P + (trials - successes)[:, None] * LOG_Q

    log -= log.max(axis=1, keepdims=True)
    mass: Floats = np.exp(log)
    mass /= mass.sum(axis=1, keepdims=True)
    return mass

"""The binomial likelihood of visits under a normal theta: its logarithm and its derivatives.

The logarithm has gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from promptgps_service.model.quadrature import adaptive_nodes

NODES = 9
LEAST_PRECISION = 1e-6


def log_evidence(mu: Tensor, V: Tensor, s: Tensor, n: Tensor) -> Tensor:
    """Log E[likelihood of (s, n)], theta ~ N(mu, V), differentiable in both; elementwise, float64.

    The nodes are placed without gradient: theirs is that of the weight which N(mu, V) gives them.
    """
    shape = (mu + V + s).shape
    mu, V, s, n = (part.expand(shape) for part in (mu, V, s, n))

    with torch.no_grad():
        theta, mass = adaptive_nodes(mu, V, s, n, NODES)
        mass = mass - _log_normal(theta, mu, V)

    return (mass + _log_normal(theta, mu, V)).logsumexp(-1)


def derivatives(mu: Tensor, V: Tensor, s: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """Slope by mu, and minus the curvature, of the log evidence.

    They are (E theta − mu) / V and (1 − Var theta / V) / V.
    """
    theta, mass = adaptive_nodes(mu, V, s, n, NODES)
    weight = mass.softmax(-1)
    mean = (weight * theta).sum(-1)
    variance = (weight * (theta - mean[..., None]).square()).sum(-1)
    return (mean - mu) / V, ((1.0 - variance / V) / V).clamp_min(LEAST_PRECISION)


def _log_normal(theta: Tensor, mu: Tensor, V: Tensor) -> Tensor:
    """Log N(theta; mu, V) up to a constant."""
    return -0.5 * ((theta - mu[..., None]).square() / V[..., None] + V[..., None].log())

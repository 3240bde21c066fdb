"""Gauss-Hermite quadrature of a normal theta, and the binomial likelihood it is applied to."""

from __future__ import annotations

from functools import lru_cache

import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor


@lru_cache(maxsize=16)
def hermite(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes h and weights w, both float64[K], with E f(theta) = sum_k w_k f(mu + sqrt(V) h_k) for N(mu, V)."""
    nodes, weights = hermegauss(count)
    return (
        torch.tensor(nodes, dtype=torch.float64, device=device),
        torch.tensor(weights / weights.sum(), dtype=torch.float64, device=device),
    )


def log_likelihood(theta: Tensor, s: Tensor, n: Tensor) -> Tensor:
    """s log γ + (n − s) log(1 − γ) at γ = sigmoid(theta), broadcast over all three.

    The binomial coefficient is left out: it cancels everywhere, and s and n need not be whole numbers.
    """
    return n * torch.nn.functional.logsigmoid(theta) - (n - s) * theta


def log_expected_likelihood(mu: Tensor, V: Tensor, s: Tensor, n: Tensor, *, nodes: int = 9) -> Tensor:
    """log E[likelihood of (s, n)] under theta ~ N(mu, V), elementwise over broadcast arguments."""
    h, weight = hermite(nodes, mu.device)
    theta = mu[..., None] + V.sqrt()[..., None] * h
    return (log_likelihood(theta, s[..., None], n[..., None]) + weight.log()).logsumexp(-1)

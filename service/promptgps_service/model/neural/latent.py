"""The latent z_t: diagonal normals over it.

Also what a set of observations makes of one, and how far two are apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST = 1e-4  # variance
MOST = 25.0  # variance


@dataclass(frozen=True)
class Normal:
    """N(mean, diag(variance)); both float[..., Z]."""

    mean: Tensor
    variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Z = mean + sd · noise (reparameterised), broadcast over ``noise`` float[S, ..., Z]."""
        return self.mean + self.variance.sqrt() * noise

    def detach(self) -> Normal:
        """The same as a constant."""
        return Normal(self.mean.detach(), self.variance.detach())


def divergence(q: Normal, p: Normal) -> Tensor:
    """KL(q || p) in nats, summed over the dimensions of z, float[...]."""
    ratio = q.variance / p.variance
    shift = (q.mean - p.mean).square() / p.variance
    return 0.5 * (ratio + shift - 1.0 - ratio.log()).sum(-1)


def condition(prior: Tensor, evidence: Tensor, precision: Tensor) -> Normal:
    """Posterior of z ~ N(0, diag(prior)) after independent normal observations of it.

    The order of a set's members has no meaning here, its size has: the variance falls as evidence
    gathers (Bayesian context aggregation, Volpp et al. 2021, in place of a mean over the set).

    Args:
        prior: float[Z], variances.
        evidence: float[..., B, Z], what each member says z is, times ``precision``.
        precision: float[..., B, Z], one over the variance of that; 0 says nothing.
    """
    total = 1.0 / prior + precision.sum(-2)
    return Normal(evidence.sum(-2) / total, (1.0 / total).clamp(LEAST, MOST))


def antithetic(count: int, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """Standard normal noise float32[count, *shape] in pairs of opposite sign.

    Odd moments vanish exactly.
    """
    half = torch.randn((count + 1) // 2, *shape, generator=random)
    return torch.cat([half, -half])[:count]

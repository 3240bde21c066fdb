"""Distributions of the success rate γ that predictors answer with.

Each is a ``predictor.Posterior``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy import special
from torch import Tensor

from promptgps_service.model.quadrature import hermite

NODES = 9
_MATCH_STEPS = 6  # Newton converges to 1e-6 in four for alpha, beta in [1, 1e4]
_SPREAD = (1e-4, 30.0)  # of the matched normal on the logit scale


@dataclass(frozen=True)
class LogitNormal:
    """γ = sigmoid(theta), theta ~ N(mu, variance); both float[M]."""

    mu: Tensor
    variance: Tensor

    @property
    def mean(self) -> Tensor:
        """E γ, float[M], by the probit approximation (MacKay 1992).

        It is sigmoid(mu / sqrt(1 + π V / 8)).
        """
        return torch.sigmoid(self.mu / torch.sqrt(1.0 + math.pi / 8.0 * self.variance))

    @property
    def std(self) -> Tensor:
        """SD γ, float[M], by quadrature."""
        return _spread(*self.nodes())

    def nodes(self) -> tuple[Tensor, Tensor]:
        """Gauss-Hermite values float[M, 9] and weights float[9]."""
        h, weight = hermite(NODES, self.mu.device)
        h = h.to(self.mu.dtype)
        weight = weight.to(self.mu.dtype)
        return torch.sigmoid(self.mu[:, None] + self.variance.sqrt()[:, None] * h), weight

    def quantile(self, level: Tensor) -> Tensor:
        """γ at probability ``level``, float[M]: exact, since the sigmoid is monotone."""
        return torch.sigmoid(
            self.mu + self.variance.sqrt() * torch.special.ndtri(level.to(self.mu))
        )

    def logit_normal(self) -> LogitNormal:
        """Itself."""
        return self

    def take(self, rows: Tensor) -> LogitNormal:
        """The same for the prompts ``rows``, long[L]."""
        return LogitNormal(self.mu[rows], self.variance[rows])


@dataclass(frozen=True)
class BetaPosterior:
    """γ ~ Beta(alpha, beta); both float[M], positive."""

    alpha: Tensor
    beta: Tensor

    @property
    def mean(self) -> Tensor:
        """E γ, float[M]."""
        return self.alpha / (self.alpha + self.beta)

    @property
    def std(self) -> Tensor:
        """SD γ, float[M]."""
        mean = self.mean
        return torch.sqrt(mean * (1.0 - mean) / (self.alpha + self.beta + 1.0))

    def nodes(self) -> tuple[Tensor, Tensor]:
        """Values float[M, 9] and weights float[9], of the logit-normal with γ's mean and variance.

        Gauss-Jacobi would need weights of its own for each prompt, and quantiles cost a microsecond
        a node. This keeps the first two moments to rounding, and E(1 − γⁿ − (1 − γ)ⁿ) to about 0.01
        where alpha, beta ≥ 1.
        """
        return self.logit_normal().nodes()

    def logit_normal(self) -> LogitNormal:
        """The logit-normal of the same mean and variance of γ, by quadrature."""
        h, weight = hermite(NODES, self.alpha.device)
        return _match(self.alpha, self.beta, h.to(self.alpha.dtype), weight.to(self.alpha.dtype))

    def quantile(self, level: Tensor) -> Tensor:
        """γ at probability ``level``, float[M].

        It is the inverse of the regularised incomplete beta function.
        """
        alpha = self.alpha.cpu().numpy()
        beta = self.beta.cpu().numpy()
        values = special.betaincinv(alpha, beta, level.cpu().numpy())
        return torch.as_tensor(values).to(self.alpha)

    def take(self, rows: Tensor) -> BetaPosterior:
        """The same for the prompts ``rows``, long[L]."""
        return BetaPosterior(self.alpha[rows], self.beta[rows])


def _spread(values: Tensor, weight: Tensor) -> Tensor:
    mean = values @ weight
    return torch.sqrt(((values - mean[:, None]).square() @ weight).clamp_min(0.0))


def _match(alpha: Tensor, beta: Tensor, h: Tensor, weight: Tensor) -> LogitNormal:
    """N(m, r²) in the place of Beta(alpha, beta), by Newton in (m, r).

    Its nodes sigmoid(m + r h) have the mean and mean square of Beta(alpha, beta).

    Newton starts from mean and variance of the logit of a beta variable, which are exact: digamma
    and trigamma.
    """
    mean = alpha / (alpha + beta)
    square = mean * (alpha + 1.0) / (alpha + beta + 1.0)
    m = torch.digamma(alpha) - torch.digamma(beta)
    r = torch.sqrt(torch.polygamma(1, alpha) + torch.polygamma(1, beta))

    for _ in range(_MATCH_STEPS):
        p = torch.sigmoid(m[:, None] + r[:, None] * h)
        slope = p * (1.0 - p)
        miss_mean = p @ weight - mean
        miss_square = p.square() @ weight - square
        a = slope @ weight
        b = slope @ (weight * h)
        c = 2.0 * (p * slope) @ weight
        d = 2.0 * (p * slope) @ (weight * h)
        determinant = (a * d - b * c).clamp_min(1e-12)
        m = m - ((d * miss_mean - b * miss_square) / determinant).clamp(-1.0, 1.0)
        r = (r - ((a * miss_square - c * miss_mean) / determinant).clamp(-1.0, 1.0)).clamp(*_SPREAD)

    return LogitNormal(m, r.square())

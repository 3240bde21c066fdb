"""What a prompt is worth under the posterior of its success rate: utilities by name, one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from promptgps_service.model.predictor import Posterior

TIE = 1e-6  # utilities closer than this are equal: what lies below is rounding, not preference


@dataclass(frozen=True)
class Aim:
    """What the run wants of a prompt.

    Attributes:
        utility: name in ``UTILITIES``.
        rollouts: n, rollouts of a group.
        target: success rate aimed at.
        band: lowest and highest success rate that counts as good.
        bonus: standard deviations of the utility added to its mean.
    """

    utility: str
    rollouts: int
    target: float = 0.5
    band: tuple[float, float] = (0.2, 0.8)
    bonus: float = 1.0


@dataclass(frozen=True)
class Given:
    """What a prompt has beside its posterior, see ``utility``."""

    luck: Tensor
    softness: Tensor | float


def mixed_probability(gamma: Tensor, rollouts: int) -> Tensor:
    """M = 1 − γⁿ − (1 − γ)ⁿ, the chance that a group of n is mixed.

    A mixed group gives a group-relative gradient. A group of one is never mixed; its signal is
    measured as that of a pair, 2 γ (1 − γ).
    """
    n = max(rollouts, 2)
    return 1.0 - gamma**n - (1.0 - gamma) ** n


def _optimistic(values: Tensor, weights: Tensor, bonus: float) -> Tensor:
    """E v + bonus · SD v over quadrature nodes: values float[M, K], weights float[K]."""
    mean = values @ weights
    if bonus == 0:
        return mean
    return mean + bonus * ((values.square() @ weights) - mean.square()).clamp_min(0).sqrt()


def _mixed(posterior: Posterior, aim: Aim, _given: Given) -> Tensor:
    gamma, weights = posterior.nodes()
    return _optimistic(mixed_probability(gamma, aim.rollouts), weights, aim.bonus)


def _information(posterior: Posterior, aim: Aim, _given: Given) -> Tensor:
    gamma, weights = posterior.nodes()
    return _optimistic(gamma * (1.0 - gamma), weights, aim.bonus)


def _variance(posterior: Posterior, aim: Aim, given: Given) -> Tensor:
    """E v + bonus · SD v of the reward's variance v = (1 − ρ) γ (1 − γ), see ``softness``."""
    return (1.0 - given.softness) * _information(posterior, aim, given)


def _target(posterior: Posterior, aim: Aim, _given: Given) -> Tensor:
    """u(γ̂) = −(γ̂ − target)², GPS Eq. 12 to 14 with target 0.5."""
    return -((posterior.mean - aim.target) ** 2)


def _thompson(posterior: Posterior, aim: Aim, given: Given) -> Tensor:
    """−(γ̃ − target)² with one posterior draw γ̃ a prompt, MoPPS (arXiv 2507.04632)."""
    return -((posterior.quantile(given.luck) - aim.target) ** 2)


def _band(posterior: Posterior, aim: Aim, _given: Given) -> Tensor:
    gamma, weights = posterior.nodes()
    low, high = aim.band
    return ((gamma >= low) & (gamma <= high)).to(weights.dtype) @ weights


def _uniform(_posterior: Posterior, _aim: Aim, given: Given) -> Tensor:
    return torch.zeros_like(given.luck)


UTILITIES: dict[str, Callable[[Posterior, Aim, Given], Tensor]] = {
    "mixed": _mixed,
    "information": _information,
    "variance": _variance,
    "target": _target,
    "thompson": _thompson,
    "band": _band,
    "uniform": _uniform,
}


def utility(posterior: Posterior, aim: Aim, luck: Tensor, softness: Tensor | float = 0.0) -> Tensor:
    """Utility of M prompts.

    Args:
        posterior: of their success rates.
        aim: what the run wants.
        luck: float64[M] uniform on (0, 1), used by the utilities that draw.
        softness: float64[M] in [0, 1], ρ, used by ``variance``.

    Returns:
        float64[M], rounded to ``TIE``.
    """
    values = UTILITIES[aim.utility](posterior, aim, Given(luck, softness)).to(torch.float64)
    return (values / TIE).round() * TIE

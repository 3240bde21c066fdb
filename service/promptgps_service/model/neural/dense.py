"""Layers whose parameters are all of the order of one.

One prior and one learning rate therefore suit them all.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dense(nn.Module):
    """x -> scale · x Wᵀ + c, W drawn from N(0, 1) (or zero).

    NTK parameterisation (Jacot et al. 2018).
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        random: torch.Generator,
        *,
        unit: bool = False,
        zero: bool = False,
    ) -> None:
        """``unit`` where the whole input, rather than each of its entries, is of norm one."""
        super().__init__()
        weight = torch.randn(fan_out, fan_in, generator=random)
        self.weight = nn.Parameter(torch.zeros_like(weight) if zero else weight)
        self.bias = nn.Parameter(torch.zeros(fan_out))
        self.scale = 1.0 if unit else max(fan_in, 1) ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        """Float[..., fan_in] -> float[..., fan_out]."""
        out: Tensor = self.scale * (x @ self.weight.T) + self.bias
        return out


def normalised(h: Tensor) -> Tensor:
    """Each vector float[..., W] shifted to mean 0 and scaled to variance 1.

    This is layer norm without parameters.
    """
    return nn.functional.layer_norm(h, h.shape[-1:])

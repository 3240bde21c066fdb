"""Decoder p_psi(gamma | e_tau, z): a level, a linear part and a small net, under learned priors.

    theta = b + z_1 + w · [x, h(x, z)],    w_g ~ N(0, τ_g I)

for each block g of features and for the net's block h.

The last layer is Bayesian: q(w) = N(m, diag(S)), learned by the same bound as the rest (Blundell et
al. 2015), τ_g by its evidence. What text does not tell thus stays at zero, and τ of a net that
helps nothing shrinks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from promptgps_service.model.features import Block
from promptgps_service.model.neural.dense import Dense, normalised

# Blocks have mean squared norm 1, so τ is the variance of theta that the block explains.
TAU_START = 0.5
TAU_SD = 1.5  # of log τ
LEVEL_SD = 2.0  # of b, logits


@dataclass(frozen=True)
class Told:
    """What the text tells of theta − b − z_1: mean and variance (of w), float32[..., B] each."""

    mean: Tensor
    variance: Tensor


class Decoder(nn.Module):
    """theta from features and z."""

    def __init__(
        self,
        blocks: tuple[Block, ...],
        latent: int,
        width: int,
        layers: int,
        random: torch.Generator,
    ) -> None:
        super().__init__()
        dimension = blocks[-1].stop if blocks else 0
        self.sizes = torch.tensor([*(block.stop - block.start for block in blocks), width])
        self.text = Dense(dimension, width, random, unit=True)
        self.context = Dense(latent, width, random)
        self.hidden = nn.ModuleList(Dense(width, width, random) for _ in range(layers))
        self.offset = nn.Parameter(torch.zeros(()))  # b / LEVEL_SD
        self.mean = nn.Parameter(torch.zeros(dimension + width))  # m / sqrt(τ)
        self.log_variance = nn.Parameter(torch.zeros(dimension + width))  # log(S / τ)
        self.explained = nn.Parameter(torch.zeros(len(self.sizes)))  # log(τ / TAU_START) / TAU_SD

    @property
    def level(self) -> Tensor:
        """b, float32[]."""
        return LEVEL_SD * self.offset

    @property
    def tau(self) -> Tensor:
        """τ_g, float32[G + 1]."""
        return TAU_START * (TAU_SD * self.explained).exp()

    def forward(self, x: Tensor, z: Tensor) -> Told:
        """Features float32[..., B, D] at latents float32[S, ..., Z] -> float32[S, ..., B]."""
        D = x.shape[-1]
        tau = self.tau.repeat_interleave(self.sizes.to(x.device))
        m = tau.sqrt() * self.mean
        S = tau * self.log_variance.exp()
        # The level is z_1's alone: h is what the net makes of the text beyond what it makes of
        # none.
        h = self._net(x, z) - self._net(torch.zeros_like(x[..., :1, :]), z)
        mean = x @ m[:D] + h @ m[D:]

        return Told(mean, x.square() @ S[:D] + h.square() @ S[D:])

    def _net(self, x: Tensor, z: Tensor) -> Tensor:
        """Of squared norm one, as blocks of features are; float32[S, ..., B, W]."""
        h = self.text(x) + self.context(z)[..., None, :]
        for layer in self.hidden:
            h = layer(nn.functional.gelu(normalised(h)))
        out: Tensor = normalised(nn.functional.gelu(h)) * h.shape[-1] ** -0.5
        return out

    def complexity(self) -> Tensor:
        """KL(q(w) || p(w)), nats."""
        S = self.log_variance.exp()
        return 0.5 * (S + self.mean.square() - 1.0 - self.log_variance).sum()

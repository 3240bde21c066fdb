"""Encoders of one step's visits, a set, into a normal over z.

They are the bodies of q_phi(z_t | H_t) and p_eta(z_t | H_{t-1}).

GPS (arXiv 2602.01970, Section 3) has a Transformer over one token per prompt. So has this one
(``layers`` blocks of self-attention; none is a Deep Set), and each token ends as an observation of
z with a precision of its own. At the start of training the first dimension of z is, exactly, the
level filtered in one step from the residuals of the visits, and the others are not observed: the
networks learn what to make of a batch beyond that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from promptgps_service.model.neural.dense import Dense, normalised
from promptgps_service.model.neural.latent import Normal, condition

HEADS = 4
DRIFT = 0.02
DRIFT_SD = 2.0
SCALARS = 5
# log precision, to that of the level, at which the other dimensions start to be observed
FAINT = -2.0
WIDEST = 3.0  # |log| to which learned precisions may move


@dataclass(frozen=True)
class Tokens:
    """J sets of up to B visits as an encoder sees them.

    Attributes:
        x: float32[J, B, D], features.
        scalars: float32[J, B, SCALARS], numbers of the visit.
        evidence: float32[J, B], what the visit says the level is by itself, times ``precision``.
        precision: float32[J, B], one over the variance of that; 0 where a set has no more members.
    """

    x: Tensor
    scalars: Tensor
    evidence: Tensor
    precision: Tensor


class Encoder(nn.Module):
    """A set of visits -> N(z), permutation invariant."""

    def __init__(
        self, dimension: int, latent: int, width: int, layers: int, random: torch.Generator
    ) -> None:
        super().__init__()
        self.text = Dense(dimension, width, random, unit=True)
        self.numbers = Dense(SCALARS, width, random)
        self.blocks = nn.ModuleList(Attention(width, random) for _ in range(layers))
        self.head = Dense(width, 2 * latent, random, zero=True)
        self.spread = nn.Parameter(torch.zeros(latent))  # log variance of z before any visit

    def forward(self, tokens: Tokens) -> Normal:
        """N(z | set) for each of J sets; [J, Z]."""
        there = tokens.precision > 0
        h = self.text(tokens.x) + self.numbers(tokens.scalars)

        for block in self.blocks:
            h = block(h, there)

        seen, log_precision = self.head(nn.functional.gelu(normalised(h))).chunk(2, dim=-1)
        log_precision = WIDEST * torch.tanh(log_precision / WIDEST)
        level = torch.zeros_like(self.spread)
        level[0] = 1.0
        relative = (log_precision + FAINT * (1.0 - level)).exp()
        evidence = tokens.precision[..., None] * seen + tokens.evidence[..., None] * level

        return condition(
            self.spread.exp(), relative * evidence, relative * tokens.precision[..., None]
        )


class Transition(nn.Module):
    """p_eta(z_t | H_{t-1}): what the last visits say of z_{t-1}, carried over one policy step."""

    def __init__(self, encoder: Encoder, latent: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.carry = nn.Parameter(torch.ones(latent))
        # log(variance a step adds / DRIFT) / DRIFT_SD
        self.drift = nn.Parameter(torch.zeros(latent))

    def forward(self, tokens: Tokens) -> Normal:
        """N(z_t) for each of J sets of visits of the step before; [J, Z]."""
        past: Normal = self.encoder(tokens)
        variance = self.carry.square() * past.variance + DRIFT * (DRIFT_SD * self.drift).exp()
        # Before the first visits no step has been taken; else the KL to it would teach what a step
        # does.
        started = (tokens.precision > 0).any(-1, keepdim=True)
        return Normal(
            torch.where(started, self.carry * past.mean, past.mean),
            torch.where(started, variance, past.variance),
        )


class Attention(nn.Module):
    """A block of a Transformer: self-attention and a feed-forward net, each added to its input."""

    def __init__(self, width: int, random: torch.Generator) -> None:
        super().__init__()
        self.project = Dense(width, 3 * width, random)
        self.mix = Dense(width, width, random)
        self.widen = Dense(width, 4 * width, random)
        self.narrow = Dense(4 * width, width, random)

    def forward(self, h: Tensor, there: Tensor) -> Tensor:
        """Float32[J, B, W] -> the same.

        Members that are not ``there``, bool[J, B], are not attended to.
        """
        heads = HEADS if h.shape[-1] % HEADS == 0 else 1
        query, key, value = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in self.project(normalised(h)).chunk(3, dim=-1)
        )

        # Written out, since fused kernels for GPUs are not deterministic backwards.
        score = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        score = score.masked_fill(~there[:, None, None, :], -1e9)
        mixed = (score.softmax(-1) @ value).transpose(1, 2).flatten(2)
        h = h + self.mix(mixed)

        wide = nn.functional.gelu(self.widen(normalised(h)))
        out: Tensor = h + self.narrow(wide)
        return out

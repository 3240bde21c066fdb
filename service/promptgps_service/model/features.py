"""Features of prompts: blocks of equal energy, standardised over the pool.

Two blocks of raw vectors come in (an embedding, surface counts); each is brought to mean squared norm one over the
pool, because stacking raw columns would drown 19 good features in 256 weak ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CLIP = 4.0  # standard deviations; surface counts have heavy tails


@dataclass(frozen=True)
class Block:
    """Columns ``start:stop`` of the feature matrix that share one prior variance."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Features:
    """What a predictor knows of N prompts before any outcome.

    Attributes:
        x: float32[N, D].
        blocks: of its columns.
        frame_rows: how many first rows the standardisation was taken from.
        offline: float64[N, 2], successes and trials of another policy, 0 trials where there are none; None where no
            prompt of the run has any.
    """

    x: Tensor
    blocks: tuple[Block, ...]
    frame_rows: int
    offline: Tensor | None = None

    @property
    def rows(self) -> int:
        """N."""
        return int(self.x.shape[0])

    @property
    def dimension(self) -> int:
        """D."""
        return int(self.x.shape[1])

    def head(self, rows: int) -> Features:
        """The first ``rows`` rows, in the same frame."""
        offline = None if self.offline is None else self.offline[:rows]
        return Features(self.x[:rows], self.blocks, self.frame_rows, offline)


@dataclass(frozen=True)
class BlockFrame:
    """Affine map of one block, taken from the first ``frame_rows`` rows of the pool and then frozen."""

    name: str
    mean: Tensor  # [D_g]
    scale: Tensor  # [D_g], one over the column's standard deviation; ones where columns are only centred
    clip: bool
    energy: float  # the mean squared norm before the division

    def apply(self, raw: Tensor) -> Tensor:
        """Map raw float[M, D_g] into the frame, float32[M, D_g]."""
        x = (raw.to(torch.float32) - self.mean) * self.scale
        if self.clip:
            x = x.clamp(-CLIP, CLIP)
        return x / float(self.energy**0.5)


def fit_block(name: str, raw: Tensor, *, standardise: bool) -> BlockFrame:
    """Take a block's frame from its rows.

    Args:
        name: the block's name.
        raw: float[F, D_g].
        standardise: divide columns by their standard deviation and clip at four of them (surface counts);
            otherwise only centre (embeddings, whose relative scale carries meaning).
    """
    wide = raw.to(torch.float64)
    mean = wide.mean(0)
    scale = torch.ones_like(mean)
    if standardise:
        std = wide.std(0, correction=0)
        scale = torch.where(std > 1e-9, 1.0 / std.clamp_min(1e-9), torch.zeros_like(std))
    x = (wide - mean) * scale
    if standardise:
        x = x.clamp(-CLIP, CLIP)
    energy = float(x.square().sum(1).mean())
    return BlockFrame(name, mean.float(), scale.float(), standardise, energy if energy > 1e-12 else 1.0)


@dataclass(frozen=True)
class Frame:
    """The frames of all blocks of a pool."""

    blocks: tuple[BlockFrame, ...]
    rows: int

    def apply(self, raw: list[Tensor]) -> Tensor:
        """Map raw blocks, each float[M, D_g], to features float32[M, D]."""
        if not self.blocks:
            rows = raw[0].shape[0] if raw else 0
            return torch.zeros(rows, 0)
        return torch.cat([frame.apply(part) for frame, part in zip(self.blocks, raw, strict=True)], dim=1)

    def features(self, raw: list[Tensor]) -> Features:
        """Feature matrix of the pool in this frame."""
        blocks, start = [], 0
        for frame in self.blocks:
            stop = start + int(frame.mean.numel())
            blocks.append(Block(frame.name, start, stop))
            start = stop
        return Features(self.apply(raw), tuple(blocks), self.rows)


def fit_frame(raw: dict[str, Tensor]) -> Frame:
    """Frame of a pool from the raw blocks of its rows: ``embedding`` is centred, ``surface`` standardised."""
    blocks = tuple(fit_block(name, part, standardise=name == "surface") for name, part in raw.items())
    return Frame(blocks, next(iter(raw.values())).shape[0] if raw else 0)

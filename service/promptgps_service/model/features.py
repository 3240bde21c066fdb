"""Features of prompts: blocks of equal energy, standardised over the pool.

Two blocks of raw vectors come in (an embedding, surface counts); each is brought to mean squared
norm one over the pool, because stacking raw columns would drown 19 good features in 256 weak ones.
A third is made of the surface counts: random Fourier features, so that what is linear in features
may be curved in counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

CLIP = 4.0  # standard deviations; surface counts have heavy tails
WAVES = 128
OFFLINE_SLOPE = 0.7  # log-odds that one of another policy is worth, before this run has told
ROWS_AT_ONCE = 65_536
WAVE_LENGTH = 1.0  # the kernel's length scale, where the block's mean squared norm is one


@dataclass(frozen=True)
class Block:
    """Columns ``start:stop`` of the feature matrix.

    Their weights share one prior variance and mean.
    """

    name: str
    start: int
    stop: int
    prior_mean: float = 0.0


@dataclass(frozen=True)
class Features:
    """What a predictor knows of N prompts before any outcome.

    Attributes:
        x: float32[N, D].
        blocks: of its columns.
        frame_rows: how many first rows the standardisation was taken from.
        offline: float64[N, 2], successes and trials of another policy, 0 trials where there are
            none; None where no prompt of the run has any.
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
    """Affine map of one block, taken from the pool's first ``frame_rows`` rows, then frozen."""

    name: str
    mean: Tensor  # [D_g]
    # [D_g], one over the column's standard deviation; ones where columns are only centred
    scale: Tensor
    clip: bool
    energy: float  # the mean squared norm before the division

    def apply(self, raw: Tensor) -> Tensor:
        """Map raw float[M, D_g] into the frame, float32[M, D_g]; the unknown (NaN) is average."""
        x = (raw.to(torch.float32) - self.mean) * self.scale
        if self.clip:
            x = x.clamp(-CLIP, CLIP)
        return x.nan_to_num(0.0) / float(self.energy**0.5)


def fit_block(name: str, raw: Tensor, *, standardise: bool) -> BlockFrame:
    """Take a block's frame from its rows.

    Args:
        name: the block's name.
        raw: float[F, D_g]; rows with NaN are left out.
        standardise: divide columns by their standard deviation and clip at four of them (surface
            counts); otherwise only centre (embeddings, whose relative scale carries meaning).
    """
    told = int((~raw.isnan().any(1)).sum())

    def mean_of(statistic: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.stack([statistic(part) for part in _wide_parts(raw)]).sum(0) / told

    mean = mean_of(lambda part: part.sum(0))
    scale = torch.ones_like(mean)

    if standardise:
        std = mean_of(lambda part: (part - mean).square_().sum(0)).sqrt()
        scale = torch.where(std > 1e-9, 1.0 / std.clamp_min(1e-9), torch.zeros_like(std))

    limit = CLIP if standardise else math.inf
    energy = float(
        mean_of(lambda part: ((part - mean) * scale).clamp_(-limit, limit).square_().sum())
    )

    return BlockFrame(
        name, mean.float(), scale.float(), standardise, energy if energy > 1e-12 else 1.0
    )


def _wide_parts(raw: Tensor) -> Iterator[Tensor]:
    """The rows without NaN, some at a time, float64.

    All at once would take gigabytes of a pool of a million.
    """
    for start in range(0, len(raw), ROWS_AT_ONCE):
        part = raw[start : start + ROWS_AT_ONCE]
        yield part[~part.isnan().any(1)].to(torch.float64)


@dataclass(frozen=True)
class Frame:
    """The frames of all blocks of a pool."""

    blocks: tuple[BlockFrame, ...]
    rows: int

    def apply(self, raw: dict[str, Tensor]) -> Tensor:
        """Map raw blocks by name, each float[M, D_g], to features float32[M, D].

        A block that the frame has and the prompts have not, or not with all columns, is not known
        of any of them; one that the frame has not is left out.
        """
        rows = len(next(iter(raw.values())))
        x = torch.empty(rows, sum(int(frame.mean.numel()) for frame in self.blocks))

        for start in range(0, rows, ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            made: dict[str, Tensor] = {}
            for frame in self.blocks:
                made[frame.name] = frame.apply(self._block(frame, raw, part))
            if made:
                x[part] = torch.cat(list(made.values()), dim=1)

        return x

    def _block(self, frame: BlockFrame, raw: dict[str, Tensor], part: slice) -> Tensor:
        """Rows of one raw block, NaN where they are not known."""
        if frame.name == "waves":
            surface = next(other for other in self.blocks if other.name == "surface")
            return _waves_of(surface, self._block(surface, raw, part))

        block = raw.get(frame.name)
        if block is not None and block.shape[1] == frame.mean.numel():
            return block[part]

        count = len(next(iter(raw.values()))[part])
        return torch.full((count, frame.mean.numel()), torch.nan)

    def features(self, raw: dict[str, Tensor], offline: Tensor | None = None) -> Features:
        """Feature matrix of the pool in this frame; ``offline`` float64[N, 2] goes along."""
        blocks = []
        start = 0

        for frame in self.blocks:
            stop = start + int(frame.mean.numel())
            slope = OFFLINE_SLOPE * frame.energy**0.5 if frame.name == "offline" else 0.0
            blocks.append(Block(frame.name, start, stop, slope))
            start = stop

        return Features(self.apply(raw), tuple(blocks), self.rows, offline)


def fit_frame(raw: dict[str, Tensor]) -> Frame:
    """Frame of a pool from the raw blocks of its rows.

    A block without columns, or of NaN only, is left out.
    """
    told = {
        name: part for name, part in raw.items() if part.shape[1] and not bool(part.isnan().all())
    }
    blocks = [fit_block(name, part, standardise=name == "surface") for name, part in told.items()]
    surface = next((block for block in blocks if block.name == "surface"), None)
    if surface is not None:
        blocks.append(fit_block("waves", _waves_of(surface, raw["surface"]), standardise=False))

    return Frame(tuple(blocks), len(next(iter(raw.values()))))


def offline_log_odds(offline: Tensor) -> Tensor:
    """Raw block of offline pass rates: log-odds float64[M, 1], NaN if untried.

    The pass rates are float64[M, 2] (successes, trials).
    """
    s, n = offline.unbind(1)
    log_odds = torch.log((s + 0.5) / (n - s + 0.5))
    return torch.where(n > 0, log_odds, torch.nan)[:, None]


def offline_level(offline: Tensor | None) -> float:
    """Logits that offline pass rates, float64[M, 2], let expect of a pool; 0 without any."""
    return 0.0 if offline is None else OFFLINE_SLOPE * float(offline_log_odds(offline).nanmean())


def _waves_of(surface: BlockFrame, raw: Tensor) -> Tensor:
    """Waves of raw surface counts float[M, S]; NaN where they are not known.

    Those of an average text tell nothing.
    """
    made = waves(surface.apply(raw))
    return torch.where(raw.isnan().any(1, keepdim=True), torch.nan, made)


def waves(x: Tensor) -> Tensor:
    """Random Fourier features cos(x·ω + φ) for a Gaussian kernel; float32[M, 128].

    ``x`` is a block, float32[M, D_g].

    Rahimi and Recht, NeurIPS 2007, equation 1 and algorithm 1. The same ω and φ for every pool.
    """
    omega, phase = _waves(x.shape[1])
    return torch.cos(x @ omega.to(x.device) + phase.to(x.device))


@cache
def _waves(dimension: int) -> tuple[Tensor, Tensor]:
    # RandomState's stream is frozen for good (NumPy's NEP 19); the generators' may change, and
    # stored weights with it.
    fixed = np.random.RandomState(0)
    omega = fixed.standard_normal((dimension, WAVES)) / WAVE_LENGTH
    phase = fixed.uniform(0.0, 2.0 * math.pi, WAVES)
    return torch.from_numpy(omega).float(), torch.from_numpy(phase).float()

"""Simulated pools whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from promptgps_service.model.features import Features, fit_frame
from promptgps_service.model.predictor import Visits
from torch import Tensor

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
CPU = torch.device("cpu")


@dataclass
class World:
    """A pool of N prompts drawn from the hierarchical model itself, in training."""

    features: Features
    theta: Tensor  # float64[N], log-odds now
    random: torch.Generator
    drift: float = 0.0  # logits a step, common to all
    lift: float = 0.0  # logits an informative visit gives its own prompt
    seen: set[int] = field(default_factory=set)

    @property
    def gamma(self) -> Tensor:
        return torch.sigmoid(self.theta)

    @property
    def unseen(self) -> Tensor:
        return torch.tensor([row not in self.seen for row in range(len(self.theta))])

    def some(self, count: int) -> Tensor:
        return torch.randperm(len(self.theta), generator=self.random)[:count]

    def visit(self, rows: Tensor, trials: float = 8.0) -> Visits:
        """Roll out, then train: what comes back is of the policy before the training."""
        n = torch.full((len(rows),), trials, dtype=torch.float64)
        s = torch.binomial(n, self.gamma[rows], generator=self.random)
        self.theta[rows] += self.lift * ((s > 0) & (s < n))
        self.theta += self.drift
        self.seen.update(rows.tolist())
        return Visits(rows, s, n)


def make_world(
    prompts: int,
    dimension: int = 8,
    *,
    seed: int = 0,
    level: float = -0.5,
    text: float = 1.0,
    own: float = 2.0,
    drift: float = 0.0,
    lift: float = 0.0,
) -> World:
    """Theta = level + x·w + u, with variance ``text`` from x·w over the pool and ``own`` from u."""
    random = torch.Generator().manual_seed(seed)
    features = make_features(prompts, dimension, random)
    theta = level + own**0.5 * torch.randn(prompts, generator=random, dtype=torch.float64)
    if dimension:
        w = torch.randn(dimension, generator=random, dtype=torch.float64)
        # the blocks come first, what is made of them after
        told = features.x[:, :dimension].double() @ w
        theta += text**0.5 * told / told.square().mean().sqrt()
    return World(features, theta, random, drift, lift)


def make_features(prompts: int, dimension: int, random: torch.Generator) -> Features:
    if not dimension:
        return Features(torch.zeros(prompts, 0), (), prompts)
    half = dimension // 2
    raw = torch.randn(prompts, dimension, generator=random)
    blocks = {"embedding": raw[:, half:], "surface": raw[:, :half]}
    return fit_frame(blocks).features(blocks)


@pytest.fixture(scope="session")
def world():
    return make_world


@pytest.fixture(scope="session")
def data() -> Path:
    if not DATA.is_dir():
        pytest.skip(f"the recorded histories are not at {DATA}")
    return DATA

"""Pools to choose from: small ones by hand, random ones for laws."""

from __future__ import annotations

import numpy as np
import torch
from promptgps_service.acquisition.choose import Field, Group, Rules
from promptgps_service.acquisition.reuse import FREE
from promptgps_service.acquisition.utility import Aim
from promptgps_service.model.posterior import BetaPosterior, LogitNormal
from torch import Tensor

MIXED = Aim("mixed", rollouts=8)


def rules(
    aim: Aim = MIXED,
    *,
    candidate_factor: int | None = None,
    uniform_share: float = 0.0,
    diversity: float = 0.0,
) -> Rules:
    """Rules, greedy over the whole pool unless said otherwise."""
    return Rules(aim, candidate_factor, uniform_share, diversity)


def field(
    count: int,
    seed: int = 0,
    *,
    tier: Tensor | None = None,
    groups: tuple[Group, ...] = (),
    dimension: int = 4,
    anchors: int = 0,
) -> Field:
    """A pool of random prompts: logit-normal posteriors, unit embeddings.

    Every prompt is free unless said otherwise.
    """
    random = np.random.default_rng(seed)
    embedding = random.normal(size=(count, dimension)).astype(np.float32)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    return Field(
        identity=torch.from_numpy(random.integers(-(2**63), 2**63, count)),
        tier=torch.full((count,), FREE, dtype=torch.int8) if tier is None else tier,
        last_draw=torch.from_numpy(random.permutation(count).astype(np.int64)),
        posterior=LogitNormal(
            torch.from_numpy(random.normal(0.0, 2.0, count)),
            torch.from_numpy(random.uniform(0.01, 2.0, count)),
        ),
        embedding=torch.from_numpy(embedding),
        anchors=torch.from_numpy(random.integers(0, count, anchors))
        if anchors
        else torch.zeros(0, dtype=torch.long),
        groups=groups,
    )


def permuted(pool: Field, order: Tensor) -> Field:
    """The same prompts in another order: row i of the answer is row ``order[i]`` of the pool."""
    assert pool.embedding is not None
    assert pool.anchors is not None
    place = torch.empty_like(order)
    place[order] = torch.arange(order.numel())
    groups = tuple(
        Group(group.name, group.share, group.issued, group.rows[order]) for group in pool.groups
    )
    return Field(
        pool.identity[order],
        pool.tier[order],
        pool.last_draw[order],
        pool.posterior.take(order),
        pool.embedding[order],
        place[pool.anchors],
        groups,
    )


def certain(*gamma: float) -> BetaPosterior:
    """Posteriors that are almost sure of these success rates."""
    mean = torch.tensor(gamma, dtype=torch.float64)
    return BetaPosterior(1e9 * mean, 1e9 * (1 - mean))

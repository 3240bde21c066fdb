"""A log-linear pool of several predictors, its weights learned online from how well each predicted.

    logit p_i = Σ_k w_k logit p_ik,    w ≥ 0

p_ik is member k's E γ_i. The weights minimise the prequential log-loss (Dawid 1984: on outcomes
that no member had learned from yet) of the newest visits, older steps counting less, with a ridge
towards 1/K each. They need not sum to one: members that are right for different reasons are each
too timid, and their pool may be bolder than any.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from promptgps_service.model.features import Features
from promptgps_service.model.posterior import LogitNormal
from promptgps_service.model.predictor import (
    Continuing,
    Posterior,
    Predictor,
    Visits,
    part,
    require_rows,
)

MEMORY = 4096  # visits
FADING = 0.98  # what a visit keeps of its weight at the next step
# precision of the weights' prior, a standard deviation of 1/8: equal weights are hard to beat
RIDGE = 64.0
FARTHEST = 12.0  # logits of a mean
NEWTON_STEPS = 4
HALVINGS = 8


class Stack:
    """The pool of ``members`` over the same rows; it costs what they cost together."""

    name: ClassVar[str] = "stack"

    def __init__(self, members: Sequence[Predictor], *, device: torch.device) -> None:
        """Start at equal weights.

        Raises:
            ValueError: fewer than two members, or two of one kind.
        """
        self.members = {member.name: member for member in members}

        if len(members) < 2 or len(self.members) < len(members):
            raise ValueError("members must be at least two different predictors")

        count = len(members)
        self.weights = torch.full((count,), 1.0 / count, dtype=torch.float64, device=device)
        # a visit a row: the members' logits, s / n, and what it counts
        self.memory = torch.zeros(0, count + 2, dtype=torch.float64, device=device)
        self._told: list[Posterior] | None = None

    def observe(self, visits: Visits) -> None:
        """Weigh the members by a step's visits, and let them learn; an empty step changes nothing.

        Raises:
            ValueError: a row is outside the pool, or a member's fit broke off; those before it have
                learned.
        """
        if not len(visits):
            return

        remembered = self._remember(visits)
        self._told = None

        for member in self.members.values():
            member.observe(visits)

        self.memory = remembered
        self.weights = fit_weights(self.weights, self.memory)

    def predict(self) -> LogitNormal:
        """Posterior of γ for all N rows."""
        return pool(self._tell(), self.weights)

    def predict_new(self, features: Tensor) -> LogitNormal:
        """Posterior of γ for prompts never seen, from features float[L, D]."""
        return pool(
            [member.predict_new(features) for member in self.members.values()], self.weights
        )

    def grow(self, features: Features) -> None:
        """Take more rows."""
        for member in self.members.values():
            member.grow(features)
        self._told = None

    def begin(self, state: Mapping[str, Tensor], places: Tensor) -> None:
        """Start with another run's weights.

        Those members that can start from what theirs have learned do so.
        """
        for name, member in self.members.items():
            if isinstance(member, Continuing):
                member.begin(part(state, f"{name}."), places)
        self.weights = state["weights"].to(self.weights)
        self._told = None

    def vitals(self) -> dict[str, float]:
        """The weights, by member."""
        return {
            f"weight.{name}": float(w) for name, w in zip(self.members, self.weights, strict=True)
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Every member's state, the weights, and the visits they were learned from."""
        return {
            "weights": self.weights,
            "memory": self.memory,
            **{
                f"{name}.{key}": value
                for name, one in self.members.items()
                for key, value in one.state_dict().items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` gave.

        Raises:
            ValueError: the state is of another predictor, pool size or feature dimension; nothing
                has changed.
        """
        own = self.state_dict()
        if own.keys() != state.keys():
            raise ValueError("the state is not one of this stack")

        try:
            self._load(state)
        except ValueError:
            self._load(own)
            raise

    def _load(self, state: Mapping[str, Tensor]) -> None:
        for name, member in self.members.items():
            member.load_state_dict(part(state, f"{name}."))
        self.weights = state["weights"].to(self.weights)
        self.memory = state["memory"].to(self.memory)
        self._told = None

    def _tell(self) -> list[Posterior]:
        """What the members say of all rows, made once after each step."""
        if self._told is None:
            self._told = [member.predict() for member in self.members.values()]
        return self._told

    def _remember(self, visits: Visits) -> Tensor:
        """The memory with a step's visits, as they were predicted."""
        # of a step that is larger than the memory
        every = slice(None, None, -(-len(visits) // MEMORY))
        rows = visits.rows.to(self.memory.device)[every]

        means = [told.mean for told in self._tell()]
        require_rows(visits.rows, len(means[0]))
        logits = torch.stack([_logit(mean[rows]) for mean in means], dim=1)
        rate = (visits.successes / visits.trials).to(self.memory)[every]
        # A visit counts once however many its trials: they share the error of one prediction.
        counts = FADING ** visits.age.to(self.memory).expand(len(visits))[every]

        faded = self.memory.clone()
        faded[:, -1] *= FADING
        fresh = torch.cat([logits, rate[:, None], counts[:, None]], dim=1)
        return torch.cat([faded, fresh])[-MEMORY:]


def _logit(p: Tensor) -> Tensor:
    return torch.logit(p.double()).clamp(-FARTHEST, FARTHEST)


def pool(told: Sequence[Posterior], weights: Tensor) -> LogitNormal:
    """The members' posteriors as one; its mean is the pooled one.

    Args:
        told: K posteriors of the same M prompts.
        weights: float64[K].
    """
    pooled = (weights @ torch.stack([_logit(one.mean) for one in told])).clamp(-FARTHEST, FARTHEST)
    total = weights.sum()
    share = weights / total if float(total) > 0 else torch.full_like(weights, 1.0 / len(weights))
    # Members learn from the same outcomes: their errors are not independent, and pooling them takes
    # no doubt away.
    V = share @ torch.stack([one.logit_normal().variance.double() for one in told])

    return LogitNormal(pooled * torch.sqrt(1.0 + math.pi / 8.0 * V), V)


def fit_weights(start: Tensor, memory: Tensor) -> Tensor:
    """Weights float64[K] of the smallest discounted log-loss plus ridge.

    They are found by projected Newton (Bertsekas 1982).

    Args:
        start: float64[K], where to begin; at the weights of the step before, a few steps do.
        memory: float64[R, K + 2]; logits, success rate, and what a visit counts.
    """
    logits = memory[:, :-2]
    rate = memory[:, -2]
    counts = memory[:, -1]
    prior = torch.full_like(start, 1.0 / len(start))

    def loss(w: Tensor) -> float:
        theta = logits @ w
        return float(
            counts @ (softplus(theta) - rate * theta) + 0.5 * RIDGE * (w - prior).square().sum()
        )

    w = start
    for _ in range(NEWTON_STEPS):
        p = torch.sigmoid(logits @ w)
        slope = logits.T @ (counts * (p - rate)) + RIDGE * (w - prior)
        curvature = (logits.T * (counts * p * (1.0 - p))) @ logits + RIDGE * torch.diag(
            torch.ones_like(w)
        )
        free = (w > 0) | (slope < 0)
        step = torch.zeros_like(w)
        step[free] = torch.linalg.solve(curvature[free][:, free], slope[free])
        here = loss(w)
        sizes = (0.5**power for power in range(HALVINGS))
        w = next(
            (there for size in sizes if loss(there := (w - size * step).clamp_min(0.0)) < here), w
        )

    return w

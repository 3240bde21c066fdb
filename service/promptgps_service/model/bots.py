"""BOTS: per-prompt Beta records fed by own outcomes and by a reference policy's pass rates.

In a step, the pass rates feed every prompt that has no outcomes of its own.

After each step (arXiv 2510.26374, its Bayesian update with explicit and implicit evidence), for
every prompt:

    α ← λα + (1 − λ) + (1 − ρ) s + ρ s̃,    β ← λβ + (1 − λ) + (1 − ρ)(n − s) + ρ (ñ − s̃)

with s of n its own outcomes and s̃ of ñ the implicit ones. Visited prompts have s̃ = s; the others
s̃ = ñ p̃.

The paper interpolates p̃ between a weak and a strong reference. Here there is one column of offline
pass rates, so the present policy is placed relative to that one reference by a shift of its
log-odds: p̃_i = sigmoid(logit anchor_i + a), a filtered from the outcomes of prompts that have an
anchor (``shift``). ñ is the step's mean n, as the trainer's group size is not known here. Prompts
without an anchor have no implicit evidence: they are Beta(1, 1) and their own, fading.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from promptgps_service.model.features import Features
from promptgps_service.model.posterior import BetaPosterior
from promptgps_service.model.predictor import Visits, require_rows
from promptgps_service.model.shift import Shift

PRIOR = 1.0  # Beta(1, 1)
HALF = 0.5  # of a success and of a failure, added to an anchor's counts: its log-odds stay finite


class Bots:
    """Discounted Beta records with anchors; an update is linear in N.

    Args:
        features: of the pool; ``offline`` are the anchors.
        device: where everything is kept and computed.
        discount: λ, share of the evidence that a step keeps (the paper's forgetting is 1 − λ).
        weight: ρ, weight of implicit evidence.

    Raises:
        ValueError: a parameter is out of its range.
    """

    name: ClassVar[str] = "bots"

    def __init__(
        self,
        features: Features,
        *,
        device: torch.device,
        discount: float = 0.9,
        weight: float = 0.1,
    ) -> None:
        if not 0.0 <= discount <= 1.0:
            raise ValueError("discount must lie in [0, 1]")
        if not 0.0 <= weight <= 1.0:
            raise ValueError("weight must lie in [0, 1]")

        self.device = device
        self.discount = discount
        self.weight = weight
        self.dimension = features.dimension
        self.anchor = _anchors(features, device)
        # alpha, beta
        self.counts = torch.full((features.rows, 2), PRIOR, dtype=torch.float64, device=device)
        self.shift = Shift(device)

    def observe(self, visits: Visits) -> None:
        """Learn from one step's visits; an empty step changes nothing."""
        if not len(visits):
            return

        rows = visits.rows.to(self.device)
        require_rows(rows, len(self.counts))
        s, n = (part.to(self.counts) for part in (visits.successes, visits.trials))
        age = visits.age.to(self.counts).expand_as(s)
        self._place(rows, s, n, age)
        implicit = self.weight * n.mean() * self._implicit()
        implicit[rows] = (self.discount**age)[:, None] * torch.stack([s, n - s], dim=1)
        self.counts = self.discount * self.counts + (1.0 - self.discount) * PRIOR + implicit

    def predict(self) -> BetaPosterior:
        """Posterior of γ for all N rows."""
        return BetaPosterior(self.counts[:, 0], self.counts[:, 1])

    def predict_new(self, features: Tensor) -> BetaPosterior:
        """The prior, for every one of L prompts."""
        prior = self.counts.new_full((features.shape[0],), PRIOR)
        return BetaPosterior(prior, prior)

    def grow(self, features: Features) -> None:
        """Take more rows; their anchors speak from the next step on."""
        more = features.rows - len(self.counts)
        if more < 0:
            raise ValueError("a pool does not shrink")

        self.dimension = features.dimension
        self.anchor = _anchors(features, self.device)
        self.counts = torch.cat([self.counts, self.counts.new_full((more, 2), PRIOR)])

    def state_dict(self) -> dict[str, Tensor]:
        """The shift, and the counts of the rows that anything is known of."""
        rows = torch.nonzero((self.counts != PRIOR).any(1)).squeeze(1)
        shape = torch.tensor([len(self.counts), self.dimension])
        return {
            "shape": shape,
            "rows": rows,
            "counts": self.counts[rows],
            **{f"shift.{name}": value for name, value in self.shift.state_dict().items()},
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` gave.

        Raises:
            ValueError: the state is of another predictor, pool size or feature dimension.
        """
        if state.keys() != self.state_dict().keys():
            raise ValueError("the state is not one of the bots predictor")
        if state["shape"].tolist() != [len(self.counts), self.dimension]:
            raise ValueError("the state is of another pool size or feature dimension")

        rows = state["rows"].to(self.device)
        require_rows(rows, len(self.counts))
        self.counts = torch.full_like(self.counts, PRIOR)
        self.counts[rows] = state["counts"].to(self.counts)
        self.shift.load_state_dict(
            {name.removeprefix("shift."): value for name, value in state.items()}
        )

    def _place(self, rows: Tensor, s: Tensor, n: Tensor, age: Tensor) -> None:
        """Place the present policy relative to the reference, by the visits that have an anchor."""
        anchor = self.anchor[rows]
        there = anchor.isfinite()
        if bool(there.any()):
            self.shift.learn(anchor[there], s[there], n[there], age[there])

    def _implicit(self) -> Tensor:
        """Share of successes and of failures that the anchors lead to expect, float64[N, 2].

        It is 0 without an anchor.
        """
        rate = torch.sigmoid(self.anchor + self.shift.level.a)
        return torch.stack([rate, 1.0 - rate], dim=1).nan_to_num(0.0)


def _anchors(features: Features, device: torch.device) -> Tensor:
    """Log-odds of the reference policy, float64[N]; NaN where it has no trials."""
    if features.offline is None:
        return torch.full((features.rows,), torch.nan, dtype=torch.float64, device=device)
    s, n = features.offline.to(device, torch.float64).unbind(1)
    return torch.where(n > 0, torch.log((s + HALF) / (n - s + HALF)), torch.nan)

"""MoPPS: a discounted Beta record per prompt, nothing shared between prompts (arXiv 2507.04632)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from promptgps_service.model.features import Features
from promptgps_service.model.posterior import BetaPosterior
from promptgps_service.model.predictor import Visits, require_rows

PRIOR = 1.0  # Beta(1, 1)
CARRIED = 0.25  # of another run's evidence: its policy was another


class DiscountedBeta:
    """α ← λα + (1 − λ) + s and β ← λβ + (1 − λ) + n − s for the visited prompts, λ the discount.

    Outcomes made by a policy that is some steps old count λ^age times.
    """

    name: ClassVar[str] = "beta"

    def __init__(self, features: Features, *, device: torch.device, discount: float = 1.0) -> None:
        if not 0.0 <= discount <= 1.0:
            raise ValueError("discount must lie in [0, 1]")

        self.device = device
        self.discount = discount
        self.dimension = features.dimension
        # alpha, beta
        self.counts = torch.full((features.rows, 2), PRIOR, dtype=torch.float64, device=device)
        self.visited = torch.zeros(features.rows, dtype=torch.bool, device=device)

    def observe(self, visits: Visits) -> None:
        """Learn from one step's visits; an empty step changes nothing."""
        if not len(visits):
            return

        rows = visits.rows.to(self.device)
        require_rows(rows, len(self.counts))
        s = visits.successes.to(self.counts)
        weight = self.discount ** visits.age.to(self.counts)
        new = torch.stack([weight * s, weight * (visits.trials.to(self.counts) - s)], dim=1)
        self.counts[rows] = self.discount * self.counts[rows] + (1.0 - self.discount) * PRIOR + new
        self.visited[rows] = True

    def predict(self) -> BetaPosterior:
        """Posterior of γ for all N rows; a copy, as the counts are updated in place."""
        return BetaPosterior(self.counts[:, 0].clone(), self.counts[:, 1].clone())

    def predict_new(self, features: Tensor) -> BetaPosterior:
        """The prior, for every one of L prompts."""
        prior = self.counts.new_full((features.shape[0],), PRIOR)
        return BetaPosterior(prior, prior)

    def begin(self, state: Mapping[str, Tensor], places: Tensor) -> None:
        """Start with a part of the evidence another run had, where the prompts are the same."""
        rows = places.to(self.device)[state["rows"].to(self.device)]
        kept = rows >= 0
        self.counts[rows[kept]] = PRIOR + CARRIED * (state["counts"].to(self.counts)[kept] - PRIOR)
        self.visited[rows[kept]] = True

    def grow(self, features: Features) -> None:
        """Take more rows."""
        more = features.rows - len(self.counts)
        if more < 0:
            raise ValueError("a pool does not shrink")

        self.dimension = features.dimension
        self.counts = torch.cat([self.counts, self.counts.new_full((more, 2), PRIOR)])
        self.visited = torch.cat([self.visited, self.visited.new_zeros(more)])

    def state_dict(self) -> dict[str, Tensor]:
        """Counts of the visited rows."""
        rows = torch.nonzero(self.visited).squeeze(1)
        shape = torch.tensor([len(self.counts), self.dimension])
        return {"shape": shape, "rows": rows, "counts": self.counts[rows]}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` gave.

        Raises:
            ValueError: the state is of another predictor, pool size or feature dimension.
        """
        if state.keys() != {"shape", "rows", "counts"}:
            raise ValueError("the state is not one of the beta predictor")
        if state["shape"].tolist() != [len(self.counts), self.dimension]:
            raise ValueError("the state is of another pool size or feature dimension")

        rows = state["rows"].to(self.device)
        require_rows(rows, len(self.counts))
        self.counts = torch.full_like(self.counts, PRIOR)
        self.counts[rows] = state["counts"].to(self.counts)
        self.visited = torch.zeros_like(self.visited)
        self.visited[rows] = True

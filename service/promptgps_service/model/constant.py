"""The least a predictor must beat: one drifting level for all, no prompt known from another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from promptgps_service.model.features import Features
from promptgps_service.model.posterior import LogitNormal
from promptgps_service.model.predictor import Visits, require_rows
from promptgps_service.model.shift import Shift


class Constant:
    """theta_it = a_t + N(0, su2), see ``Shift``."""

    name: ClassVar[str] = "constant"

    def __init__(self, features: Features, *, device: torch.device) -> None:
        self.device = device
        self.rows = features.rows
        self.dimension = features.dimension
        self.shift = Shift(device)

    def observe(self, visits: Visits) -> None:
        """Learn from one step's visits; an empty step changes nothing."""
        if not len(visits):
            return

        require_rows(visits.rows, self.rows)
        s = visits.successes.to(self.device, torch.float64)
        n = visits.trials.to(self.device, torch.float64)
        self.shift.learn(torch.zeros_like(s), s, n, visits.age)

    def predict(self) -> LogitNormal:
        """The same posterior of γ for all N rows."""
        return self._posterior(self.rows)

    def predict_new(self, features: Tensor) -> LogitNormal:
        """The same posterior of γ for every one of L prompts."""
        return self._posterior(features.shape[0])

    def grow(self, features: Features) -> None:
        """Take more rows."""
        if features.rows < self.rows:
            raise ValueError("a pool does not shrink")
        self.rows = features.rows
        self.dimension = features.dimension

    def state_dict(self) -> dict[str, Tensor]:
        """Level and variances."""
        return {"shape": torch.tensor([self.rows, self.dimension]), **self.shift.state_dict()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` gave.

        Raises:
            ValueError: the state is of another predictor, pool size or feature dimension.
        """
        if state.keys() != self.state_dict().keys():
            raise ValueError("the state is not one of the constant predictor")
        if state["shape"].tolist() != [self.rows, self.dimension]:
            raise ValueError("the state is of another pool size or feature dimension")
        self.shift.load_state_dict(state)

    def _posterior(self, count: int) -> LogitNormal:
        mu = torch.full((count,), self.shift.level.a, dtype=torch.float64, device=self.device)
        return LogitNormal(
            mu, torch.full_like(mu, self.shift.spread.value + self.shift.level.variance)
        )

"""The least that a predictor must beat: one drifting level for all prompts, no prompt known from another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from promptgps_service.model.features import Features
from promptgps_service.model.level import Level
from promptgps_service.model.posterior import LogitNormal
from promptgps_service.model.predictor import Visits, require_rows
from promptgps_service.model.quadrature import log_expected_likelihood
from promptgps_service.model.variances import drift_grid, spread_grid

FORGETTING = 0.95
DRIFT_PROMPTS = 256.0


class Constant:
    """theta_it = a_t + N(0, su2), drawn anew at every visit; a_t a random walk, both variances learned."""

    name: ClassVar[str] = "constant"

    def __init__(self, features: Features, *, device: torch.device) -> None:
        self.device = device
        self.rows, self.dimension = features.rows, features.dimension
        self.step = 0
        self.level = Level(device)
        self.spread = spread_grid(device)
        self.drift = drift_grid(device)

    def observe(self, visits: Visits) -> None:
        """Learn from one step's visits; an empty step changes nothing."""
        if not len(visits):
            return
        require_rows(visits.rows, self.rows)
        s, n = visits.successes.to(self.device, torch.float64), visits.trials.to(self.device, torch.float64)
        spread = torch.full_like(s, self.spread.value)
        drift = self.drift.value if self.step else 0.0
        lifted = torch.zeros_like(s, dtype=torch.bool)
        mu = torch.full_like(s, self.level.a)
        moved = self.level.update(mu, spread, s, n, lifted, drift, self.drift.values)
        if self.step:
            self.drift.learn(moved.evidence * min(1.0, DRIFT_PROMPTS / len(visits)), FORGETTING)
        mu = (mu + moved.da).expand(len(self.spread.values), -1)
        evidence = log_expected_likelihood(mu, self.spread.values[:, None], s, n).sum(1)
        self.spread.learn(evidence, FORGETTING)
        self.step += 1

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
        self.rows, self.dimension = features.rows, features.dimension

    def state_dict(self) -> dict[str, Tensor]:
        """Level and variances."""
        return {
            "shape": torch.tensor([self.rows, self.dimension]),
            "step": torch.tensor(self.step),
            "level": self.level.to_tensor(),
            "spread": self.spread.evidence,
            "drift": self.drift.evidence,
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` gave.

        Raises:
            ValueError: the state is of another predictor, pool size or feature dimension.
        """
        if state.keys() != self.state_dict().keys():
            raise ValueError("the state is not one of the constant predictor")
        if state["shape"].tolist() != [self.rows, self.dimension]:
            raise ValueError("the state is of another pool size or feature dimension")
        self.step = int(state["step"])
        self.level.restore(state["level"])
        self.spread.restore(state["spread"].to(self.device))
        self.drift.restore(state["drift"].to(self.device))

    def _posterior(self, count: int) -> LogitNormal:
        mu = torch.full((count,), self.level.a, dtype=torch.float64, device=self.device)
        return LogitNormal(mu, torch.full_like(mu, self.spread.value + self.level.variance))

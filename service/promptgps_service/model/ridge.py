"""Baseline: ridge regression of observed success on the features, recent visits first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from promptgps_service.model.features import Features
from promptgps_service.model.posterior import LogitNormal
from promptgps_service.model.predictor import Visits, require_rows

RECENCY = 0.9  # weight a step keeps at the next
PENALTY = 1.0
EDGE = 0.01  # predictions stay so far inside [0, 1]
VARIANCE_START = 0.08  # that of a uniform γ
RESIDUAL_MEMORY = 0.95
LOG_ODDS_VARIANCE = (0.01, 10.0)


class Ridge:
    """γ̂_i = mean + x_i·w by exponentially forgetting normal equations.

    Nothing of a prompt's own is remembered.
    """

    name: ClassVar[str] = "ridge"

    def __init__(self, features: Features, *, device: torch.device) -> None:
        self.device = device
        self.x = features.x.to(device)
        dimension = features.dimension
        self.gram = torch.zeros(dimension, dimension, dtype=torch.float64, device=device)
        self.moment = torch.zeros(dimension, dtype=torch.float64, device=device)
        self.sum_x = torch.zeros(dimension, dtype=torch.float64, device=device)
        # weights, weighted sum of s/n
        self.totals = torch.zeros(2, dtype=torch.float64, device=device)
        self.variance = torch.tensor(VARIANCE_START, dtype=torch.float64, device=device)
        self.w = torch.zeros(dimension, dtype=torch.float64, device=device)

    def observe(self, visits: Visits) -> None:
        """Learn from one step's visits; an empty step changes nothing."""
        if not len(visits):
            return

        rows = visits.rows.to(self.device)
        require_rows(rows, len(self.x))

        x = self.x[rows].double()
        rate = (visits.successes / visits.trials).to(self.gram)
        weight = (RECENCY ** visits.age.to(rate)).expand_as(rate)
        weighted = weight[:, None] * x
        residual = (rate - self._mean(self.x[rows])).square().mean()

        if float(self.totals[0]) > 0:
            self.variance = RESIDUAL_MEMORY * self.variance + (1 - RESIDUAL_MEMORY) * residual

        self.gram = RECENCY * self.gram + weighted.T @ x
        self.moment = RECENCY * self.moment + weighted.T @ rate
        self.sum_x = RECENCY * self.sum_x + weighted.sum(0)
        self.totals = RECENCY * self.totals + torch.stack([weight.sum(), (weight * rate).sum()])
        self._solve()

    def _solve(self) -> None:
        weight, total = self.totals
        centre = self.sum_x / weight
        gram = self.gram - weight * torch.outer(centre, centre)
        gram = gram + PENALTY * torch.eye(len(centre), dtype=gram.dtype, device=gram.device)
        self.w = torch.linalg.solve(gram, self.moment - centre * total)

    def _mean(self, x: Tensor) -> Tensor:
        weight, total = self.totals
        if float(weight) == 0:
            return torch.full((len(x),), 0.5, dtype=torch.float64, device=self.device)

        base = total / weight - self.sum_x @ self.w / weight
        mean: Tensor = base + (x @ self.w.float()).double()
        return mean.clamp(EDGE, 1 - EDGE)

    def predict(self) -> LogitNormal:
        """Posterior of γ for all N rows."""
        return self.predict_new(self.x)

    def predict_new(self, features: Tensor) -> LogitNormal:
        """The regression's mean with the variance of its recent errors.

        They are carried to log-odds by their slope.
        """
        mean = self._mean(features.to(self.device, torch.float32))
        variance = (self.variance / (mean * (1 - mean)).square()).clamp(*LOG_ODDS_VARIANCE)
        return LogitNormal(torch.logit(mean) * torch.sqrt(1 + math.pi / 8 * variance), variance)

    def grow(self, features: Features) -> None:
        """Take more rows, or another frame of the same columns.

        What was learned fades within a few steps.
        """
        if features.rows < len(self.x):
            raise ValueError("a pool does not shrink")
        self.x = features.x.to(self.device)

    def state_dict(self) -> dict[str, Tensor]:
        """Normal equations and the size they are for."""
        return {
            "shape": torch.tensor(list(self.x.shape)),
            "gram": self.gram,
            "moment": self.moment,
            "sum_x": self.sum_x,
            "totals": self.totals,
            "variance": self.variance,
            "w": self.w,
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` gave.

        Raises:
            ValueError: the state is of another predictor, pool size or feature dimension.
        """
        if state.keys() != self.state_dict().keys():
            raise ValueError("the state is not one of the ridge predictor")
        if state["shape"].tolist() != list(self.x.shape):
            raise ValueError("the state is of another pool size or feature dimension")

        for name in ("gram", "moment", "sum_x", "totals", "variance", "w"):
            setattr(self, name, state[name].to(self.gram))

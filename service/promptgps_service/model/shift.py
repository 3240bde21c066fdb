"""One drifting level over given log-odds, with its variances.

It is what is left where no prompt is known from another.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from promptgps_service.model.level import Level
from promptgps_service.model.quadrature import log_expected_likelihood
from promptgps_service.model.variances import drift_grid, spread_grid

FORGETTING = 0.95
DRIFT_PROMPTS = 256.0


class Shift:
    """theta_it = offset_i + a_t + N(0, su2), the last drawn anew at every visit.

    a_t is a random walk; both variances are learned.
    """

    def __init__(self, device: torch.device) -> None:
        self.step = 0
        self.level = Level(device)
        self.spread = spread_grid(device)
        self.drift = drift_grid(device)

    def learn(self, offset: Tensor, s: Tensor, n: Tensor, age: Tensor) -> None:
        """Learn from visits, float64[M] each, of prompts with these offsets; M ≥ 1."""
        mu = offset + self.level.a
        share = self._share(mu, n, age.to(n))
        s = share * s
        n = share * n
        spread = torch.full_like(s, self.spread.value)
        drift = self.drift.value if self.step else 0.0
        lifted = torch.zeros_like(s, dtype=torch.bool)
        moved = self.level.update(mu, spread, s, n, lifted, drift, self.drift.values)

        if self.step:
            self.drift.learn(moved.evidence * min(1.0, DRIFT_PROMPTS / len(s)), FORGETTING)

        mu = (mu + moved.da).expand(len(self.spread.values), -1)
        evidence = log_expected_likelihood(mu, self.spread.values[:, None], s, n).sum(1)
        self.spread.learn(evidence, FORGETTING)
        self.step += 1

    def _share(self, mu: Tensor, n: Tensor, age: Tensor) -> Tensor:
        """What visits ``age`` steps late count, float64[M] in (0, 1].

        The level's walk since is common to them (``staleness.temper`` is for walks of their own):
        together they observe the level with the information J of all, and by the walk with
        J / (1 + J age qa).
        """
        p = torch.sigmoid(mu)
        alone = n * p * (1.0 - p)
        together = (alone / (1.0 + alone * self.spread.value) * (age > 0)).sum()
        return 1.0 / (1.0 + together * age * self.drift.value)

    def state_dict(self) -> dict[str, Tensor]:
        """Level and variances."""
        return {
            "step": torch.tensor(self.step),
            "level": self.level.to_tensor(),
            "spread": self.spread.evidence,
            "drift": self.drift.evidence,
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` gave."""
        self.step = int(state["step"])
        self.level.restore(state["level"])
        self.spread.restore(state["spread"].to(self.spread.values))
        self.drift.restore(state["drift"].to(self.drift.values))

"""The service's way of choosing, driven in process: predictor, eligibility, candidates, utility."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from promptgps_client.wire import CreateRun
from promptgps_service.acquisition.choose import Field, choose
from promptgps_service.acquisition.randomness import derive
from promptgps_service.acquisition.reuse import Traffic, tiers
from promptgps_service.embedding.wordllama import embed
from promptgps_service.flow.run_settings import RunSettings
from promptgps_service.model.features import Features
from promptgps_service.model.predictor import Visits
from promptgps_service.model.registry import make_predictor
from torch import Tensor

FREE_REUSE = {"cooldown": 0, "candidate_factor": None, "uniform_share": 0.0}
NEVER = -(2**60)


@dataclass
class Chooser:
    """One run's selector without the service around it; rows are 0 .. N."""

    features: Features
    selection: dict[str, Any]
    seed: int = 0
    rollouts: int = 8
    texts: Sequence[str] = ()  # needed with diversity

    def __post_init__(self) -> None:
        asked = CreateRun.model_validate({"name": "r", "pool": "p", "selection": self.selection})
        self.settings = RunSettings.of(asked)
        name, parameters = self.settings.predictor()
        cpu = torch.device("cpu")
        self.predictor = make_predictor(name, self.features, cpu, **parameters)

        n = self.features.rows
        self.identity = torch.randint(
            -(2**62), 2**62, (n,), generator=torch.Generator().manual_seed(self.seed)
        )
        self.traffic = Traffic(
            torch.full((n,), NEVER), torch.full((n,), -1), torch.zeros(n, dtype=torch.int32)
        )

        self.clock = 0
        self.draws = 0
        self.embedding = (
            torch.as_tensor(embed(self.texts)) if self.settings.selection.diversity else None
        )
        self.recent: list[Tensor] = []

    def choose(self, size: int, allowed: Tensor | None = None) -> Tensor:
        """Rows of the next batch, long[size]."""
        field = Field(
            identity=self.identity,
            tier=tiers(
                self.traffic,
                self.settings.reuse(),
                clock=self.clock,
                draws=self.draws,
                retired=None,
                allowed=allowed,
            ),
            last_draw=self.traffic.last_draw,
            posterior=self.predictor.predict(),
            embedding=self.embedding,
            anchors=torch.cat(self.recent) if self.recent else None,
        )

        rules = self.settings.rules(self.rollouts)
        if self.clock == 0:  # as the service does while nothing has been learned
            rules = replace(rules, uniform_share=1.0)

        rows = choose(field, rules, size, derive(self.seed, self.clock)).rows

        self.traffic.last_clock[rows] = self.clock
        self.traffic.last_draw[rows] = torch.arange(size) + self.draws
        self.recent = [*self.recent, rows][-(self.settings.selection.history_steps or 0) :]
        self.clock += 1
        self.draws += size

        return rows

    def observe(self, rows: Tensor, successes: Tensor, trials: Tensor) -> None:
        """Learn what came of them."""
        self.predictor.observe(Visits(rows, successes.double(), trials.double()))

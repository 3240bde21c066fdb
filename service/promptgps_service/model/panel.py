"""A predictor beside its baselines: all are scored before anyone learns, and the one that deserves it is served.

The main predictor is served unless it fails, or has for long been worse than its best baseline. Worse is measured by
prequential log-loss (Dawid 1984), which no predictor can improve by knowing the answer, discounted so that a run that
changed its character is judged by what it is now.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from promptgps_service.model.features import Features
from promptgps_service.model.predictor import Posterior, Predictor, Visits
from promptgps_service.model.quality import Scores, score

MEMORY = 0.9  # of the discounted losses, per step: about the last ten count
PATIENCE = 10  # steps before anybody may be replaced
MARGIN = 0.01  # nats per attempt that the main predictor may lie behind


@dataclass(frozen=True)
class Report:
    """What a step showed.

    Attributes:
        scores: of every predictor that could predict, by name.
        served: name of the predictor that answers from now on.
        failed: what went wrong, by name of the predictor.
    """

    scores: dict[str, Scores]
    served: str
    failed: dict[str, str]


class Panel:
    """The main predictor (first) and its baselines over the same rows; the served one answers."""

    def __init__(self, members: list[Predictor], *, replaceable: bool = True) -> None:
        """Start with the main predictor served; unless it is ``replaceable``, only a failure puts it back."""
        self.replaceable = replaceable
        self.members = {member.name: member for member in members}
        self.main = members[0].name
        self.served = self.main
        self.steps = 0
        self._loss = dict.fromkeys(self.members, 0.0)
        self._weight = dict.fromkeys(self.members, 0.0)
        self._failed: dict[str, str] = {}
        self._posteriors: dict[str, Posterior] = {}

    def posterior(self, name: str) -> Posterior:
        """A member's posterior for all rows, made once after each step."""
        if name not in self._posteriors:
            self._posteriors[name] = self.members[name].predict()
        return self._posteriors[name]

    def observe(self, visits: Visits) -> Report:
        """Score everybody on a step, let everybody learn from it, and decide who is served."""
        scores = {}
        for name in self.members:
            scores[name] = self._score(name, visits)
        for name, member in self.members.items():
            self._learn(name, member, visits)
        self.steps += 1
        self._decide()
        return Report(scores, self.served, dict(self._failed))

    def _score(self, name: str, visits: Visits) -> Scores:
        mean = self.posterior(name).take(visits.rows).mean
        found = score(mean.cpu(), visits.successes, visits.trials)
        self._loss[name] = MEMORY * self._loss[name] + found.log_loss
        self._weight[name] = MEMORY * self._weight[name] + 1.0
        return found

    def _learn(self, name: str, member: Predictor, visits: Visits) -> None:
        """A fit that breaks off leaves its last good state, and is tried again at the next step."""
        before = member.state_dict()
        try:
            member.observe(visits)
            after = member.predict()
            if not bool(torch.isfinite(after.mean).all()):
                raise ArithmeticError("its predictions are not finite")
        except (ValueError, ArithmeticError, RuntimeError) as error:
            member.load_state_dict(before)
            self._failed[name] = str(error)
            self._posteriors[name] = member.predict()
        else:
            self._failed.pop(name, None)
            self._posteriors[name] = after

    def _decide(self) -> None:
        able = [name for name in self.members if name not in self._failed and self._weight[name] > 0]
        if not able:
            return
        best = min(able, key=self.loss)
        patient = not self.replaceable or self.steps < PATIENCE
        if self.main in able and (patient or self.loss(self.main) <= self.loss(best) + MARGIN):
            best = self.main
        self.served = best

    def loss(self, name: str) -> float:
        """Discounted log-loss of a predictor, nats per attempt."""
        return self._loss[name] / self._weight[name] if self._weight[name] else float("inf")

    def predict(self) -> Posterior:
        """The served predictor's posterior for all rows."""
        return self.posterior(self.served)

    def predict_new(self, features: Tensor) -> Posterior:
        """The served predictor's posterior for prompts outside the pool."""
        return self.members[self.served].predict_new(features)

    def grow(self, features: Features) -> None:
        """Take more rows."""
        for member in self.members.values():
            member.grow(features)
        self._posteriors = {}

    def state_dict(self) -> dict[str, Tensor]:
        """Everybody's state, by name, and the standing."""
        names = list(self.members)
        standing = [[self._loss[name], self._weight[name]] for name in names]
        state = {f"{name}.{key}": value for name in names for key, value in self.members[name].state_dict().items()}
        return state | {
            "panel.standing": torch.tensor(standing, dtype=torch.float64),
            "panel.place": torch.tensor([self.steps, names.index(self.served)]),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` gave.

        Raises:
            ValueError: the state is of other predictors, pool size or feature dimension.
        """
        names = list(self.members)
        if state.get("panel.standing", torch.zeros(0)).shape != (len(names), 2):
            raise ValueError("the state is not one of these predictors")
        for name in names:
            own = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
            self.members[name].load_state_dict(own)
        for name, (loss, weight) in zip(names, state["panel.standing"].tolist(), strict=True):
            self._loss[name], self._weight[name] = loss, weight
        self.steps, served = (int(value) for value in state["panel.place"])
        self.served = names[served]
        self._failed, self._posteriors = {}, {}


"""A predictor beside its baselines.

All are scored before anyone learns, and the one that deserves it is served.

The main predictor is served unless it fails, or has for long been worse than a baseline. Worse is
measured by prequential log-loss (Dawid 1984), which no predictor can improve by knowing the answer,
step by step against the main one's on the same outcomes, discounted so that a run that changed its
character is judged by what it is now. Small batches are noisy, so the difference must also stand
out from its own spread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from promptgps_service.model.features import Features
from promptgps_service.model.predictor import Continuing, Posterior, Predictor, Visits, Vital, part
from promptgps_service.model.quality import Scores, score

MEMORY = 0.9  # of the discounted losses, per step
# so many independent steps have the same spread of their mean
EFFECTIVE_STEPS = (1 + MEMORY) / (1 - MEMORY)
PATIENCE = 20  # steps before anybody may be replaced
MARGIN = 0.02  # nats per attempt that the main predictor may lie behind
SIGNIFICANCE = 3.0  # standard errors that the difference must measure


@dataclass(frozen=True)
class Report:
    """What a step showed.

    Attributes:
        scores: of every predictor, by name.
        uniform: the same on the uniform picks, which selection does not bias; empty where there
            were none.
        served: name of the predictor that answers from now on.
        failed: what went wrong, by name of the predictor.
        vitals: what predictors tell of themselves, as `{predictor}.{what}`.
    """

    scores: dict[str, Scores]
    uniform: dict[str, Scores]
    served: str
    failed: dict[str, str]
    vitals: dict[str, float]


class Panel:
    """The main predictor (first) and its baselines over the same rows; the served one answers."""

    def __init__(self, members: list[Predictor], *, replaceable: bool = True) -> None:
        """Start with the main predictor served.

        Unless it is ``replaceable``, only a failure puts it back.
        """
        self.replaceable = replaceable
        self.members = {member.name: member for member in members}
        self.main = members[0].name
        self.served = self.main
        self.steps = 0
        # discounted means over the steps: of the log-loss, of its excess of the main one's over it,
        # of that squared
        self._standing = {name: torch.zeros(3, dtype=torch.float64) for name in self.members}
        self._failed: dict[str, str] = {}
        self._posteriors: dict[str, Posterior] = {}

    def posterior(self, name: str) -> Posterior:
        """A member's posterior for all rows, made once after each step."""
        if name not in self._posteriors:
            self._posteriors[name] = self.members[name].predict()
        return self._posteriors[name]

    def observe(self, visits: Visits, uniform: Tensor | None = None) -> Report:
        """Score everybody on a step, let everybody learn from it, and decide who is served.

        Args:
            visits: the step.
            uniform: bool[M], which of the visits were uniform picks.
        """
        everything = torch.ones(len(visits), dtype=torch.bool)
        counts = torch.stack([visits.successes, visits.trials])
        observed = counts if visits.observed is None else visits.observed

        scores = self._scores(visits.rows, observed, everything)
        monitor = {} if uniform is None else self._scores(visits.rows, observed, uniform)
        tempered = scores if observed is counts else self._scores(visits.rows, counts, everything)
        self._compare(tempered)

        for name, member in self.members.items():
            self._learn(name, member, visits)

        self._decide()
        return Report(scores, monitor, self.served, dict(self._failed), self._vitals())

    def _scores(self, visited: Tensor, counts: Tensor, which: Tensor) -> dict[str, Scores]:
        """Everybody's on a step.

        Args:
            visited: long[M], its rows.
            counts: float64[2, M], successes and trials.
            which: bool[M], the visits to be scored on; without any there are no scores.
        """
        if not bool(which.any()):
            return {}

        rows = visited[which]
        s, n = counts[:, which]
        return {
            name: score(self.posterior(name).take(rows).mean.cpu(), s, n) for name in self.members
        }

    def _vitals(self) -> dict[str, float]:
        told = {
            name: member.vitals()
            for name, member in self.members.items()
            if isinstance(member, Vital)
        }
        return {
            f"{name}.{key}": value for name, vitals in told.items() for key, value in vitals.items()
        }

    def _compare(self, scores: dict[str, Scores]) -> None:
        for name, found in scores.items():
            gap = scores[self.main].log_loss - found.log_loss
            now = torch.tensor([found.log_loss, gap, gap * gap], dtype=torch.float64)
            # a plain mean until there is something to forget
            memory = min(MEMORY, self.steps / (self.steps + 1))
            self._standing[name] = memory * self._standing[name] + (1 - memory) * now

        self.steps += 1

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
        able = [name for name in self.members if name not in self._failed]
        if self.main in able:
            patient = not self.replaceable or self.steps < PATIENCE
            able = (
                [self.main]
                if patient
                else [name for name in able if self._is_better(name)] or [self.main]
            )

        if able:
            self.served = min(able, key=self.loss)

    def _is_better(self, name: str) -> bool:
        """Whether a predictor has for long, and beyond chance, been better than the main one."""
        _, gap, square = self._standing[name].tolist()
        error = (max(square - gap * gap, 0.0) / EFFECTIVE_STEPS) ** 0.5
        return bool(gap > MARGIN and gap > SIGNIFICANCE * error)

    def loss(self, name: str) -> float:
        """Discounted log-loss of a predictor, nats per attempt."""
        return float(self._standing[name][0])

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

    def begin(self, state: Mapping[str, Tensor], places: Tensor) -> None:
        """Let those who can start from what the panel of another run has learned.

        See ``predictor.Continuing``.
        """
        for name, member in self.members.items():
            if isinstance(member, Continuing):
                member.begin(part(state, f"{name}."), places)
        self._posteriors = {}

    def state_dict(self) -> dict[str, Tensor]:
        """Everybody's state, by name, and the standing."""
        names = list(self.members)
        state = {
            f"{name}.{key}": value
            for name in names
            for key, value in self.members[name].state_dict().items()
        }
        return state | {
            "panel.standing": torch.stack([self._standing[name] for name in names]),
            "panel.place": torch.tensor([self.steps, names.index(self.served)]),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` gave.

        Raises:
            ValueError: the state is of other predictors, pool size or feature dimension.
        """
        names = list(self.members)
        if state.get("panel.standing", torch.zeros(0)).shape != (len(names), 3):
            raise ValueError("the state is not one of these predictors")

        for name in names:
            self.members[name].load_state_dict(part(state, f"{name}."))

        self._standing = dict(zip(names, state["panel.standing"].cpu().clone(), strict=True))
        self.steps, served = (int(value) for value in state["panel.place"])
        self.served = names[served]
        self._failed = {}
        self._posteriors = {}

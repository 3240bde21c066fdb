"""The one question an acquisition may ask, and the protocol every predictor answers it by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from promptgps_service.model.features import Features
from promptgps_service.model.posterior import LogitNormal

FRESH = torch.zeros((), dtype=torch.float64)


@dataclass(frozen=True)
class Visits:
    """H_t: the outcomes of one step, merged so that a prompt stands in it once.

    Attributes:
        rows: long[M], distinct rows of the pool.
        successes: float64[M], 0 <= s <= n; fractional where rewards are continuous or evidence is
            tempered.
        trials: float64[M], n > 0.
        age: float64[M] or one number for all, steps learned by newer policies than the one that
            made the outcomes. The older, the less an outcome weighs; at 0 it weighs in full.
        observed: float64[2, M], successes and trials as they were reported, where outcomes of
            several ages have been tempered to be merged; None where s and n are what was reported.
            It is scored against, never learned from.
    """

    rows: Tensor
    successes: Tensor
    trials: Tensor
    age: Tensor = FRESH
    observed: Tensor | None = None

    def __len__(self) -> int:
        return int(self.rows.numel())


def require_rows(rows: Tensor, count: int) -> None:
    """Check that ``rows``, long[M], lie in a pool of ``count``.

    Indexing outside it on a GPU would abort the process.

    Raises:
        ValueError: a row is outside the pool.
    """
    if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < count:
        raise ValueError("a row is outside the pool")


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries of a state whose names begin with ``prefix``, without it."""
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


class Posterior(Protocol):
    """Distribution of the success rate γ of M prompts, independent between prompts."""

    @property
    def mean(self) -> Tensor:
        """E γ, float[M]."""
        ...

    @property
    def std(self) -> Tensor:
        """SD γ, float[M]."""
        ...

    def nodes(self) -> tuple[Tensor, Tensor]:
        """Quadrature of γ: values float[M, K] and weights float[K] that sum to one."""
        ...

    def quantile(self, level: Tensor) -> Tensor:
        """γ at the given probability level, float[M].

        ``level`` is float[M] or a scalar tensor in (0, 1).

        With uniform levels this is one Thompson draw per prompt; with constant ones an interval's
        end.
        """
        ...

    def logit_normal(self) -> LogitNormal:
        """The same, or where it has another form, that of the same mean and variance of γ."""
        ...

    def take(self, rows: Tensor) -> Posterior:
        """The same for a subset of the prompts, ``rows`` long[L]."""
        ...


class Predictor(Protocol):
    """Learns from the log, step by step, and predicts for every row and for unseen features."""

    name: ClassVar[str]

    def observe(self, visits: Visits) -> None:
        """Learn from one step's visits; time moves on by one step. An empty step changes nothing.

        Raises:
            ValueError: a row is outside the pool.
        """
        ...

    def predict(self) -> Posterior:
        """Posterior of γ for all N rows, for the policy of the step to come."""
        ...

    def predict_new(self, features: Tensor) -> Posterior:
        """Posterior of γ for prompts that are not in the pool, from features float[L, D]."""
        ...

    def grow(self, features: Features) -> None:
        """Take a longer or re-framed feature matrix; rows known so far keep their places."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Everything learned, as tensors; ``load_state_dict`` restores predictions exactly."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` gave.

        Raises:
            ValueError: the state is of another predictor, pool size or feature dimension.
        """
        ...


@runtime_checkable
class Continuing(Protocol):
    """A predictor that can start from what one of its kind has learned in another run."""

    def begin(self, state: Mapping[str, Tensor], places: Tensor) -> None:
        """Start from a state of another run in the same frame, with doubt: the policy is another.

        Args:
            state: its ``state_dict``.
            places: long[N'], the row here of each of its rows, −1 where there is none.

        Raises:
            ValueError: the state is of another predictor or feature dimension.
        """
        ...


@runtime_checkable
class Vital(Protocol):
    """A predictor that has something to tell of itself beside its predictions."""

    def vitals(self) -> dict[str, float]:
        """Finite numbers by name, for the run's metrics."""
        ...

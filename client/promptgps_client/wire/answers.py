"""Predictions, metrics, health, problems."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from promptgps_client.wire.base import MAX_PREDICTIONS, Key, Name, Text, Vector, Wire, exactly_one


class PredictDifficulty(Wire):
    """Success rates for prompts of the pool, or for new texts or vectors; exactly one of the three."""

    run: Name
    keys: Annotated[list[Key], Field(min_length=1, max_length=MAX_PREDICTIONS)] | None = None
    texts: Annotated[list[Text], Field(min_length=1, max_length=MAX_PREDICTIONS)] | None = None
    vectors: Annotated[list[Vector], Field(min_length=1, max_length=MAX_PREDICTIONS)] | None = None
    level: Annotated[float, Field(gt=0, lt=1)] = Field(0.9, description="Probability that the interval covers.")

    @model_validator(mode="after")
    def _exactly_one(self) -> PredictDifficulty:
        exactly_one(keys=self.keys, texts=self.texts, vectors=self.vectors)
        return self


class Difficulty(Wire):
    """Predicted success rates as columns; `difficulty` is one minus the mean."""

    model_version: int
    trained_through: int
    success_mean: list[float]
    success_std: list[float]
    lower: list[float]
    upper: list[float]
    difficulty: list[float]


class RunMetrics(Wire):
    """Series of a run, one entry for each step learned, as columns of equal length.

    Every predictor is scored on each step before anyone learns from it: `NAME.log_loss` and so on; `log_loss` alone is
    that of the one that was served.
    """

    run: str
    predictor: str = Field(description="The predictor that the run asks for.")
    served: str = Field(description="The predictor that answers: a baseline where the asked one does worse for long.")
    steps: int
    series: dict[str, list[float | None]]


class Ready(Wire):
    """Readiness, part by part."""

    ready: bool
    checks: dict[str, str]


class ProblemFault(Wire):
    """One fault: the field, the row in its list where it is one, and what is wrong with it."""

    field: str
    row: int | None = None
    detail: str


class Problem(Wire):
    """RFC 9457 problem details, with the faults that a program can act on."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[ProblemFault] = Field(default_factory=list)
    request_id: str | None = None

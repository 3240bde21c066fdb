"""Predictions, metrics, health, problems."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from promptgps_client.wire.base import (
    MAX_PREDICTIONS,
    Key,
    Name,
    Text,
    Vector,
    Wire,
    exactly_one,
    pools_of_keys,
)


class PredictDifficulty(Wire):
    """Success rates for prompts of the pool, or new texts or vectors; exactly one of the three."""

    run: Name
    keys: Annotated[list[Key], Field(min_length=1, max_length=MAX_PREDICTIONS)] | None = None
    pool: Name | Annotated[list[Name], Field(max_length=MAX_PREDICTIONS)] | None = Field(
        None,
        description="Pool of the keys, one for all or one for each; needed where two pools have "
        "the key.",
    )
    texts: Annotated[list[Text], Field(min_length=1, max_length=MAX_PREDICTIONS)] | None = None
    vectors: Annotated[list[Vector], Field(min_length=1, max_length=MAX_PREDICTIONS)] | None = None
    level: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.9, description="Probability that the interval covers."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> PredictDifficulty:
        exactly_one(keys=self.keys, texts=self.texts, vectors=self.vectors)
        pools_of_keys("keys", self.keys, "pool", self.pool)
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

    They say what was observed.

    Every predictor is scored on each step before anyone learns from it: `NAME.log_loss` and so on;
    `log_loss` alone is that of the one that was served.
    """

    run: str
    predictor: str = Field(description="The predictor that the run asks for.")
    served: str = Field(
        description="The predictor that answers: a baseline where the asked one does worse for "
        "long."
    )
    steps: int = Field(description="How many there are in this answer.")
    next: int | None = Field(
        None,
        description="What to give as `since` for the steps after these; null where there are no "
        "more.",
    )
    series: dict[str, list[float | None]]


class Ready(Wire):
    """Readiness, part by part."""

    ready: bool
    checks: dict[str, str]
    faulty_runs: int = Field(
        0, description="Runs that are broken; they cost only themselves, see `GET /runs`."
    )


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

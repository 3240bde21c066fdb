"""Test-time budgets: how many samples to spend on each prompt."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from promptgps_client.wire.base import (
    MAX_BUDGETED,
    MAX_PREDICTIONS,
    MAX_SAMPLES,
    MAX_SAMPLES_OF_ONE,
    Key,
    Name,
    Text,
    Vector,
    Wire,
    columns_fault,
    exactly_one,
    pools_of_keys,
    same_length,
)

Objective = Literal["best_of_n", "majority_vote", "average"]
Samples = Annotated[int, Field(ge=0, le=MAX_SAMPLES_OF_ONE)]
AnswerCounts = Annotated[list[Samples], Field(max_length=MAX_SAMPLES_OF_ONE)]


def _successes_of_trials(successes: list[int], trials: list[int]) -> None:
    for row, (right, of) in enumerate(zip(successes, trials, strict=True)):
        if right > of:
            raise columns_fault(f"successes.{row}", f"{right} of {of}: more successes than trials")


class OutcomesSoFar(Wire):
    """Right samples and samples of each prompt in earlier rounds, in the order of the prompts."""

    successes: Annotated[list[Samples], Field(max_length=MAX_BUDGETED)]
    trials: Annotated[list[Samples], Field(max_length=MAX_BUDGETED)]

    @model_validator(mode="after")
    def _columns_agree(self) -> OutcomesSoFar:
        same_length(successes=self.successes, trials=self.trials)
        _successes_of_trials(self.successes, self.trials)
        return self


class Calibration(Wire):
    """Outcomes of other prompts, by which predictions are corrected.

    Exactly one of keys, texts and vectors is given.
    """

    keys: Annotated[list[Key], Field(min_length=1, max_length=MAX_PREDICTIONS)] | None = None
    pool: Name | Annotated[list[Name], Field(max_length=MAX_PREDICTIONS)] | None = Field(
        None,
        description="Pool of the keys, one for all or one for each; needed where two pools have "
        "the key.",
    )
    texts: Annotated[list[Text], Field(min_length=1, max_length=MAX_PREDICTIONS)] | None = None
    vectors: Annotated[list[Vector], Field(min_length=1, max_length=MAX_PREDICTIONS)] | None = None
    successes: Annotated[list[Samples], Field(max_length=MAX_PREDICTIONS)]
    trials: Annotated[list[Samples], Field(max_length=MAX_PREDICTIONS)]
    wrong_answers: Annotated[list[AnswerCounts], Field(max_length=MAX_PREDICTIONS)] | None = Field(
        None,
        description="How often each different wrong answer came; sums to trials − successes. Says "
        "how far wrong samples agree, for `majority_vote`; without it they are taken to agree "
        "always.",
    )

    @model_validator(mode="after")
    def _columns_agree(self) -> Calibration:
        exactly_one(keys=self.keys, texts=self.texts, vectors=self.vectors)
        same_length(
            keys=self.keys,
            texts=self.texts,
            vectors=self.vectors,
            successes=self.successes,
            trials=self.trials,
            wrong_answers=self.wrong_answers,
        )

        pools_of_keys("keys", self.keys, "pool", self.pool)
        _successes_of_trials(self.successes, self.trials)

        for row, counts in enumerate(self.wrong_answers or []):
            wrong = self.trials[row] - self.successes[row]
            if sum(counts) != wrong:
                raise columns_fault(
                    f"wrong_answers.{row}", f"sums to {sum(counts)}, but {wrong} samples were wrong"
                )

        return self


class AllocateBudget(Wire):
    """Spread samples over prompts of the pool, or new texts or vectors; exactly one of the three.

    In a later round `outcomes_so_far` tells what the earlier ones brought; `total` or `mean`,
    `minimum` and `maximum` are of this round alone.
    """

    run: Name
    keys: Annotated[list[Key], Field(min_length=1, max_length=MAX_BUDGETED)] | None = None
    pool: Name | Annotated[list[Name], Field(max_length=MAX_BUDGETED)] | None = Field(
        None,
        description="Pool of the keys, one for all or one for each; needed where two pools have "
        "the key.",
    )
    texts: Annotated[list[Text], Field(min_length=1, max_length=MAX_BUDGETED)] | None = None
    vectors: Annotated[list[Vector], Field(min_length=1, max_length=MAX_BUDGETED)] | None = None
    total: Annotated[int, Field(ge=0, le=MAX_SAMPLES)] | None = Field(
        None, description="Samples to spend, exactly; or"
    )
    mean: Annotated[float, Field(ge=0, le=MAX_SAMPLES_OF_ONE)] | None = Field(
        None, description="samples a prompt; times the prompts, rounded, it is the total."
    )
    minimum: Samples = Field(0, description="Samples that every prompt gets.")
    maximum: Samples = Field(MAX_SAMPLES_OF_ONE, description="Most samples that one prompt gets.")
    objective: Objective = Field(
        "best_of_n",
        description="What a prompt's samples are for. `best_of_n`: a verifier finds a right one; "
        "`majority_vote`: the plurality answer is to be right; `average`: their mean is to be "
        "near the success rate.",
    )
    outcomes_so_far: OutcomesSoFar | None = None
    calibration: Calibration | None = None

    @property
    def prompts(self) -> int:
        """N."""
        return len(self.keys or self.texts or self.vectors or [])

    @property
    def samples(self) -> int:
        """The total, however it was given."""
        return self.total if self.total is not None else round((self.mean or 0.0) * self.prompts)

    @model_validator(mode="after")
    def _can_be_met(self) -> AllocateBudget:
        exactly_one(keys=self.keys, texts=self.texts, vectors=self.vectors)
        pools_of_keys("keys", self.keys, "pool", self.pool)
        exactly_one(total=self.total, mean=self.mean)

        so_far = self.outcomes_so_far
        if so_far is not None and len(so_far.trials) != self.prompts:
            detail = f"has {len(so_far.trials)} rows, but there are {self.prompts} prompts"
            raise columns_fault("outcomes_so_far.trials", detail)

        if self.maximum < self.minimum:
            raise columns_fault(
                "maximum", f"{self.maximum} is less than the minimum of {self.minimum}"
            )

        given = "total" if self.total is not None else "mean"
        asked = f"{self.samples} samples"
        prompts = f"{self.prompts} prompts"

        if self.samples > MAX_SAMPLES:
            raise columns_fault(given, f"{asked} are over the limit of {MAX_SAMPLES}")
        if self.samples < self.prompts * self.minimum:
            raise columns_fault(
                given, f"{asked} are too few for {prompts} with a minimum of {self.minimum}"
            )
        if self.samples > self.prompts * self.maximum:
            raise columns_fault(
                given, f"{asked} are too many for {prompts} with a maximum of {self.maximum}"
            )

        return self


class Budget(Wire):
    """Samples for each prompt, in the order asked.

    Values are of all samples of a prompt, earlier rounds included.
    """

    model_version: int
    trained_through: int
    samples: list[int] = Field(description="They sum to the total.")
    expected_value: float = Field(
        description="Mean over the prompts of what the objective is expected to come to, in [0, "
        "1]. A vote may leave samples out."
    )
    expected_value_uniform: float = Field(
        description="The same for the total spread evenly over all prompts."
    )
    next_gain: float = Field(
        description="What one more sample is expected to add to the sum of the values: near zero, "
        "stop."
    )

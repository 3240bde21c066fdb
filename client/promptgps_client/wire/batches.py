"""Batches out, outcomes in."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from promptgps_client.wire.base import (
    MAX_BATCH,
    MAX_CANDIDATES,
    MAX_ROLLOUTS_IN_REPORT,
    MAX_WAIT_SECONDS,
    ROUNDING,
    Count,
    DrawId,
    GroupSuccesses,
    GroupTrials,
    Key,
    Name,
    RolloutIndex,
    Status,
    SubsetId,
    Wire,
    columns_fault,
    pools_of_keys,
    rows_fault,
    same_length,
)


class SelectBatch(Wire):
    """Ask for the next batch; idempotent by (run, sequence)."""

    run: Name
    sequence: Count | None = Field(
        None, description="Number of the request; left out, the service numbers it."
    )
    batch_size: Annotated[int, Field(ge=1, le=MAX_BATCH)]
    policy_version: Count | None = Field(
        None, description="The trainer's step counter, the clock of the cool-down."
    )
    candidates: Annotated[list[Key], Field(min_length=1, max_length=MAX_CANDIDATES)] | None = Field(
        None, description="Draw only from these prompts."
    )
    exclude: Annotated[list[Key], Field(max_length=MAX_CANDIDATES)] | None = Field(
        None, description="Do not draw these."
    )
    rollouts: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="n of this batch; default: the run's."
    )
    candidates_pool: Name | Annotated[list[Name], Field(max_length=MAX_CANDIDATES)] | None = Field(
        None,
        description="Pool of the candidates, one for all or one for each; needed where two pools "
        "have the key.",
    )
    exclude_pool: Name | Annotated[list[Name], Field(max_length=MAX_CANDIDATES)] | None = Field(
        None, description="The same for `exclude`."
    )
    subset: SubsetId | None = Field(
        None,
        description="Draw only from a subset of the run's prompts that was sent before, by its id.",
    )
    include_text: bool = False
    wait_seconds: Annotated[float, Field(ge=0, le=MAX_WAIT_SECONDS)] = Field(
        0.0,
        description="Wait until the model has learned from everything reported, at most so long.",
    )

    @model_validator(mode="after")
    def _pools_of_keys(self) -> SelectBatch:
        pools_of_keys("candidates", self.candidates, "candidates_pool", self.candidates_pool)
        pools_of_keys("exclude", self.exclude, "exclude_pool", self.exclude_pool)
        return self


class Draws(Wire):
    """The draws of a selection, in order, as columns of equal length."""

    draw_id: list[str]
    prompt: list[str]
    pool: list[str] | None = Field(
        None, description="Of each prompt, where the run has several pools."
    )
    predicted_success: list[float]
    uncertainty: list[float] = Field(
        description="Standard deviation of the predicted success rate."
    )
    rollouts: list[int]
    text: list[str | None] | None = None


class Batch(Wire):
    """The answer to `select_batch`."""

    run: str
    sequence: int
    replayed: bool
    model_version: int
    trained_through: int
    strategy: str
    draws: Draws
    warnings: list[str]


class ReportOutcomes(Wire):
    """Outcomes in: whole groups or single rollouts.

    Groups are `successes` of `trials`; rollouts have `rollout_index`, `reward` and `status`.

    Groups go by draw id, or by prompt key for data from elsewhere; rollouts go by draw id. What is
    reported again is free. A rollout or group that said nothing (`error`, `timeout`, `cancelled`, 0
    of 0) gives way to what comes of it later. Reports of parts of a group add up until they come to
    its n; one that holds what is known already, as the whole group does, counts for what it adds.
    """

    run: Name
    draw_id: (
        Annotated[list[DrawId], Field(min_length=1, max_length=MAX_ROLLOUTS_IN_REPORT)] | None
    ) = None
    prompt: Annotated[list[Key], Field(min_length=1, max_length=MAX_ROLLOUTS_IN_REPORT)] | None = (
        None
    )
    pool: Name | Annotated[list[Name], Field(max_length=MAX_ROLLOUTS_IN_REPORT)] | None = Field(
        None,
        description="Pool of the prompts, one for all or one for each; needed where two pools "
        "have the key.",
    )
    successes: Annotated[list[GroupSuccesses], Field(max_length=MAX_ROLLOUTS_IN_REPORT)] | None = (
        None
    )
    trials: Annotated[list[GroupTrials], Field(max_length=MAX_ROLLOUTS_IN_REPORT)] | None = None
    rollout_index: (
        Annotated[list[RolloutIndex], Field(max_length=MAX_ROLLOUTS_IN_REPORT)] | None
    ) = None
    reward: Annotated[list[float | None], Field(max_length=MAX_ROLLOUTS_IN_REPORT)] | None = None
    status: Annotated[list[Status], Field(max_length=MAX_ROLLOUTS_IN_REPORT)] | None = None
    policy_version: (
        Count | Annotated[list[Count], Field(max_length=MAX_ROLLOUTS_IN_REPORT)] | None
    ) = None

    @model_validator(mode="after")
    def _one_of_the_forms(self) -> ReportOutcomes:
        if (self.draw_id is None) == (self.prompt is None):
            raise columns_fault("draw_id", "exactly one of draw_id and prompt is needed")

        if self.rollout_index is None:
            self._groups()
        else:
            self._rollouts()

        if self.pool is not None and self.prompt is None:
            raise columns_fault("pool", "goes with prompt: a draw has its pool")

        if isinstance(self.pool, list):
            same_length(prompt=self.prompt, pool=self.pool)

        if isinstance(self.policy_version, list):
            same_length(
                draw_id=self.draw_id, prompt=self.prompt, policy_version=self.policy_version
            )

        return self

    def _groups(self) -> None:
        for name, column in (("successes", self.successes), ("trials", self.trials)):
            if column is None:
                raise columns_fault(
                    name, "is needed for groups (for single rollouts: rollout_index and reward)"
                )

        for name, given in (
            ("reward", self.reward is not None),
            ("status", self.status is not None),
        ):
            if given:
                raise columns_fault(name, "goes with rollout_index")

        same_length(
            draw_id=self.draw_id, prompt=self.prompt, successes=self.successes, trials=self.trials
        )
        wrong = {
            row: f"{successes!r} of {trials}: more successes than trials"
            for row, (successes, trials) in enumerate(
                zip(self.successes or [], self.trials or [], strict=True)
            )
            if successes > trials + ROUNDING
        }
        if wrong:
            raise rows_fault("successes", wrong)

    def _rollouts(self) -> None:
        if self.draw_id is None:
            raise columns_fault("draw_id", "single rollouts are reported by draw_id")
        if self.reward is None:
            raise columns_fault("reward", "is needed with rollout_index")

        for name, column in (("successes", self.successes), ("trials", self.trials)):
            if column is not None:
                raise columns_fault(name, "does not go with rollout_index")

        same_length(
            draw_id=self.draw_id,
            rollout_index=self.rollout_index,
            reward=self.reward,
            status=self.status,
        )

        wrong = {}
        for row, reward in enumerate(self.reward):
            status = self.status[row] if self.status else "ok"
            if reward is None and status in ("ok", "truncated"):
                wrong[row] = f"a rollout with status `{status}` needs a reward"

        if wrong:
            raise rows_fault("reward", wrong)


class OutcomesStored(Wire):
    """What became of a report.

    `conflicts` are rows (of the report) that contradict what the log has already.
    """

    stored: int
    duplicates: int
    conflicts: list[int]
    superseded: int = Field(
        0,
        description="Rows about draws that a restore has superseded: kept, not learned from; "
        "nothing is to be done.",
    )
    log_position: int
    warnings: list[str] = Field(
        default_factory=list,
        description="What was taken and yet may not be meant, such as rewards cut to their range.",
    )

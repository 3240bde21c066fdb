"""Runs and their settings."""

from __future__ import annotations

from math import isfinite
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from promptgps_client.wire.base import (
    MAX_CANDIDATES,
    ROUNDING,
    Count,
    Domain,
    Key,
    Name,
    Parameter,
    ParameterName,
    PredictorName,
    Share,
    State,
    Strategy,
    UtilityName,
    Wire,
    columns_fault,
    pools_of_keys,
)

FLOAT32_ROUNDING = 2.0**-22  # a threshold is meant exactly, but 0.99999994 is 1
TWO_VALUES = ([0.0, 1.0], [-1.0, 1.0])


class Reward(Wire):
    """How a raw reward becomes a success in [0, 1].

    `binary` takes two values, 0 and 1 or −1 and 1, as the first failure shows which; `threshold`
    counts `reward >= threshold` as a success, up to rounding of float32; `affine` maps [`low`,
    `high`] to [0, 1], and cuts what lies outside, with a warning. The two values are known up to
    2⁻⁷, the rounding of bfloat16. Raw values are kept in the log.
    """

    kind: Literal["binary", "threshold", "affine"] = "binary"
    threshold: float | None = None
    values: Annotated[list[float], Field(min_length=2, max_length=2)] | None = Field(
        None,
        description="Only with `binary`: failure and success, [0, 1] or [-1, 1]; null until "
        "reports show it.",
    )
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _each_kind_has_its_own(self) -> Reward:
        if (self.kind == "threshold") != (self.threshold is not None):
            raise columns_fault(
                "threshold", "is needed with kind `threshold` and not allowed with the others"
            )

        for name, bound in (("low", self.low), ("high", self.high)):
            if (self.kind == "affine") != (bound is not None):
                raise columns_fault(
                    name, "is needed with kind `affine` and not allowed with the others"
                )

        if self.low is not None and self.high is not None and self.low >= self.high:
            raise columns_fault("high", "must be greater than low")
        if self.low is not None and self.high is not None and not isfinite(self.high - self.low):
            raise columns_fault("high", "is too far from low: the distance is not a finite number")
        if self.values is not None and (self.kind != "binary" or self.values not in TWO_VALUES):
            raise columns_fault("values", "is [0, 1] or [-1, 1], and goes with kind `binary` only")

        return self

    def success(self, raw: float) -> float:
        """A raw reward as a success in [0, 1].

        Raises:
            ValueError: A binary reward that is none of its values.
        """
        if self.threshold is not None:
            return float(raw >= self.threshold - abs(self.threshold) * FLOAT32_ROUNDING)
        if self.low is not None and self.high is not None:
            return min(max((raw - self.low) / (self.high - self.low), 0.0), 1.0)

        value = meant_value(raw)
        if value is None or (self.values is not None and value not in self.values):
            raise ValueError(f"{raw!r} is {self.expected}")

        return float(value > 0)

    @property
    def expected(self) -> str:
        """What a binary reward is, where it is another."""
        if self.values is None:
            return "neither 0 or -1, a failure, nor 1, a success"
        return f"neither {self.values[0]:.0f} nor {self.values[1]:.0f}, the rewards of this run"


def meant_value(raw: float) -> float | None:
    """The one of −1, 0 and 1 that a reward is, up to rounding; None where it is none of them."""
    if raw in (0.0, 1.0):
        return raw
    nearest = float(min(max(round(raw), -1), 1))
    return nearest if abs(raw - nearest) <= ROUNDING else None


class Selection(Wire):
    """How a batch is chosen.

    `strategy` only presets the others; whatever is left out takes the preset's value.
    """

    strategy: Strategy = "promptgps"
    predictor: PredictorName | None = None
    predictor_parameters: dict[ParameterName, Parameter] | None = Field(
        None,
        max_length=64,
        description="Of the predictor, by name: `discount` of beta (MoPPS's λ) and bots, `weight` "
        "of bots; `own_record`, `residual`, `prior` and sizes of neural; `members` of stack, with "
        "commas between, and neural's.",
    )
    fallback: bool | None = Field(
        None,
        description="Serve the best baseline where the predictor has for long been worse than it.",
    )
    utility: UtilityName | None = None
    target: Share | None = Field(
        None, description="Success rate aimed at by `target`, `thompson` and `band`."
    )
    band: Annotated[list[Share], Field(min_length=2, max_length=2)] | None = Field(
        None, description="Lowest and highest success rate that `band` counts as good."
    )
    bonus: Annotated[float, Field(ge=0, le=10)] | None = Field(
        None,
        description="Standard deviations of the utility added to its mean, so that the "
        "posterior's spread counts.",
    )
    cooldown: Annotated[int, Field(ge=0, le=1_000_000)] | Literal["auto"] | None = Field(
        None, description="Steps before a prompt may be drawn again; `auto` is min(30, N / 4B)."
    )
    candidate_factor: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        None, description="Random candidates for each pick; null is the whole pool."
    )
    uniform_share: Share | None = Field(
        None, description="Share of uniform picks, the metrics' unbiased monitor."
    )
    diversity: Annotated[float, Field(ge=0, le=100)] | None = Field(
        None,
        description="λ: weight of dispersion inside the batch and of distance from recent batches.",
    )
    history_steps: Annotated[int, Field(ge=0, le=100)] | None = Field(
        None,
        description="How many recent selections the batch is kept away from, with diversity > 0.",
    )
    pending_steps: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(
        None, description="Steps for which a draw without an outcome keeps its prompt back."
    )
    retire_above: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="Prompts already visited whose predicted success rate is above this are not "
        "drawn.",
    )
    domain_quotas: dict[Domain, Annotated[float, Field(gt=0, le=1)]] | None = Field(
        None,
        max_length=1024,
        description="Exact shares of the draws by domain, over any window; they sum to one.",
    )

    @field_validator("band")
    @classmethod
    def _band_is_an_interval(cls, band: list[float] | None) -> list[float] | None:
        if band is not None and band[0] >= band[1]:
            raise columns_fault(
                "selection.band", "the second number must be greater than the first"
            )
        return band

    @field_validator("domain_quotas")
    @classmethod
    def _quotas_sum_to_one(cls, quotas: dict[str, float] | None) -> dict[str, float] | None:
        if quotas is not None and abs(sum(quotas.values()) - 1) > 1e-6:
            raise columns_fault(
                "selection.domain_quotas", f"sum to {sum(quotas.values()):g}, not to 1"
            )
        return quotas


class PoolShare(Wire):
    """One pool of a run: an exact `quota` of draws, or a `weight` beside the others (default 1).

    Where no pool has either, prompts are drawn from all of them as from one.
    """

    pool: Name
    weight: Annotated[float, Field(gt=0)] | None = None
    quota: Annotated[float, Field(gt=0, le=1)] | None = None


class CreateRun(Wire):
    """Open a run.

    Asked for again, it is compared with what the run is now, so that a trainer may restart.
    """

    name: Name
    pool: Name | None = None
    pools: Annotated[list[PoolShare], Field(min_length=1, max_length=64)] | None = None
    rollouts_per_prompt: Annotated[int, Field(ge=1, le=4096)] = Field(
        8, description="n: rollouts in a group."
    )
    reward: Reward = Reward()
    seed: Count = 0
    warm_start_from: Name | None = Field(
        None, description="Another run whose fitted model this one starts from."
    )
    selection: Selection = Selection()

    @model_validator(mode="after")
    def _pool_or_pools(self) -> CreateRun:
        if (self.pool is None) == (self.pools is None):
            raise columns_fault("pool", "exactly one of pool and pools is needed")
        if self.pools is not None and len({share.pool for share in self.pools}) != len(self.pools):
            raise columns_fault("pools", "names a pool twice")

        return self


class ChangeRun(Wire):
    """Re-tune a run; settings that are left out stay as they are."""

    rollouts_per_prompt: Annotated[int, Field(ge=1, le=4096)] | None = None
    reward: Reward | None = Field(None, description="Only while no outcome is stored.")
    selection: Selection | None = None


class Progress(Wire):
    """How far a run has come, for a trainer that starts: is it the first one here?"""

    next_sequence: int = Field(
        description="One past the highest sequence that a batch was answered for."
    )
    policy_version: int | None = Field(
        description="That the batch with the highest sequence was asked for with."
    )
    reported_draws: int = Field(
        description="One past the highest draw with an outcome; 0 where no draw has one."
    )
    reporting_for: float | None = Field(
        description="Seconds since the lowest such draw was reported; null where no draw has an "
        "outcome."
    )


class Run(Wire):
    """A run with every setting spelled out."""

    name: str
    pools: list[PoolShare]
    rollouts_per_prompt: int
    reward: Reward
    seed: int
    warm_start_from: str | None
    selection: Selection
    prompts: int = Field(description="How many prompts it can draw from.")
    selections: int
    draws: int
    log_position: int = Field(description="Outcomes acknowledged so far.")
    model_version: int
    trained_through: int = Field(
        description="Log position up to which the served model has learned."
    )
    epoch: int = Field(0, description="How often the run was put back to a snapshot.")
    state: State = Field(
        "open", description="`archived`: it rests until it is opened again; `faulty`: it is broken."
    )
    fault: str | None = Field(None, description="What is wrong with a faulty run, and what to do.")
    created_at: str
    progress: Progress | None = Field(
        None, description="How far it has come; null in the list of runs."
    )


class Runs(Wire):
    """Every run, by name."""

    runs: list[Run]


class SendSubset(Wire):
    """Name prompts that later batches are to be drawn from; sent once, not with each batch."""

    keys: Annotated[list[Key], Field(min_length=1, max_length=MAX_CANDIDATES)]
    pool: Name | Annotated[list[Name], Field(max_length=MAX_CANDIDATES)] | None = Field(
        None,
        description="Pool of the keys, one for all or one for each; needed where two pools have "
        "the key.",
    )

    @model_validator(mode="after")
    def _pools_of_keys(self) -> SendSubset:
        pools_of_keys("keys", self.keys, "pool", self.pool)
        return self


class Subset(Wire):
    """A subset of a run's prompts, known by what is in it: the same prompts have the same id."""

    run: str
    subset: str = Field(description="Its id, for `select_batch`.")
    prompts: int = Field(description="How many prompts it has.")
    whole: bool = Field(description="Whether it has every prompt that the run has now.")
    unknown: int = Field(description="Keys that no pool of the run has; they are left out.")
    unknown_keys: list[str] = Field(description="The first of them.")
    run_keys: list[str] = Field(
        default_factory=list,
        description="Some keys that the run has, where there are unknown ones, to compare.",
    )


class Deleted(Wire):
    """What was deleted, or with `dry_run` would be."""

    name: str
    dry_run: bool
    prompts: int = 0
    selections: int = 0
    draws: int = 0
    outcomes: int = 0
    model_versions: int = 0
    snapshots: int = 0


class Event(Wire):
    """Something that was done to a run or a pool, or that happened to it."""

    id: int
    created_at: str
    key: str | None = Field(
        description="Name of the API key that did it; null where no key was asked for."
    )
    action: str = Field(
        description="`run-created`, `run-changed`, `run-archived`, `run-opened`, `run-deleted`, "
        "`run-faulty`, `run-imported`, `run-restored`, `snapshot-taken`, `pool-created`, "
        "`prompts-added`, `pool-archived`, `pool-opened`, `pool-deleted`, `pool-imported`, "
        "`key-added` or `key-revoked`; more may come."
    )
    run: str | None
    pool: str | None
    detail: dict[str, str | int | float | bool | None]


class Events(Wire):
    """Events, newest first."""

    events: list[Event]
    next: int | None = Field(
        None, description="What to give as `before` for earlier ones; null where there are none."
    )

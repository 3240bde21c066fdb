"""The wire vocabulary: every request and answer of the HTTP contract, strict and frozen.

The service imports these models, so there is no second copy to drift. JSON travels in columns (lists side by side).
Unknown fields, wrong types, NaN and infinities are refused.
"""

from __future__ import annotations

from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator
from pydantic_core import PydanticCustomError

MAX_BATCH = 16_384
MAX_ROLLOUTS_IN_REPORT = 131_072
MAX_PROMPTS_IN_REQUEST = 100_000
MAX_PREDICTIONS = 8_192
MAX_CANDIDATES = 2_000_000
MAX_TEXT = 1_000_000
MAX_KEY = 512
MAX_DIMENSION = 16_384
MAX_INTEGER = 2**53 - 1
MAX_WAIT_SECONDS = 120.0

NO_NUL = r"^[^\x00]*$"
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Key = Annotated[str, StringConstraints(min_length=1, max_length=MAX_KEY, pattern=NO_NUL)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT, pattern=NO_NUL)]
Domain = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=NO_NUL)]
Vector = Annotated[list[float], Field(min_length=1, max_length=MAX_DIMENSION)]
DrawId = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=NO_NUL)]
Count = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Evidence = Annotated[float, Field(ge=0, le=1e12)]
GroupSuccesses = Annotated[float, Field(ge=0, le=4096)]
GroupTrials = Annotated[int, Field(ge=0, le=4096)]
RolloutIndex = Annotated[int, Field(ge=0, le=4095)]
Share = Annotated[float, Field(ge=0, le=1)]
Status = Literal["ok", "error", "timeout", "truncated", "cancelled"]
Strategy = Literal["promptgps", "mopps", "uniform"]
PredictorName = Literal["hierarchical", "beta", "constant"]
UtilityName = Literal["mixed", "information", "target", "thompson", "band", "variance", "uniform"]
BASELINE_PREDICTORS = ("beta", "constant")


class Wire(BaseModel):
    """Base of everything on the wire."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


def columns_fault(field: str, detail: str) -> PydanticCustomError:
    """A fault between columns, told at one field; the service's problem answer reads ``field`` from its context."""
    return PydanticCustomError("columns", "{field}: {detail}", {"field": field, "detail": detail})


def same_length(**columns: list[Any] | None) -> int:
    """Length of the columns that are given; they must agree.

    Raises:
        PydanticCustomError: naming the first column that differs.
    """
    given = {name: column for name, column in columns.items() if column is not None}
    first = next(iter(given))
    for name, column in given.items():
        if len(column) != len(given[first]):
            raise columns_fault(name, f"has {len(column)} rows, {first} has {len(given[first])}")
    return len(given[first])


# ---- pools ---------------------------------------------------------------------------------------------------


class Embedding(Wire):
    """How a pool's prompts become vectors; fixed when the pool is made."""

    kind: Literal["wordllama", "given", "folder"] = "wordllama"
    dimension: Annotated[int, Field(ge=1, le=MAX_DIMENSION)] | None = Field(
        None, description="Only with `given`: the length of the vectors that the caller brings."
    )
    path: Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=NO_NUL)] | None = Field(
        None, description="Only with `folder`: a sentence-transformers model on the service's own disk."
    )

    @model_validator(mode="after")
    def _each_kind_has_its_own(self) -> Embedding:
        if (self.kind == "given") != (self.dimension is not None):
            raise columns_fault("dimension", "is needed with kind `given` and not allowed with the others")
        if (self.kind == "folder") != (self.path is not None):
            raise columns_fault("path", "is needed with kind `folder` and not allowed with the others")
        return self


class CreatePool(Wire):
    """Make a pool. Asked again with the same content it answers the pool that is there."""

    name: Name
    embedding: Embedding = Embedding()


class Pool(Wire):
    """A named set of prompts."""

    name: str
    embedding: Embedding
    dimension: int = Field(description="Length of the embedding vectors.")
    prompts: int = Field(description="How many prompts it holds.")
    created_at: str = Field(description="UTC, ISO 8601.")


class Pools(Wire):
    """Every pool, by name."""

    pools: list[Pool]


class AddPrompts(Wire):
    """Prompts in columns; `texts`, `vectors` or both must be there. Keys default to a hash of the content."""

    keys: Annotated[list[Key], Field(max_length=MAX_PROMPTS_IN_REQUEST)] | None = None
    texts: Annotated[list[Text], Field(max_length=MAX_PROMPTS_IN_REQUEST)] | None = None
    vectors: Annotated[list[Vector], Field(max_length=MAX_PROMPTS_IN_REQUEST)] | None = None
    domains: Annotated[list[Domain | None], Field(max_length=MAX_PROMPTS_IN_REQUEST)] | None = None
    prior_successes: Annotated[list[Evidence | None], Field(max_length=MAX_PROMPTS_IN_REQUEST)] | None = None
    prior_trials: Annotated[list[Evidence | None], Field(max_length=MAX_PROMPTS_IN_REQUEST)] | None = None

    @model_validator(mode="after")
    def _columns_agree(self) -> AddPrompts:
        if self.texts is None and self.vectors is None:
            raise columns_fault("texts", "texts or vectors are needed")
        same_length(
            texts=self.texts, vectors=self.vectors, keys=self.keys, domains=self.domains,
            prior_successes=self.prior_successes, prior_trials=self.prior_trials,
        )  # fmt: skip
        if (self.prior_successes is None) != (self.prior_trials is None):
            raise columns_fault("prior_trials", "prior_successes and prior_trials go together")
        return self


class PromptsAdded(Wire):
    """What an import did."""

    added: int
    duplicates: int = Field(description="Rows whose key or content the pool had already; they change nothing.")
    total: int


# ---- runs ----------------------------------------------------------------------------------------------------


class Reward(Wire):
    """How a raw reward becomes a success in [0, 1].

    `binary` takes only 0 and 1; `threshold` counts `reward >= threshold` as a success; `affine` maps
    [`low`, `high`] to [0, 1] and clips. Raw values are kept in the log.
    """

    kind: Literal["binary", "threshold", "affine"] = "binary"
    threshold: float | None = None
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _each_kind_has_its_own(self) -> Reward:
        if (self.kind == "threshold") != (self.threshold is not None):
            raise columns_fault("threshold", "is needed with kind `threshold` and not allowed with the others")
        for name, bound in (("low", self.low), ("high", self.high)):
            if (self.kind == "affine") != (bound is not None):
                raise columns_fault(name, "is needed with kind `affine` and not allowed with the others")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise columns_fault("high", "must be greater than low")
        if self.low is not None and self.high is not None and not isfinite(self.high - self.low):
            raise columns_fault("high", "is too far from low: the distance is not a finite number")
        return self


class Selection(Wire):
    """How a batch is chosen. `strategy` only presets the others; whatever is left out takes the preset's value."""

    strategy: Strategy = "promptgps"
    predictor: PredictorName | None = None
    discount: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Only with predictor `beta`: share of the record kept at each visit (MoPPS's λ)."
    )
    utility: UtilityName | None = None
    target: Share | None = Field(None, description="Success rate aimed at by `target`, `thompson` and `band`.")
    band: Annotated[list[Share], Field(min_length=2, max_length=2)] | None = Field(
        None, description="Lowest and highest success rate that `band` counts as good."
    )
    bonus: Annotated[float, Field(ge=0, le=10)] | None = Field(
        None, description="Standard deviations of the utility added to its mean, so that the posterior's spread counts."
    )
    cooldown: Annotated[int, Field(ge=0, le=1_000_000)] | Literal["auto"] | None = Field(
        None, description="Steps before a prompt may be drawn again; `auto` is min(30, N / 4B)."
    )
    candidate_factor: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        None, description="Random candidates for each pick; null is the whole pool."
    )
    uniform_share: Share | None = Field(None, description="Share of uniform picks, the metrics' unbiased monitor.")
    diversity: Annotated[float, Field(ge=0, le=100)] | None = Field(
        None, description="λ: weight of dispersion inside the batch and of distance from recent batches."
    )
    history_steps: Annotated[int, Field(ge=0, le=100)] | None = Field(
        None, description="How many recent selections the batch is kept away from, with diversity > 0."
    )
    pending_steps: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(
        None, description="Steps for which a draw without an outcome keeps its prompt back."
    )
    retire_above: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Prompts already visited whose predicted success rate is above this are not drawn."
    )
    domain_quotas: dict[Domain, Annotated[float, Field(gt=0, le=1)]] | None = Field(
        None, description="Exact shares of the draws by domain, over any window; they sum to one."
    )

    @field_validator("band")
    @classmethod
    def _band_is_an_interval(cls, band: list[float] | None) -> list[float] | None:
        if band is not None and band[0] >= band[1]:
            raise columns_fault("selection.band", "the second number must be greater than the first")
        return band

    @field_validator("domain_quotas")
    @classmethod
    def _quotas_sum_to_one(cls, quotas: dict[str, float] | None) -> dict[str, float] | None:
        if quotas is not None and abs(sum(quotas.values()) - 1) > 1e-6:
            raise columns_fault("selection.domain_quotas", f"sum to {sum(quotas.values()):g}, not to 1")
        return quotas


class PoolShare(Wire):
    """One pool of a run: an exact `quota` of the draws, or a `weight` beside the others (default 1).

    Where no pool has either, prompts are drawn from all of them as from one.
    """

    pool: Name
    weight: Annotated[float, Field(gt=0)] | None = None
    quota: Annotated[float, Field(gt=0, le=1)] | None = None


class CreateRun(Wire):
    """Open a run. Asked again with the same content it answers the run that is there, so a trainer may restart."""

    name: Name
    pool: Name | None = None
    pools: Annotated[list[PoolShare], Field(min_length=1, max_length=64)] | None = None
    rollouts_per_prompt: Annotated[int, Field(ge=1, le=4096)] = Field(8, description="n: rollouts in a group.")
    reward: Reward = Reward()
    seed: Count = 0
    warm_start_from: Name | None = Field(None, description="Another run whose fitted model this one starts from.")
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
    selection: Selection | None = None


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
    trained_through: int = Field(description="Log position up to which the served model has learned.")
    created_at: str


class Runs(Wire):
    """Every run, by name."""

    runs: list[Run]


# ---- select_batch --------------------------------------------------------------------------------------------


class SelectBatch(Wire):
    """Ask for the next batch; idempotent by (run, sequence)."""

    run: Name
    sequence: Count | None = Field(None, description="Number of the request; left out, the service numbers it.")
    batch_size: Annotated[int, Field(ge=1, le=MAX_BATCH)]
    policy_version: Count | None = Field(None, description="The trainer's step counter, the clock of the cool-down.")
    candidates: Annotated[list[Key], Field(min_length=1, max_length=MAX_CANDIDATES)] | None = Field(
        None, description="Draw only from these prompts."
    )
    exclude: Annotated[list[Key], Field(max_length=MAX_CANDIDATES)] | None = Field(
        None, description="Do not draw these."
    )
    rollouts: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="n of this batch; default: the run's."
    )
    include_text: bool = False
    wait_seconds: Annotated[float, Field(ge=0, le=MAX_WAIT_SECONDS)] = Field(
        0.0, description="Wait until the model has learned from everything reported, at most so long."
    )


class Draws(Wire):
    """The draws of a selection, in order, as columns of equal length."""

    draw_id: list[str]
    prompt: list[str]
    predicted_success: list[float]
    uncertainty: list[float] = Field(description="Standard deviation of the predicted success rate.")
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


# ---- outcomes ------------------------------------------------------------------------------------------------


class ReportOutcomes(Wire):
    """Outcomes in: whole groups (`successes` of `trials`) or single rollouts (`rollout_index`, `reward`, `status`).

    Groups go by draw id, or by prompt key for data from elsewhere; rollouts go by draw id.
    """

    run: Name
    draw_id: Annotated[list[DrawId], Field(min_length=1, max_length=MAX_ROLLOUTS_IN_REPORT)] | None = None
    prompt: Annotated[list[Key], Field(min_length=1, max_length=MAX_ROLLOUTS_IN_REPORT)] | None = None
    successes: Annotated[list[GroupSuccesses], Field(max_length=MAX_ROLLOUTS_IN_REPORT)] | None = None
    trials: Annotated[list[GroupTrials], Field(max_length=MAX_ROLLOUTS_IN_REPORT)] | None = None
    rollout_index: Annotated[list[RolloutIndex], Field(max_length=MAX_ROLLOUTS_IN_REPORT)] | None = None
    reward: Annotated[list[float | None], Field(max_length=MAX_ROLLOUTS_IN_REPORT)] | None = None
    status: Annotated[list[Status], Field(max_length=MAX_ROLLOUTS_IN_REPORT)] | None = None
    policy_version: Count | Annotated[list[Count], Field(max_length=MAX_ROLLOUTS_IN_REPORT)] | None = None

    @model_validator(mode="after")
    def _one_of_the_forms(self) -> ReportOutcomes:
        if (self.draw_id is None) == (self.prompt is None):
            raise columns_fault("draw_id", "exactly one of draw_id and prompt is needed")
        if self.rollout_index is None:
            self._groups()
        else:
            self._rollouts()
        if isinstance(self.policy_version, list):
            same_length(draw_id=self.draw_id, prompt=self.prompt, policy_version=self.policy_version)
        return self

    def _groups(self) -> None:
        for name, column in (("successes", self.successes), ("trials", self.trials)):
            if column is None:
                raise columns_fault(name, "is needed for groups (for single rollouts: rollout_index and reward)")
        for name, given in (("reward", self.reward is not None), ("status", self.status is not None)):
            if given:
                raise columns_fault(name, "goes with rollout_index")
        same_length(draw_id=self.draw_id, prompt=self.prompt, successes=self.successes, trials=self.trials)
        for row, (successes, trials) in enumerate(zip(self.successes or [], self.trials or [], strict=True)):
            if successes > trials:
                raise columns_fault(f"successes.{row}", f"{successes:g} of {trials}: more successes than trials")

    def _rollouts(self) -> None:
        if self.draw_id is None:
            raise columns_fault("draw_id", "single rollouts are reported by draw_id")
        if self.reward is None:
            raise columns_fault("reward", "is needed with rollout_index")
        for name, column in (("successes", self.successes), ("trials", self.trials)):
            if column is not None:
                raise columns_fault(name, "does not go with rollout_index")
        same_length(draw_id=self.draw_id, rollout_index=self.rollout_index, reward=self.reward, status=self.status)
        for row, reward in enumerate(self.reward):
            status = self.status[row] if self.status else "ok"
            if reward is None and status in ("ok", "truncated"):
                raise columns_fault(f"reward.{row}", f"a rollout with status `{status}` needs a reward")


class OutcomesStored(Wire):
    """What became of a report. `conflicts` are rows (of the report) that contradict what the log has already."""

    stored: int
    duplicates: int
    conflicts: list[int]
    log_position: int


# ---- predictions ---------------------------------------------------------------------------------------------


class PredictDifficulty(Wire):
    """Success rates for prompts of the pool, or for new texts or vectors; exactly one of the three."""

    run: Name
    keys: Annotated[list[Key], Field(min_length=1, max_length=MAX_PREDICTIONS)] | None = None
    texts: Annotated[list[Text], Field(min_length=1, max_length=MAX_PREDICTIONS)] | None = None
    vectors: Annotated[list[Vector], Field(min_length=1, max_length=MAX_PREDICTIONS)] | None = None
    level: Annotated[float, Field(gt=0, lt=1)] = Field(0.9, description="Probability that the interval covers.")

    @model_validator(mode="after")
    def _exactly_one(self) -> PredictDifficulty:
        if sum(column is not None for column in (self.keys, self.texts, self.vectors)) != 1:
            raise columns_fault("keys", "exactly one of keys, texts and vectors is needed")
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


# ---- metrics, health, problems -------------------------------------------------------------------------------


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
    errors: list[ProblemFault] = []
    request_id: str | None = None

"""What a line of each file of an archive must be like, by the wire's own types."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from promptgps_client.wire import (
    MAX_BATCH,
    Count,
    Domain,
    Embedding,
    Evidence,
    GroupTrials,
    Key,
    Name,
    PredictorName,
    State,
    Strategy,
    SubsetId,
    Text,
    Wire,
)
from promptgps_client.wire.base import NO_NUL
from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, with_config
from typing_extensions import TypedDict

LARGEST_POOL = 2**30  # rows; positions of the database end at twice as many

Id = Annotated[int, Field(ge=1, lt=2**31)]
Rows = Annotated[int, Field(ge=0, le=LARGEST_POOL)]
Small = Annotated[int, Field(ge=0, le=10**9)]
Stamp = Annotated[
    str,
    StringConstraints(
        max_length=32, pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)$"
    ),
]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Request = Annotated[str, StringConstraints(pattern=r"^[0-9a-f.]{1,64}$")]
Warning_ = Annotated[str, StringConstraints(max_length=10_000, pattern=NO_NUL)]
Finite = Annotated[float, Field(ge=0)]
MetricName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class PoolHead(Wire):
    """A pool, as its row is."""

    id: Id
    name: Name
    embedding: Embedding
    dimension: Annotated[int, Field(ge=1, le=16_384)]
    prompts: Annotated[int, Field(ge=1, le=LARGEST_POOL)]
    frame_rows: Annotated[int, Field(ge=1, le=LARGEST_POOL)]
    created_at: Stamp
    state: Literal["open", "archived"] = "open"


class RunHead(Wire):
    """A run, as its row is; settings are looked at for themselves."""

    id: Id
    name: Name
    request: dict[str, Any]
    settings: dict[str, Any]
    log_position: Count
    draws: Count
    selections: Count
    created_at: Stamp
    epoch: Small
    revision: Small
    model_version: Count
    trained_through: Count
    state: State = "open"
    fault: Annotated[str, StringConstraints(max_length=100_000, pattern=NO_NUL)] | None = None


class PoolEntry(Wire):
    """A pool of the archive, and how many lines its files have."""

    row: PoolHead
    lines: dict[str, Count]


class RunEntry(Wire):
    """A run of the archive, and how many lines its files have."""

    row: RunHead
    lines: dict[str, Count]


class Manifest(Wire):
    """What is inside an archive: the run, and those that it started from, with their pools."""

    format: int
    schema_: Annotated[str, StringConstraints(pattern=r"^[0-9]{4}$")] = Field(alias="schema")
    pools: Annotated[list[PoolEntry], Field(min_length=1, max_length=4_096)]
    runs: Annotated[list[RunEntry], Field(min_length=1, max_length=1_024)]


@with_config(_STRICT)
class _Prompt(TypedDict):
    position: Rows
    key: Key
    digest: Digest
    text: Text | None
    domain: Domain | None
    prior_successes: Evidence | None
    prior_trials: Evidence | None


@with_config(_STRICT)
class _Alias(TypedDict):
    key: Key
    position: Rows


@with_config(_STRICT)
class _Chunk(TypedDict):
    start: Rows
    size: Annotated[int, Field(ge=1, le=LARGEST_POOL)]


@with_config(_STRICT)
class _Segment(TypedDict):
    offset: Rows
    pool_id: Id
    start: Rows
    size: Annotated[int, Field(ge=1, le=LARGEST_POOL)]


@with_config(_STRICT)
class _Subset(TypedDict):
    id: SubsetId
    size: Annotated[int, Field(ge=1, le=LARGEST_POOL)]
    rows: list[Rows]
    created_at: Stamp


@with_config(_STRICT)
class _Selection(TypedDict):
    sequence: Count
    ordinal: Count
    request: Request
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    clock: Count
    policy_version: Count | None
    model_version: Count
    trained_through: Count
    strategy: Strategy
    rollouts: Annotated[int, Field(ge=1, le=4096)]
    first_draw: Count
    size: Annotated[int, Field(ge=1, le=MAX_BATCH)]
    rows: Annotated[list[Rows], Field(max_length=MAX_BATCH)]
    predicted: Annotated[
        list[Annotated[float, Field(ge=0, le=1.0001)]], Field(max_length=MAX_BATCH)
    ]
    uncertainty: Annotated[list[Annotated[float, Field(ge=0, le=1e6)]], Field(max_length=MAX_BATCH)]
    uniform: Annotated[list[Annotated[int, Field(ge=0, le=1)]], Field(max_length=MAX_BATCH)]
    warnings: Annotated[list[Warning_], Field(max_length=100)]
    created_at: Stamp
    epoch: Small
    waited: Annotated[int, Field(ge=0, le=1)]


@with_config(_STRICT)
class _LateSelection(_Selection):
    superseded_in: Annotated[int, Field(ge=1)]


@with_config(_STRICT)
class _Outcome(TypedDict):
    position: Annotated[int, Field(ge=1, lt=2**53)]
    draw: Count | None
    row: Rows
    rollout: Annotated[int, Field(ge=-1, le=4095)]
    successes: Annotated[float, Field(ge=0, le=4096)]
    trials: GroupTrials
    reward: float | None
    status: Annotated[int, Field(ge=0, le=4)]
    policy_version: Count | None
    received_at: Annotated[float, Field(ge=0, le=1e12)]
    part: NotRequired[Annotated[int, Field(ge=0, le=4096)]]


@with_config(_STRICT)
class _LateOutcome(_Outcome):
    superseded_in: Annotated[int, Field(ge=1)]


@with_config(_STRICT)
class _Receipt(TypedDict):
    idempotency_key: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,128}$")]
    request: Request
    answer: dict[str, Any]
    log_position: Count


@with_config(_STRICT)
class _Version(TypedDict):
    version: Count
    trained_through: Count
    predictor: PredictorName
    created_at: Stamp
    damaged: NotRequired[Literal[True]]


@with_config(_STRICT)
class _Step(TypedDict):
    version: Annotated[int, Field(ge=1, lt=2**53)]
    trained_through: Count
    metrics: Annotated[dict[MetricName, float | None], Field(max_length=4_096)]
    created_at: Stamp


@with_config(_STRICT)
class _LateStep(_Step):
    superseded_in: Annotated[int, Field(ge=1)]


@with_config(_STRICT)
class _Snapshot(TypedDict):
    tag: Name
    epoch: Small
    settings: dict[str, Any]
    log_position: Count
    draws: Count
    selections: Count
    model_version: Count
    trained_through: Count
    created_at: Stamp
    superseded_in: Small


@with_config(_STRICT)
class _Restore(TypedDict):
    epoch: Annotated[int, Field(ge=1)]
    tag: Name
    created_at: Stamp


ROWS: dict[str, TypeAdapter[Any]] = {
    "prompts": TypeAdapter(_Prompt),
    "prompt_aliases": TypeAdapter(_Alias),
    "pool_chunks": TypeAdapter(_Chunk),
    "run_segments": TypeAdapter(_Segment),
    "run_subsets": TypeAdapter(_Subset),
    "selections": TypeAdapter(_Selection),
    "outcomes": TypeAdapter(_Outcome),
    "receipts": TypeAdapter(_Receipt),
    "model_versions": TypeAdapter(_Version),
    "steps": TypeAdapter(_Step),
    "snapshots": TypeAdapter(_Snapshot),
    "restores": TypeAdapter(_Restore),
    "superseded_selections": TypeAdapter(_LateSelection),
    "superseded_outcomes": TypeAdapter(_LateOutcome),
    "superseded_steps": TypeAdapter(_LateStep),
}
# What an archive of an older schema does not have: files, and columns with what they are then.
OLDER = {
    "0004": (
        {"prompt_aliases", "run_subsets"},
        {"outcomes": {"part": 0}, "superseded_outcomes": {"part": 0}},
    )
}

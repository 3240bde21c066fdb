"""Frozen values that leave and enter the store."""

from __future__ import annotations

from dataclasses import dataclass
from math import isclose
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from promptgps_client.wire import ROUNDING
from sqlalchemy import Row

from promptgps_service.store.states import OPEN

OK, ERROR, TIMEOUT, TRUNCATED, CANCELLED = range(5)
STATUS_CODES = {
    "ok": OK,
    "error": ERROR,
    "timeout": TIMEOUT,
    "truncated": TRUNCATED,
    "cancelled": CANCELLED,
}
GROUP = -1  # rollout index of an outcome that reports a whole group
R = TypeVar("R", "PoolRecord", "RunRecord", "SnapshotRecord")
Detail: TypeAlias = str | int | float | bool | None


def record_of(kind: type[R], row: Row[tuple[object, ...]]) -> R:
    """The record of a row whose columns have the names of its fields; other columns are left."""
    fields = row._mapping
    return kind(**{name: fields[name] for name in kind.__dataclass_fields__})


@dataclass(frozen=True)
class PoolRecord:
    """A pool; ``prompts`` and ``aliases`` are its committed lengths."""

    id: int
    name: str
    embedding: dict[str, Any]
    dimension: int
    prompts: int
    frame_rows: int
    created_at: str
    aliases: int = 0
    state: str = OPEN


@dataclass(frozen=True)
class PoolChunk:
    """Prompts to append, side by side.

    Attributes:
        digests: 16 bytes each, of the content; the first eight are the prompt's identity as int64.
        identities: 8 bytes each, where prompts of the chunk share their content with earlier ones
            and are told apart.
        embedding: float16[M, d].
        surface: float32[M, S]; S = 0 without texts.
    """

    keys: list[str]
    digests: list[bytes]
    texts: list[str] | None
    domains: list[str | None] | None
    prior_successes: list[float | None] | None
    prior_trials: list[float | None] | None
    embedding: NDArray[np.float16]
    surface: NDArray[np.float32]
    identities: list[bytes] | None = None

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Known:
    """What a pool has under a key: the position of the prompt and the digest of its content."""

    position: int
    digest: bytes


@dataclass(frozen=True)
class PoolArrays:
    """What a pool knows of its positions start.., M of them.

    Attributes:
        identity: int64[M].
        embedding: float16[M, d].
        surface: float32[M, S]; NaN where a prompt has no text, S = 0 where none of them has.
        offline: float64[M, 2], successes and trials of the offline pass rate; 0 trials where there
            is none.
    """

    identity: NDArray[np.int64]
    embedding: NDArray[np.float16]
    surface: NDArray[np.float32]
    offline: NDArray[np.float64]


@dataclass(frozen=True)
class Segment:
    """Rows of a run that are positions of a pool.

    Rows ``offset .. offset + count`` of the run are positions ``start .. start + count`` of the
    pool.
    """

    offset: int
    pool_id: int
    start: int
    count: int


@dataclass(frozen=True)
class RunRecord:
    """A run with its settings and the heads of all that is written of it.

    Attributes:
        epoch: how often the run was put back to a snapshot.
        revision: how often its settings have changed.
        model_version: the published one; 0 before anything was learned.
        trained_through: log position up to which that one has learned.
        wanted: log position up to which somebody waits for the model to learn.
        state: open, archived or faulty; or hidden, see ``states``.
        fault: what is wrong with a faulty one.
    """

    id: int
    name: str
    request: dict[str, Any]
    settings: dict[str, Any]
    log_position: int
    draws: int
    selections: int
    created_at: str
    epoch: int
    revision: int
    model_version: int
    trained_through: int
    wanted: int
    state: str = OPEN
    fault: str | None = None

    @property
    def behind(self) -> bool:
        """Whether there is something to learn from."""
        return self.trained_through < self.log_position


@dataclass(frozen=True)
class SelectionRecord:
    """One issued selection; arrays are int32/float32/uint8[size].

    Attributes:
        epoch: the run's, when it was issued.
        waited: whether the caller waited for the model to learn from everything reported.
    """

    sequence: int
    ordinal: int
    request: str
    seed: int
    clock: int
    policy_version: int | None
    model_version: int
    trained_through: int
    strategy: str
    rollouts: int
    first_draw: int
    rows: NDArray[np.int32]
    predicted: NDArray[np.float32]
    uncertainty: NDArray[np.float32]
    uniform: NDArray[np.uint8]
    warnings: list[str]
    epoch: int
    waited: bool

    @property
    def size(self) -> int:
        """Number of draws."""
        return int(self.rows.size)


@dataclass(frozen=True)
class OutcomeRecord:
    """One line of the log, before it has a position.

    Attributes:
        part: 0 for the first report of a rollout or group; counts on where that one said nothing,
            or only a part.
    """

    draw: int | None
    row: int
    rollout: int
    successes: float
    trials: int
    reward: float | None
    status: int
    policy_version: int | None
    part: int = 0

    def same_as(self, other: OutcomeRecord) -> bool:
        """Whether two reports of one rollout or group say the same, up to rounding of numbers.

        The policy version is no part of it.
        """
        if (self.trials, self.status) != (other.trials, other.status):
            return False
        if abs(self.successes - other.successes) > ROUNDING:
            return False
        if self.reward is None or other.reward is None:
            return self.reward is other.reward

        return isclose(self.reward, other.reward, rel_tol=ROUNDING, abs_tol=ROUNDING)


@dataclass(frozen=True)
class LogSlice:
    """Lines ``start + 1 .. head`` of the log as arrays of equal length.

    Draw is -1 and version -1 where absent.
    """

    head: int
    draw: NDArray[np.int64]
    row: NDArray[np.int64]
    rollout: NDArray[np.int64]
    successes: NDArray[np.float64]
    trials: NDArray[np.float64]
    status: NDArray[np.int64]
    policy_version: NDArray[np.int64]
    part: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.draw.size)

    @property
    def start(self) -> int:
        """Position before its first line: the log has no gaps."""
        return self.head - len(self)

    def until(self, position: int) -> LogSlice:
        """Its lines up to a position."""
        lines = min(max(position - self.start, 0), len(self))
        return LogSlice(self.start + lines, *(column[:lines] for column in self._columns))

    def after(self, position: int) -> LogSlice:
        """Its lines from a position on."""
        lines = min(max(position - self.start, 0), len(self))
        return LogSlice(self.head, *(column[lines:] for column in self._columns))

    def then(self, following: LogSlice) -> LogSlice:
        """These lines and those that follow them."""
        pairs = zip(self._columns, following._columns, strict=True)
        return LogSlice(following.head, *(np.concatenate(pair) for pair in pairs))

    @property
    def _columns(self) -> list[NDArray[Any]]:
        return [getattr(self, name) for name in self.__dataclass_fields__ if name != "head"]


@dataclass(frozen=True)
class KeyRecord:
    """An API key, without the key: what it is known by and what it allows."""

    id: str
    name: str
    digest: bytes
    runs: list[str]
    read_only: bool
    created_at: str
    expires_at: str | None
    last_used: str | None
    revoked_at: str | None = None


@dataclass(frozen=True)
class VersionRecord:
    """A stored model version."""

    version: int
    trained_through: int
    predictor: str
    state: bytes


class StepRecord(NamedTuple):
    """What a learned step showed.

    Attributes:
        version: the model version that it led to.
        trained_through: position of the log that this one has learned up to.
        metrics: by name.
    """

    version: int
    trained_through: int
    metrics: dict[str, float | None]


@dataclass(frozen=True)
class SnapshotRecord:
    """The heads of a run and its settings, as they were when the snapshot was made.

    Attributes:
        epoch: the run's when it was made.
        superseded_in: epoch whose beginning superseded it; 0 while it stands.
    """

    id: int
    tag: str
    epoch: int
    settings: dict[str, Any]
    log_position: int
    draws: int
    selections: int
    model_version: int
    trained_through: int
    created_at: str
    superseded_in: int


@dataclass(frozen=True)
class Superseded:
    """How much of each kind a restore has superseded."""

    selections: int
    draws: int
    outcomes: int
    snapshots: int


@dataclass(frozen=True)
class RestoreRecord:
    """A restore: the epoch that it began, the tag that it went back to, and what it superseded."""

    epoch: int
    tag: str
    created_at: str
    superseded: Superseded


@dataclass(frozen=True)
class SupersededDraw:
    """A draw that a restore has superseded: what its outcomes need to be kept."""

    superseded_in: int
    row: int
    rollouts: int


@dataclass(frozen=True)
class EventRecord:
    """Something that was done.

    Attributes:
        id: in the order of happening.
        key: name of the API key that asked for it.
        run: name of the run that it was done to; or of a pool.
        subject_id: id of what was deleted.
    """

    id: int
    created_at: str
    key: str | None
    action: str
    run: str | None
    pool: str | None
    subject_id: int | None
    detail: dict[str, Detail]


@dataclass(frozen=True)
class RunRows:
    """How much there is of a run, superseded rows and all."""

    selections: int
    draws: int
    outcomes: int
    model_versions: int
    snapshots: int

"""Frozen values that leave and enter the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

OK, ERROR, TIMEOUT, TRUNCATED, CANCELLED = range(5)
STATUS_CODES = {"ok": OK, "error": ERROR, "timeout": TIMEOUT, "truncated": TRUNCATED, "cancelled": CANCELLED}
GROUP = -1  # rollout index of an outcome that reports a whole group


@dataclass(frozen=True)
class PoolRecord:
    """A pool; ``prompts`` is its committed length."""

    id: int
    name: str
    embedding: dict[str, Any]
    dimension: int
    prompts: int
    frame_rows: int
    created_at: str


@dataclass(frozen=True)
class PoolChunk:
    """Prompts to append, side by side; identity is the first eight bytes of the digest as int64."""

    keys: list[str]
    digests: list[bytes]
    texts: list[str] | None
    domains: list[str | None] | None
    prior_successes: list[float | None] | None
    prior_trials: list[float | None] | None
    embedding: NDArray[np.float16]
    surface: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class PoolArrays:
    """The vectors of positions start.. of a pool: identity int64[M], embedding float16[M, d], surface float32[M, S]."""

    identity: NDArray[np.int64]
    embedding: NDArray[np.float16]
    surface: NDArray[np.float32]


@dataclass(frozen=True)
class Segment:
    """Rows ``offset .. offset + count`` of a run are positions ``start .. start + count`` of a pool."""

    offset: int
    pool_id: int
    start: int
    count: int


@dataclass(frozen=True)
class RunRecord:
    """A run with its settings and the heads of its log."""

    id: int
    name: str
    request: dict[str, Any]
    settings: dict[str, Any]
    log_position: int
    draws: int
    selections: int
    created_at: str


@dataclass(frozen=True)
class SelectionRecord:
    """One issued selection; arrays are int32/float32/uint8[size]."""

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

    @property
    def size(self) -> int:
        """Number of draws."""
        return int(self.rows.size)


@dataclass(frozen=True)
class OutcomeRecord:
    """One line of the log, before it has a position."""

    draw: int | None
    row: int
    rollout: int
    successes: float
    trials: int
    reward: float | None
    status: int
    policy_version: int | None

    def same_as(self, other: OutcomeRecord) -> bool:
        """Whether two reports of one rollout or group say the same (the policy version is not part of it)."""
        return (self.successes, self.trials, self.reward, self.status) == (
            other.successes, other.trials, other.reward, other.status,
        )  # fmt: skip


@dataclass(frozen=True)
class LogSlice:
    """Lines ``after + 1 .. head`` of the log as arrays of equal length; draw is -1 and version -1 where absent."""

    head: int
    draw: NDArray[np.int64]
    row: NDArray[np.int64]
    rollout: NDArray[np.int64]
    successes: NDArray[np.float64]
    trials: NDArray[np.float64]
    status: NDArray[np.int64]
    policy_version: NDArray[np.int64]


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


@dataclass(frozen=True)
class VersionRecord:
    """A stored model version."""

    version: int
    trained_through: int
    predictor: str
    state: bytes

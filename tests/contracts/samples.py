"""Small pools, runs and records for the store's contract."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
from promptgps_service.store.records import (
    OK,
    KeyRecord,
    OutcomeRecord,
    PoolChunk,
    PoolRecord,
    RunRecord,
    SelectionRecord,
)
from promptgps_service.store.unit import Store

DIMENSION = 3


def chunk(first: int, count: int, *, domain: str | None = None) -> PoolChunk:
    """Prompts number ``first`` to ``first + count``, with vectors that tell them apart."""
    numbers = np.arange(first, first + count)
    return PoolChunk(
        keys=[f"key-{number}" for number in numbers],
        digests=[
            hashlib.blake2b(f"{number}".encode(), digest_size=16).digest() for number in numbers
        ],
        texts=[f"text {number}" for number in numbers],
        domains=[domain] * count,
        prior_successes=[float(number) for number in numbers],
        prior_trials=None,
        embedding=np.stack([numbers, numbers + 1, numbers + 2], 1).astype(np.float16),
        surface=numbers[:, None].astype(np.float32) / 8,
    )


def make_pool(store: Store, name: str = "pool", prompts: int = 0) -> PoolRecord:
    """A pool with that many committed prompts."""
    with store.write() as unit:
        pool = unit.pools.create(name, {"kind": "given", "dimension": DIMENSION}, DIMENSION)
    if prompts:
        append(store, pool, chunk(0, prompts))
    with store.read() as unit:
        return unit.pools.get(name)


def append(store: Store, pool: PoolRecord, prompts: PoolChunk) -> None:
    """One whole import."""
    with store.write() as unit:
        start = unit.pools.begin_import(pool, "token")
        unit.pools.stage(pool.id, "token", start, prompts)
        unit.pools.finish_import(pool.id, "token", start + len(prompts))


def make_run(store: Store, name: str = "run") -> RunRecord:
    """A run with an empty log."""
    with store.write() as unit:
        return unit.runs.create(name, {"name": name}, {"seed": 7})


def selection(sequence: int = 0, size: int = 3, **changes: object) -> SelectionRecord:
    """A selection of ``size`` draws."""
    record = SelectionRecord(
        sequence=sequence,
        ordinal=sequence,
        request="digest",
        seed=2**53 - 1,
        clock=2**53 - 2,
        policy_version=None,
        model_version=3,
        trained_through=2**40,
        strategy="promptgps",
        rollouts=8,
        first_draw=sequence * size,
        rows=np.arange(2**31 - 1 - size, 2**31 - 1, dtype=np.int32),
        predicted=np.linspace(0.1, 0.9, size, dtype=np.float32),
        uncertainty=np.linspace(0.3, 0.0, size, dtype=np.float32),
        uniform=(np.arange(size) % 2).astype(np.uint8),
        warnings=["the pool looks too hard: «ü» \U0001f600"],
        epoch=0,
        waited=False,
    )
    return replace(record, **changes)  # type: ignore[arg-type]


def outcome(draw: int | None = 0, rollout: int = -1, **changes: object) -> OutcomeRecord:
    """A line of the log."""
    record = OutcomeRecord(
        draw=draw,
        row=5,
        rollout=rollout,
        successes=0.1,
        trials=8,
        reward=None,
        status=OK,
        policy_version=None,
    )
    return replace(record, **changes)  # type: ignore[arg-type]


def append_outcomes(store: Store, run: RunRecord, records: list[OutcomeRecord]) -> int:
    """Append under the run's lock, as a use case does; answers the new head."""
    with store.write() as unit:
        locked = unit.runs.lock(run.id)
        head = unit.log.append(run.id, locked.log_position, records)
        unit.runs.advance(run.id, log_position=head)
    return head


def key(name: str = "key", **changes: object) -> KeyRecord:
    """An API key."""
    record = KeyRecord(
        id=hashlib.sha256(name.encode()).hexdigest()[:12],
        name=name,
        digest=hashlib.sha256(name.encode()).digest(),
        runs=["exp-*", "other"],
        read_only=True,
        created_at="2026-02-11T08:00:00.000+00:00",
        expires_at=None,
        last_used=None,
    )
    return replace(record, **changes)  # type: ignore[arg-type]

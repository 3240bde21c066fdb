"""A trainer without HTTP: pools of given vectors, runs, batches, and a policy.

The policy's skill is a matter of the key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from promptgps_client.wire import (
    Batch,
    CreatePool,
    CreateRun,
    Embedding,
    OutcomesStored,
    PoolShare,
    PromptsAdded,
    ReportOutcomes,
    Run,
    SelectBatch,
)
from promptgps_service.flow.context import Context
from promptgps_service.flow.open_run import create_run, describe_run
from promptgps_service.flow.prompt_columns import PromptChunk
from promptgps_service.flow.record import record_outcomes
from promptgps_service.flow.register import add_prompts, create_pool
from promptgps_service.flow.select import select_batch

DIMENSION = 6
WAIT = 30.0


def vectors(keys: Sequence[str]) -> np.ndarray:
    """Vectors float32[M, 6] that are a matter of the keys."""
    rows = [np.random.default_rng(list(key.encode())).normal(size=DIMENSION) for key in keys]
    return np.array(rows, np.float32).reshape(-1, DIMENSION)


def skill(key: str) -> float:
    """Success rate of the policy at a prompt."""
    return hashlib.blake2b(key.encode(), digest_size=1).digest()[0] / 255


def add(
    context: Context,
    count: int,
    *,
    pool: str = "pool",
    first: int = 0,
    domains: list[str | None] | None = None,
    prior: list[tuple[float, float] | None] | None = None,
) -> PromptsAdded:
    """Add prompts `{pool}-{number}`, with offline successes and trials.

    The pool is made where it is missing.
    """
    create_pool(
        context, CreatePool(name=pool, embedding=Embedding(kind="given", dimension=DIMENSION))
    )
    keys = [f"{pool}-{number}" for number in range(first, first + count)]
    chunk = PromptChunk(
        0,
        keys=keys,
        texts=[f"Text of {key}" for key in keys],
        vectors=vectors(keys),
        domains=domains,
        prior_successes=prior and [pair and pair[0] for pair in prior],
        prior_trials=prior and [pair and pair[1] for pair in prior],
    )
    return add_prompts(context, pool, [chunk])


def open_run(context: Context, **settings: Any) -> Run:
    """Open the run `run` over the pool `pool`, unless said otherwise."""
    settings = {"name": "run", "seed": 11} | settings
    if "pools" in settings:
        settings["pools"] = [PoolShare(**share) for share in settings["pools"]]
    elif "pool" not in settings:
        settings["pool"] = "pool"
    return create_run(context, CreateRun.model_validate(settings))[0]


def select(context: Context, batch_size: int, **request: Any) -> Batch:
    """Ask the run `run` for a batch."""
    return select_batch(
        context, SelectBatch.model_validate({"run": "run", "batch_size": batch_size} | request)
    )


def report(context: Context, *, key: str | None = None, **request: Any) -> OutcomesStored:
    """Report columns to the run `run`."""
    return record_outcomes(context, ReportOutcomes.model_validate({"run": "run"} | request), key)


def successes(batch: Batch) -> list[int]:
    """What the policy makes of a batch's groups."""
    return [
        round(skill(key) * n)
        for key, n in zip(batch.draws.prompt, batch.draws.rollouts, strict=True)
    ]


def report_groups(context: Context, batch: Batch) -> OutcomesStored:
    """Roll a batch out and report all of it."""
    return report(
        context,
        run=batch.run,
        draw_id=batch.draws.draw_id,
        successes=successes(batch),
        trials=batch.draws.rollouts,
    )


def step(context: Context, batch_size: int, **request: Any) -> Batch:
    """One synchronous step: the model has learned from everything before."""
    batch = select(context, batch_size, wait_seconds=WAIT, **request)
    assert not [warning for warning in batch.warnings if "had not learned" in warning]
    report_groups(context, batch)
    return batch


def settle(context: Context, run: str = "run") -> Run:
    """Wait until the model has learned from the whole log; answers the run."""
    desk = context.desk(run)
    desk.trainer.ask(desk.state.log_position)
    assert desk.state.wait_learned(desk.state.log_position, WAIT)
    return describe_run(context, run)


def log_length(context: Context, run: str = "run") -> int:
    """Lines of the log, as the database has them."""
    with context.store.read() as unit:
        record = unit.runs.get(run)
        lines = unit.log.after(record.id, 0)
        assert lines.head == record.log_position == len(lines.draw)
        return record.log_position

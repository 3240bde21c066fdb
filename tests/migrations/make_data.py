"""Make the database of version 0.1.0 that `test_data_of_0_1_0.py` upgrades and uses.

Run with that version's code, which is commit f252a38 (`git worktree add ../base f252a38`):

    PYTHONPATH=../base/client:../base/service:../base \
        python tests/migrations/make_data.py tests/migrations/data

It writes `version_0_1_0.db` and, in `version_0_1_0.json`, what that version answered.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from promptgps_client.wire import (
    CreatePool,
    CreateRun,
    Embedding,
    PredictDifficulty,
    ReportOutcomes,
    Restore,
    SelectBatch,
    TakeSnapshot,
)
from promptgps_service.flow.context import Context
from promptgps_service.flow.open_run import create_run, describe_run
from promptgps_service.flow.predict import predict_difficulty
from promptgps_service.flow.prompt_columns import PromptChunk
from promptgps_service.flow.record import record_outcomes
from promptgps_service.flow.register import add_prompts, create_pool
from promptgps_service.flow.restore import restore_run
from promptgps_service.flow.select import select_batch
from promptgps_service.flow.snapshot import take_snapshot
from promptgps_service.flow.trainer import Learning
from promptgps_service.store.engine import make_engine
from promptgps_service.store.migrate import upgrade
from promptgps_service.store.unit import Store

KEYED = [f"text-{number}" for number in range(20)]
BATCH = 6
WAIT = 60.0
GIVEN = Embedding(kind="given", dimension=4)


def vectors(first: int, count: int) -> np.ndarray:
    """Vectors float32[M, 4] of prompts ``first`` and on."""
    rows = [np.random.default_rng(number).normal(size=4) for number in range(first, first + count)]
    return np.array(rows, np.float32)


def fill(context: Context) -> None:
    """Pools of texts and of given vectors, with keys and without."""
    columns = PromptChunk(
        0,
        keys=KEYED,
        texts=[f"What is {number} + {number * 7}?" for number in range(20)],
        domains=["even", "odd"] * 10,
        prior_successes=[1.0, None] * 10,
        prior_trials=[4.0, None] * 10,
    )
    hashed = PromptChunk(0, texts=[f"Solve x + {number} = 12." for number in range(12)])
    pools = {
        "texts": (Embedding(), columns),
        "hashed": (Embedding(), hashed),
        "vectors": (
            GIVEN,
            PromptChunk(0, keys=[str(n) for n in range(20)], vectors=vectors(0, 20)),
        ),
        "more": (GIVEN, PromptChunk(0, vectors=vectors(100, 15))),
    }
    for name, (embedding, chunk) in pools.items():
        create_pool(context, CreatePool(name=name, embedding=embedding))
        add_prompts(context, name, [chunk])


def step(context: Context, run: str, sequence: int, answers: dict[str, Any]) -> None:
    """A batch, rolled out and reported, all but its last draw."""
    asked = SelectBatch(run=run, batch_size=BATCH, sequence=sequence, policy_version=sequence)
    batch = select_batch(context, asked)
    answers[run][str(sequence)] = batch.draws.model_dump()
    draws = batch.draws.draw_id[:-1]
    counts = [(sequence + place) % 9 for place in range(len(draws))]
    report = ReportOutcomes(run=run, draw_id=draws, successes=counts, trials=[8] * len(draws))
    record_outcomes(context, report, None)


def settle(context: Context, run: str) -> None:
    """Wait until the model has learned from the whole log."""
    desk = context.desk(run)
    desk.trainer.ask(desk.state.log_position)
    if not desk.state.wait_learned(desk.state.log_position, WAIT):
        raise TimeoutError(run)


def use(context: Context) -> dict[str, Any]:
    """A run that learns, is put back to a snapshot and goes on."""
    answers: dict[str, Any] = {"learned": {}, "waiting": {}}
    pools = [{"pool": "vectors"}, {"pool": "more"}]
    create_run(context, CreateRun.model_validate({"name": "learned", "pools": pools, "seed": 5}))
    for sequence in range(3):
        step(context, "learned", sequence, answers)
        settle(context, "learned")
        if sequence == 1:
            take_snapshot(context, "learned", TakeSnapshot(tag="second"))
    answers["superseded"] = answers["learned"]["2"]["draw_id"]
    restore_run(context, "learned", Restore(tag="second"), None)
    step(context, "learned", 2, answers)
    add_prompts(
        context, "vectors", [PromptChunk(0, keys=["grown-0", "grown-1"], vectors=vectors(200, 2))]
    )
    step(context, "learned", 3, answers)
    settle(context, "learned")
    asked = PredictDifficulty(run="learned", keys=["0", "3", "grown-1"])
    answers["predicted"] = predict_difficulty(context, asked).success_mean
    answers["described"] = describe_run(context, "learned").model_dump()
    return answers


def wait(context: Context, answers: dict[str, Any]) -> None:
    """A run over texts that a process without a learner serves."""
    pools = [{"pool": "texts", "quota": 0.5}, {"pool": "hashed", "quota": 0.5}]
    create_run(context, CreateRun.model_validate({"name": "waiting", "pools": pools, "seed": 6}))
    for sequence in range(2):
        step(context, "waiting", sequence, answers)


def opened(url: str, *, learn: bool) -> Context:
    """One process of the service."""
    learning = Learning(enabled=learn, groups=32, seconds=0.1)
    context = Context(
        Store(url), device=torch.device("cpu"), learning=learning, lane_depth=64, poll_seconds=0.05
    )
    context.follow(None if learn else ())
    return context


def main(folder: Path) -> None:
    """Write both files."""
    path = folder / "version_0_1_0.db"
    path.unlink(missing_ok=True)
    url = f"sqlite:///{path}"
    engine = make_engine(url)
    upgrade(engine)
    engine.dispose()

    context = opened(url, learn=True)
    fill(context)
    answers = use(context)
    context.close()
    time.sleep(0.1)
    context = opened(url, learn=False)
    wait(context, answers)
    context.close()

    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("VACUUM")
    (folder / "version_0_1_0.json").write_text(json.dumps(answers, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""A policy that changes all at once, as by a new reward or a restored checkpoint.

A whole run must follow.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from promptgps_client.wire import Batch, PredictDifficulty
from promptgps_service.flow.context import Context
from promptgps_service.flow.metrics import run_metrics
from promptgps_service.flow.predict import predict_difficulty

from tests.databases import copied_file
from tests.flow.driving import WAIT, add, open_run, report, select, settle

PROMPTS = 400
BATCH = 32
TRIALS = 8
KEYS = [f"pool-{number}" for number in range(PROMPTS)]
JUMP = 4.0
QUICK = {"width": 16, "iterations": 10}


@pytest.fixture
def database_url(sqlite_template: Path, tmp_path: Path) -> str:
    """SQLite alone: what is tested does not depend on the database, and takes its time."""
    return copied_file(sqlite_template, tmp_path)


class Policy:
    """Success rates sigmoid(level + own), own log-odds a matter of the seed."""

    def __init__(self, level: float, seed: int) -> None:
        self.level = level
        self._random = random.Random(seed)
        self._own = {key: self._random.gauss(0.0, 1.0) for key in KEYS}

    def rate(self, key: str) -> float:
        return 1 / (1 + math.exp(-self.level - self._own[key]))

    def roll_out(self, batch: Batch) -> list[int]:
        return [
            sum(self._random.random() < self.rate(key) for _ in range(TRIALS))
            for key in batch.draws.prompt
        ]


def error(context: Context, policy: Policy) -> float:
    """Mean predicted success rate of the pool less the true one."""
    told = predict_difficulty(context, PredictDifficulty(run="run", keys=KEYS)).success_mean
    return sum(told) / PROMPTS - sum(map(policy.rate, KEYS)) / PROMPTS


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("predictor", "parameters"),
    [("hierarchical", {}), ("neural", QUICK), ("stack", QUICK), ("constant", {})],
)
def test_a_jump_of_four_logits_is_followed_within_ten_steps(
    context: Context, predictor: str, parameters: dict[str, int], sign: int
) -> None:
    add(context, PROMPTS)
    open_run(context, selection={"predictor": predictor, "predictor_parameters": parameters})
    policy = Policy(-sign * JUMP / 2, seed=3)
    for version in range(20):
        if version == 10:
            settle(context)
            assert abs(error(context, policy)) < 0.08
            policy.level += sign * JUMP
            assert abs(error(context, policy)) > 0.4
        batch = select(context, BATCH, policy_version=version, wait_seconds=WAIT)
        report(
            context,
            draw_id=batch.draws.draw_id,
            successes=policy.roll_out(batch),
            trials=[TRIALS] * BATCH,
            policy_version=version,
        )
    settle(context)
    assert abs(error(context, policy)) < 0.1
    surprise = run_metrics(context, "run").series["log_loss"]
    # it came as one, and is none any more
    assert max(surprise[10:13]) > 1.0 > 0.75 > max(surprise[17:])

"""One training run with one way of choosing prompts, and the record of it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from benchmarks.rl.grpo import Learner, roll_out
from benchmarks.rl.policy import Policy
from benchmarks.rl.pool import Pool
from benchmarks.rl.selectors import Selector
from benchmarks.rl.tasks import Prompt

Floats = NDArray[np.float64]
MakeSelector = Callable[[Policy], Selector]
Progress = Callable[["Record"], None]


@dataclass(frozen=True)
class Settings:
    """What is the same for all selectors that are compared."""

    steps: int = 300
    batch: int = 16
    group: int = 8
    lr: float = 2e-4
    eval_every: int = 10
    seed: int = 0


@dataclass
class Record:
    """What happened. Per-step lists have one entry a step."""

    selector: str
    settings: Settings
    pool: int
    rollouts: list[int] = field(default_factory=list)
    effective: list[float] = field(default_factory=list)  # share of mixed groups
    reward: list[float] = field(default_factory=list)  # mean over the batch
    picked: list[list[int]] = field(default_factory=list)  # positions in the pool
    # exp of the entropy of the batch's families
    families: list[float] = field(default_factory=list)
    # success rate of the chosen, before rolling out
    predicted: list[list[float]] = field(default_factory=list)
    # share of right responses of the chosen
    realised: list[list[float]] = field(default_factory=list)
    eval_rollouts: list[int] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)  # exact, on the held-out prompts
    pool_truth: list[float] = field(default_factory=list)  # exact success rates at the end
    pool_predicted: list[float] | None = None  # the selector's for the same prompts
    pool_rank_correlation: float | None = None  # Spearman, of these two
    pool_mae: float | None = None
    seconds: float = 0.0  # processor seconds of this process
    select_seconds: float = 0.0  # wall seconds spent in select and observe

    def to_json(self) -> dict[str, Any]:
        """Plain containers."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Record:
        """The inverse of `to_json`."""
        return cls(**{**data, "settings": Settings(**data["settings"])})


def effective_families(prompts: Sequence[Prompt]) -> float:
    """How many families a batch has, as the exponential of their entropy."""
    _, counts = np.unique([p.family for p in prompts], return_counts=True)
    share = counts / counts.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def train(
    name: str,
    make_selector: MakeSelector,
    base: Policy,
    pool: Pool,
    held_out: Sequence[Prompt],
    settings: Settings,
    progress: Progress | None = None,
) -> Record:
    """Train a copy of `base`.

    Equal arguments give an equal record (times aside), bit for bit, on one machine.

    `progress` is called with the record so far after every step.
    """
    policy = copy.deepcopy(base)
    selector = make_selector(policy)
    learner = Learner(policy, settings.lr)
    record = Record(name, settings, len(pool))
    start = time.process_time()

    for step in range(settings.steps):
        if step % settings.eval_every == 0:
            _evaluate(record, policy, held_out)
        _step(record, policy, selector, learner, pool, step)
        if progress is not None:
            progress(record)

    _evaluate(record, policy, held_out)
    _compare_with_truth(record, policy.success_rates(pool.prompts), selector.predict())
    record.seconds = time.process_time() - start

    return record


def _step(
    record: Record, policy: Policy, selector: Selector, learner: Learner, pool: Pool, step: int
) -> None:
    settings = record.settings
    before = time.perf_counter()
    positions = selector.select(settings.batch)
    record.select_seconds += time.perf_counter() - before
    prompts = [pool.prompts[i] for i in positions]

    # A generator for each step: two selectors that choose
    # alike see the same samples, whatever came before.
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    rollouts = roll_out(policy, prompts, settings.group, generator)
    learner.update(rollouts)
    successes = rollouts.successes
    before = time.perf_counter()
    selector.observe(positions, successes, settings.group)
    record.select_seconds += time.perf_counter() - before

    record.rollouts.append((step + 1) * settings.batch * settings.group)
    record.effective.append(float(((successes > 0) & (successes < settings.group)).mean()))
    record.reward.append(float(successes.mean() / settings.group))
    record.picked.append(positions)
    record.families.append(effective_families(prompts))
    if selector.predicted is not None:
        record.predicted.append(selector.predicted.tolist())
        record.realised.append((successes / settings.group).tolist())


def _evaluate(record: Record, policy: Policy, held_out: Sequence[Prompt]) -> None:
    record.eval_rollouts.append(record.rollouts[-1] if record.rollouts else 0)
    record.accuracy.append(float(policy.success_rates(held_out).mean()))


def _compare_with_truth(record: Record, truth: Floats, predicted: Floats | None) -> None:
    record.pool_truth = [round(float(p), 5) for p in truth]
    if predicted is not None:
        record.pool_predicted = [round(float(p), 5) for p in predicted]
        record.pool_rank_correlation = float(spearmanr(predicted, truth).statistic)
        record.pool_mae = float(np.abs(predicted - truth).mean())

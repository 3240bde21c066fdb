"""A simulated learner whose success at a prompt follows from its text, and the loop to train it."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from promptgps_client import PromptGPS

ROLLOUTS = 8
BATCH = 16
STEPS = 20
PROMPTS = 600
# easy, middling and hard: most prompts always or never
# succeed, so that of uniform groups about 0.3 are mixed
SHARES = (0.45, 0.27, 0.28)
KINDS = ("easy", "middling", "hard")
_OBJECTS = ("apples", "marbles", "coins", "books", "tickets", "stamps", "pencils")
_PEOPLE = ("Ann", "Bo", "Chen", "Dora", "Emil", "Fatma", "Goran")


@dataclass(frozen=True)
class Task:
    """A prompt with the learner's probability to solve it."""

    key: str
    text: str
    kind: str
    success: float


def make_tasks(seed: int, count: int = PROMPTS) -> list[Task]:
    """Word problems of three kinds.

    The size of the numbers and the length of the chain make the difficulty.
    """
    rng = random.Random(seed)
    return [_task(rng, f"task-{seed}-{row}") for row in range(count)]


def _task(rng: random.Random, key: str) -> Task:
    kind = rng.choices(KINDS, SHARES)[0]
    person = rng.choice(_PEOPLE)
    thing = rng.choice(_OBJECTS)
    if kind == "easy":
        a = rng.randint(1, 9)
        b = rng.randint(1, 9)
        return Task(
            key,
            f"{person} has {a} {thing} and gets {b} more. How many {thing} are there? ({key})",
            kind,
            0.99,
        )
    if kind == "middling":
        a = rng.randint(10, 99)
        b = rng.randint(2, 9)
        c = rng.randint(10, 99)
        text = (
            f"{person} packs {a} boxes of {b} {thing}, then loses {c}. "
            f"Compute {a} * {b} - {c}. ({key})"
        )
        return Task(key, text, kind, 1 / (1 + math.exp((a - 55) / 30)))
    terms = " * ".join(str(rng.randint(10_000, 99_999)) for _ in range(rng.randint(3, 5)))
    modulus = rng.randint(1000, 9999)
    power = rng.randint(7, 19)
    text = (
        f"Let x = {terms} mod {modulus}. Find the sum of the digits of x^{power}, exactly. ({key})"
    )
    return Task(key, text, kind, 0.004)


@dataclass(frozen=True)
class Trained:
    """What a run came to: the share of mixed groups in each step, and each prompt's draws."""

    mixed: list[float]
    distinct: int

    @property
    def last_half(self) -> float:
        return float(np.mean(self.mixed[len(self.mixed) // 2 :]))


def add_pool(client: PromptGPS, tasks: list[Task], name: str) -> None:
    """The tasks as a pool of texts."""
    client.create_pool(name)
    added = client.add_prompts(
        name, keys=[task.key for task in tasks], texts=[task.text for task in tasks]
    )
    assert added.added == added.total == len(tasks)


def train(
    client: PromptGPS, tasks: list[Task], pool: str, run: str, strategy: str, seed: int
) -> Trained:
    """A synchronous trainer's loop: select, roll out, report, step."""
    by_key = {task.key: task for task in tasks}
    rng = np.random.default_rng(seed)
    client.create_run(
        name=run,
        pool=pool,
        rollouts_per_prompt=ROLLOUTS,
        seed=seed,
        selection={"strategy": strategy},
    )
    mixed = []
    drawn = set()
    for step in range(STEPS):
        batch = client.select_batch(
            run=run, sequence=step, batch_size=BATCH, policy_version=step, wait_seconds=30.0
        )
        assert not batch.replayed
        assert batch.strategy == strategy
        assert batch.trained_through == step * BATCH
        assert len(set(batch.draws.prompt)) == BATCH
        solved = [int(rng.binomial(ROLLOUTS, by_key[key].success)) for key in batch.draws.prompt]
        stored = client.report_groups(
            run=run,
            draw_id=batch.draws.draw_id,
            successes=solved,
            trials=[ROLLOUTS] * BATCH,
            policy_version=step,
        )
        assert stored.stored == BATCH
        assert stored.log_position == (step + 1) * BATCH
        mixed.append(float(np.mean([0 < won < ROLLOUTS for won in solved])))
        drawn.update(batch.draws.prompt)
    return Trained(mixed, len(drawn))

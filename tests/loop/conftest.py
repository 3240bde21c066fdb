"""The loop of a trainer against a real service: pools, runs and selectors of one test each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from promptgps_client import DrawnBatch, PromptGPS, Selector

from tests.databases import copied_file
from tests.faults.conftest import DIMENSION, vector
from tests.server import Server, running

KEYS = [f"k{number}" for number in range(40)]
ROLLOUTS = 4
BATCH = 4

Make = Callable[..., Selector]


@pytest.fixture(scope="session")
def server(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server a process of the test session, on a SQLite file of its own."""
    folder = tmp_path_factory.mktemp("server")
    with running(copied_file(sqlite_template, folder), folder) as started:
        yield started


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[PromptGPS]:
    with PromptGPS(server.url) as opened:
        yield opened


@pytest.fixture
def name(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A name for this test's own pool and run."""
    return tmp_path.name


@pytest.fixture
def run(client: PromptGPS, name: str) -> str:
    """A run over a pool of `KEYS`."""
    add_pool(client, name)
    client.create_run(
        name=name, pool=name, rollouts_per_prompt=ROLLOUTS, seed=3, selection={"cooldown": 0}
    )
    return name


@pytest.fixture
def make(server: Server, run: str, tmp_path: Path) -> Iterator[Make]:
    """Makes selectors of this test's run, and closes them.

    Each has a spool of its own unless one is given.
    """
    made: list[Selector] = []
    numbers = count()

    def selector(**options: Any) -> Selector:
        spool = tmp_path / f"spool-{next(numbers)}"
        given = {"run": run, "batch_size": BATCH, "prompts": KEYS, "spool": spool, "deadline": 10.0}
        made.append(Selector(options.pop("service", server.url), **given | options))
        return made[-1]

    yield selector
    for one in made:
        one.close()


def add_pool(client: PromptGPS, name: str, keys: Sequence[Any] = KEYS, first: int = 0) -> None:
    """A pool of given vectors, no two of them alike, or more prompts for it."""
    client.create_pool(name, embedding={"kind": "given", "dimension": DIMENSION})
    client.add_prompts(name, keys=keys, vectors=[vector(first + row) for row in range(len(keys))])


def report(selector: Selector, batch: DrawnBatch, version: int | None = None) -> None:
    """Some outcome of each draw, which its place decides."""
    solved = [float(row % (ROLLOUTS + 1)) for row in range(len(batch))]
    selector.report(
        batch.draw_id, successes=solved, trials=[ROLLOUTS] * len(batch), policy_version=version
    )


def train(selector: Selector, steps: int, first: int = 0) -> list[DrawnBatch]:
    """Some steps of a synchronous training."""
    batches = []
    for step in range(first, first + steps):
        batches.append(selector.next_batch(step))
        report(selector, batches[-1], step)
    assert selector.flush()
    return batches

"""Workers are killed and stopped while they learn and publish.

Another takes over, and nothing is learned twice.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from promptgps_service.store.engine import make_engine
from sqlalchemy import text

from tests.databases import own_postgres, postgres_database
from tests.faults.conftest import ROLLOUTS, open_run, query
from tests.faults.test_clock import DAY, Clock
from tests.server import Server, running, start_worker, wait_for

BATCH = 64
WAIT = 90.0
EAGER = {
    "PROMPTGPS_LEARN_SECONDS": "0",
    "PROMPTGPS_LEARN_GROUPS": "1",
    "PROMPTGPS_LEASE_SECONDS": "1",
}
pytestmark = pytest.mark.timeout(300)


@contextmanager
def working(database_url: str, folder: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker for the length of a block."""
    worker = start_worker(database_url, folder, "--watch", **EAGER | variables)
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()


def take_step(replica: Server, step: int) -> None:
    asked = {"run": "run", "sequence": step, "policy_version": step, "batch_size": BATCH}
    draws = replica.json("POST", "/select_batch", asked)["draws"]["draw_id"]
    solved = [sum(map(ord, draw)) % (ROLLOUTS + 1) for draw in draws]
    report = {"run": "run", "draw_id": draws, "successes": solved, "trials": [ROLLOUTS] * BATCH}
    replica.json("POST", "/outcomes", report)


def check_learned_once(replica: Server, steps: int) -> None:
    """The versions follow each other without a gap, as do the outcomes they were learned from."""
    run = replica.wait_trained("run", WAIT)
    assert run["log_position"] == steps * BATCH
    series = replica.json("GET", "/runs/run/metrics")["series"]
    assert sum(series["rollouts"]) == steps * BATCH * ROLLOUTS
    assert series["model_version"] == [
        float(version) for version in range(1, len(series["rollouts"]) + 1)
    ]
    assert run["model_version"] == len(series["rollouts"])


@pytest.mark.parametrize("shift", [0, -DAY], ids=["", "whose clock is a day behind"])
def test_a_killed_worker_is_replaced_by_another(
    database_url: str, tmp_path: Path, shift: int
) -> None:
    clock = Clock(tmp_path)
    clock.set(shift)
    with running(database_url, tmp_path, "--no-train") as replica:
        open_run(replica)
        with working(database_url, tmp_path) as first:
            for step in range(3):
                take_step(replica, step)
            held = "SELECT count(*) FROM leases"
            wait_for(
                lambda: query(database_url, held)[0][0] == 1, WAIT, "the worker to take the run"
            )
            take_step(replica, 3)
            first.kill()
            first.wait()
        with working(database_url, tmp_path, **clock.environment()):
            take_step(replica, 4)
            check_learned_once(replica, 5)
            assert query(database_url, "SELECT count(*) FROM workers")[0][0] == 1


# ---- in the middle of publishing -----------------------------------------------------------------


@contextmanager
def publishing(database_url: str, replica: Server) -> Iterator[Callable[[], None]]:
    """A worker is held up between storing a version and making it the run's.

    Answers how to let it go on.
    """
    take_step(replica, 0)
    engine = make_engine(database_url)
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    with engine.connect() as connection:
        connection.execute(text("SELECT id FROM runs FOR NO KEY UPDATE"))

        def wait_for_worker() -> None:
            wait_for(lambda: query(database_url, waiting)[0][0] > 0, WAIT, "the worker to publish")

        try:
            yield wait_for_worker
        finally:
            connection.invalidate()
    engine.dispose()


@pytest.fixture
def database(postgres_server: str) -> Iterator[str]:
    with postgres_database(postgres_server) as url:
        yield url


def test_a_worker_that_is_killed_while_it_publishes_has_published_nothing(
    database: str, tmp_path: Path
) -> None:
    with running(database, tmp_path, "--no-train") as replica:
        open_run(replica)
        with (
            publishing(database, replica) as wait_for_worker,
            working(database, tmp_path) as worker,
        ):
            wait_for_worker()
            worker.kill()
            worker.wait()
        assert query(database, "SELECT count(*) FROM model_versions")[0][0] == 0
        with working(database, tmp_path):
            take_step(replica, 1)
            check_learned_once(replica, 2)


def test_a_worker_that_is_stopped_while_it_publishes_holds_nobody_up_and_learns_nothing_twice(
    database: str, tmp_path: Path
) -> None:
    with running(database, tmp_path, "--no-train") as replica:
        open_run(replica)
        with working(database, tmp_path) as stopped:
            with publishing(database, replica) as wait_for_worker:
                wait_for_worker()
                # its connection gets the lock of the run, and keeps it
                os.kill(stopped.pid, signal.SIGSTOP)
            take_step(replica, 1)
            with working(database, tmp_path):
                check_learned_once(replica, 2)
                os.kill(stopped.pid, signal.SIGCONT)
                take_step(replica, 2)
                check_learned_once(replica, 3)
                alive = "SELECT count(*) FROM workers"
                wait_for(
                    lambda: query(database, alive)[0][0] == 2, WAIT, "the first worker to be back"
                )
                assert stopped.poll() is None
                take_step(replica, 3)
                check_learned_once(replica, 4)


def test_a_database_that_is_killed_while_a_worker_publishes_comes_back_to_it(
    tmp_path: Path,
) -> None:
    with own_postgres() as postgres, running(postgres.url, tmp_path, "--no-train") as replica:
        open_run(replica)
        with working(postgres.url, tmp_path) as worker:
            with publishing(postgres.url, replica) as wait_for_worker:
                wait_for_worker()
                postgres.kill()
            postgres.start()
            wait_for(
                lambda: replica.request("GET", "/readyz").status_code == 200,
                WAIT,
                "the replica to be ready",
            )
            take_step(replica, 1)
            check_learned_once(replica, 2)
            assert worker.poll() is None

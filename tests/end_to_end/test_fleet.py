"""Two replicas that only serve and a worker that only learns, on one PostgreSQL.

Together they are one service.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from promptgps_client import PromptGPS
from promptgps_client.wire import Batch

from tests.databases import postgres_database
from tests.faults.conftest import ROLLOUTS, open_run
from tests.server import Server, start, start_worker, wait_for

BATCH = 8
CLIENTS = 8
WAIT = 60.0
LEASE = {"PROMPTGPS_LEASE_SECONDS": "1"}


@dataclass
class Fleet:
    """What was started; a process that is killed makes room for another of its kind."""

    url: str
    folder: Path
    replicas: list[Server]
    worker: subprocess.Popen[bytes]

    def replace_replica(self, place: int) -> None:
        """Kill -9, and start another one."""
        self.replicas[place].kill()
        self.replicas[place].close()
        self.replicas[place] = start(self.url, self.folder, "--no-train")

    def replace_worker(self) -> None:
        """Kill -9, and start another one."""
        self.worker.kill()
        self.worker.wait()
        self.worker = start_worker(self.url, self.folder, "--watch", **LEASE)


@pytest.fixture(scope="module")
def fleet(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with postgres_database(postgres_server) as url:
        worker = start_worker(url, folder, "--watch", **LEASE)
        made = Fleet(url, folder, [], worker)
        try:
            made.replicas += (start(url, folder, "--no-train") for _ in range(2))
            yield made
        finally:
            made.worker.kill()
            made.worker.wait()
            for replica in made.replicas:
                replica.kill()
                replica.close()


def test_every_sequence_asked_of_both_by_many_at_once_has_one_answer(fleet: Fleet) -> None:
    open_run(fleet.replicas[0], name="same")
    asked = [
        {"run": "same", "sequence": number // CLIENTS, "batch_size": BATCH}
        for number in range(10 * CLIENTS)
    ]

    def ask(place: int) -> Any:
        return fleet.replicas[place % 2].json("POST", "/select_batch", asked[place])

    with ThreadPoolExecutor(CLIENTS) as threads:
        answers = list(threads.map(ask, range(len(asked))))
    for first in range(0, len(asked), CLIENTS):
        same = answers[first : first + CLIENTS]
        assert all(answer | {"replayed": None} == same[0] | {"replayed": None} for answer in same)
        assert sorted(answer["replayed"] for answer in same) == [False] + [True] * (CLIENTS - 1)
    draws = {draw for answer in answers for draw in answer["draws"]["draw_id"]}
    assert len(draws) == 10 * BATCH


def drive(fleet: Fleet, run: str, steps: range) -> list[Batch]:
    """A trainer behind a load balancer, which waits for the model.

    Each request goes to the other replica.
    """
    batches = []
    for step in steps:
        with (
            PromptGPS(fleet.replicas[step % 2].url) as one,
            PromptGPS(fleet.replicas[1 - step % 2].url) as other,
        ):
            batch = one.select_batch(
                run=run, batch_size=BATCH, sequence=step, policy_version=step, wait_seconds=WAIT
            )
            won = [sum(map(ord, prompt)) % (ROLLOUTS + 1) for prompt in batch.draws.prompt]
            for part in (slice(0, 3), slice(3, BATCH)):
                other.report_groups(
                    run=run,
                    draw_id=batch.draws.draw_id[part],
                    successes=won[part],
                    trials=[ROLLOUTS] * len(won[part]),
                    policy_version=step,
                )
        assert batch.trained_through == BATCH * step, batch.warnings
        batches.append(batch)
    return batches


@pytest.mark.timeout(600)
def test_a_restore_through_one_holds_for_all_whoever_is_killed(fleet: Fleet) -> None:
    open_run(fleet.replicas[0], name="back")
    drive(fleet, "back", range(3))
    with PromptGPS(fleet.replicas[0].url) as gps:
        gps.snapshot("back", "step-3")
    first = drive(fleet, "back", range(3, 8))
    fleet.replace_worker()
    with PromptGPS(fleet.replicas[1].url) as gps:
        assert gps.restore("back", "step-3").superseded.draws == 5 * BATCH
    again = drive(fleet, "back", range(3, 5))
    fleet.replace_replica(0)
    again += drive(fleet, "back", range(5, 6))
    fleet.replace_worker()
    again += drive(fleet, "back", range(6, 8))
    for one, other in zip(first, again, strict=True):
        assert one.draws.prompt == other.draws.prompt
        assert one.draws.predicted_success == other.draws.predicted_success
        assert (one.model_version, one.trained_through) == (
            other.model_version,
            other.trained_through,
        )
        assert set(one.draws.draw_id).isdisjoint(other.draws.draw_id)


def test_readiness_and_metrics_tell_how_a_replica_follows(fleet: Fleet) -> None:
    replica = fleet.replicas[0]
    open_run(replica, name="told")
    drive(fleet, "told", range(2))
    replica.wait_trained("told")
    ready = replica.json("GET", "/readyz")
    assert ready["ready"]
    assert set(ready["checks"].values()) == {"ok"}
    assert "follow" in ready["checks"]

    def value(name: str) -> float:
        families = text_string_to_metric_families(replica.request("GET", "/metrics").text)
        (found,) = [
            s.value
            for f in families
            for s in f.samples
            if s.name == name and s.labels.get("run") == "told"
        ]
        return found

    assert value("promptgps_leased") == 0
    assert value("promptgps_model_age_seconds") >= 0
    wait_for(
        lambda: value("promptgps_lag") == 0, WAIT, "the replica to have nothing left to follow"
    )
    fleet.worker.terminate()
    assert fleet.worker.wait(WAIT) == 0
    batch = replica.json("POST", "/select_batch", {"run": "told", "batch_size": 2})
    report = {
        "run": "told",
        "draw_id": batch["draws"]["draw_id"],
        "successes": [1, 1],
        "trials": [4, 4],
    }
    replica.json("POST", "/outcomes", report)
    assert value("promptgps_lag") == 2
    fleet.replace_worker()
    wait_for(lambda: value("promptgps_lag") == 0, WAIT, "the next worker to learn the rest")

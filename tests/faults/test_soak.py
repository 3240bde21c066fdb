"""Clients at work while replicas and workers are killed, one every few seconds.

The log is what was acknowledged.

`PROMPTGPS_SOAK_SECONDS` says for how long; `make soak` does it for ten minutes.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from promptgps_client import PromptGPS
from promptgps_client.errors import NoAnswer, ServerFault, TooBusy
from promptgps_client.wire import Batch, OutcomesStored

from tests.databases import postgres_database
from tests.faults.conftest import ROLLOUTS, open_run, query
from tests.faults.test_kill_under_load import Body, report_of
from tests.server import Server, start, start_worker, wait_for

SECONDS = float(os.environ.get("PROMPTGPS_SOAK_SECONDS", "60"))
CLIENTS = 8
RUNS = ("one", "two", "three", "four")  # each of two clients
BATCH = 8
PAUSE = (1.0, 4.0)  # seconds from a start to the next kill
LEASE = "2"
# of a client, for an answer of either replica; of the test, for the workers to learn the rest
PATIENCE = 90.0
CHECKED = 100  # selections of each client that are asked for again
A = TypeVar("A")
_log = logging.getLogger(__name__)


class Fleet:
    """Two replicas that only serve and two workers that only learn."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self._url = database_url
        self._folder = folder
        self.replicas: list[Server | None] = [None, None]
        self.workers: list[subprocess.Popen[bytes] | None] = [None, None]
        self.kills: Counter[str] = Counter()

    @contextmanager
    def running(self) -> Iterator[None]:
        """All four, until the end of a block."""
        try:
            for place in range(2):
                self._serve(place)
                self._learn(place)
            yield
        finally:
            for place in range(2):
                self._end_replica(place)
                self._end_worker(place)

    def _serve(self, place: int) -> None:
        self.replicas[place] = start(self._url, self._folder, "--no-train")

    def _learn(self, place: int) -> None:
        self.workers[place] = start_worker(
            self._url, self._folder, "--watch", PROMPTGPS_LEASE_SECONDS=LEASE
        )

    def kill(self, kind: str, place: int) -> None:
        """Kill -9 one of the four and start another in its place."""
        self.kills[kind] += 1
        if kind == "replica":
            self._end_replica(place)
            self._serve(place)
        else:
            self._end_worker(place)
            self._learn(place)

    def _end_replica(self, place: int) -> None:
        server = self.replicas[place]
        if server is not None:
            server.kill()
            self.replicas[place] = None
            server.close()

    def _end_worker(self, place: int) -> None:
        worker = self.workers[place]
        if worker is not None:
            worker.kill()
            worker.wait()

    def assert_alive(self) -> None:
        """Nothing has ended but by a kill."""
        for process in (
            *(server.process for server in self.replicas if server),
            *filter(None, self.workers),
        ):
            assert process.poll() is None, f"{process.args} has ended by itself"


@dataclass
class Client:
    """One trainer: every call is repeated, at either replica, until it is acknowledged."""

    fleet: Fleet
    number: int
    stack: ExitStack
    batches: list[Batch] = field(default_factory=list)
    reports: list[Body] = field(default_factory=list)
    repeated: int = 0
    longest: float = 0.0
    clients: dict[str, PromptGPS] = field(default_factory=dict)

    @property
    def run(self) -> str:
        return RUNS[self.number % len(RUNS)]

    def work(self, stop: threading.Event) -> None:
        for step in itertools.count():
            if stop.is_set():
                return
            batch = self.select(self.number * 1_000_000 + step)
            report = report_of(batch.model_dump(), self.number) | {"run": self.run}
            stored = self.report(report)
            assert (stored.stored + stored.duplicates, stored.conflicts) == (
                len(report["draw_id"]),
                [],
            )
            self.batches.append(batch)
            self.reports.append(report)
            if step % 5 == 0:
                again = self.report(report)
                assert (again.stored, again.duplicates) == (0, len(report["draw_id"]))

    def select(self, sequence: int) -> Batch:
        return self.ask(
            lambda gps: gps.select_batch(run=self.run, sequence=sequence, batch_size=BATCH)
        )

    def report(self, body: Body) -> OutcomesStored:
        return self.ask(
            lambda gps: (gps.report_groups if "trials" in body else gps.report_rollouts)(**body)
        )

    def ask(self, call: Callable[[PromptGPS], A]) -> A:
        began = time.monotonic()
        for attempt in itertools.count(self.number):
            server = self.fleet.replicas[attempt % 2]
            if server is not None:
                try:
                    answer = call(self.client(server.url))
                except (NoAnswer, TooBusy, ServerFault) as fault:
                    if isinstance(fault, ServerFault) and fault.status != 503:
                        raise
                    self.repeated += 1
                else:
                    self.longest = max(self.longest, time.monotonic() - began)
                    return answer
            assert time.monotonic() - began < PATIENCE, "neither replica answers"
            time.sleep(0.01)
        raise AssertionError

    def client(self, url: str) -> PromptGPS:
        if url not in self.clients:
            self.clients[url] = self.stack.enter_context(PromptGPS(url, retry_seconds=0))
        return self.clients[url]

    def lines(self) -> Counter[tuple[int, int, float, int]]:
        """Draw number, rollout, successes and trials of every line that was acknowledged."""
        found: Counter[tuple[int, int, float, int]] = Counter()
        for report in self.reports:
            if "trials" in report:
                columns: list[Any] = [
                    [-1] * len(report["draw_id"]),
                    report["successes"],
                    report["trials"],
                ]
            else:
                columns = [report["rollout_index"], report["reward"], [1] * len(report["draw_id"])]
            numbers = [int(draw.partition("-")[2]) for draw in report["draw_id"]]
            found.update(zip(numbers, *columns, strict=True))
        return found


@pytest.mark.timeout(4 * SECONDS + 300)  # the workers may be behind
def test_the_log_is_what_was_acknowledged_whoever_is_killed(
    postgres_server: str, tmp_path: Path
) -> None:
    with postgres_database(postgres_server) as url, ExitStack() as stack:
        fleet = Fleet(url, tmp_path)
        stack.enter_context(fleet.running())
        for name in RUNS:
            open_run(_replica(fleet, 0), name=name)
        clients = [Client(fleet, number, stack) for number in range(CLIENTS)]
        _soak(fleet, clients)
        for place, name in enumerate(RUNS):
            own = clients[place :: len(RUNS)]
            _check_log(url, name, own)
            _check_replays(own)
            _check_learned(fleet, url, name)
        _log.warning(  # a warning, to be shown without all that libraries tell
            "%g s: %s killed; %d selections and %d outcomes acknowledged; "
            "%d calls repeated, the longest took %.1f s",
            SECONDS,
            dict(fleet.kills),
            sum(len(client.batches) for client in clients),
            sum(client.lines().total() for client in clients),
            sum(client.repeated for client in clients),
            max(client.longest for client in clients),
        )


def _replica(fleet: Fleet, place: int) -> Server:
    server = fleet.replicas[place]
    assert server is not None
    return server


def _soak(fleet: Fleet, clients: list[Client]) -> None:
    """Kill until the time is up; a client that fails ends it at once."""
    chance = random.Random(7)
    stop = threading.Event()
    until = time.monotonic() + SECONDS
    order = [(kind, place) for kind in ("replica", "worker") for place in range(2)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        working: list[Future[None]] = [pool.submit(client.work, stop) for client in clients]
        try:
            for number in itertools.count():
                time.sleep(chance.uniform(*PAUSE))
                fleet.assert_alive()
                if time.monotonic() > until or any(future.done() for future in working):
                    break
                if number % len(order) == 0:
                    chance.shuffle(order)
                fleet.kill(*order[number % len(order)])
        finally:
            stop.set()
        for future in working:
            future.result()
    fleet.assert_alive()
    assert all(client.batches for client in clients)
    assert fleet.kills["replica"]
    assert fleet.kills["worker"]


def _check_log(url: str, name: str, clients: list[Client]) -> None:
    """Every acknowledged line is in the log once, and nothing else is; the same for selections."""
    (head,) = query(
        url, "SELECT id, log_position, selections, draws FROM runs WHERE name = :name", name=name
    )
    stored = query(
        url,
        "SELECT position, draw, rollout, successes, trials FROM outcomes"
        " WHERE run_id = :run ORDER BY position",
        run=head.id,
    )
    assert [row.position for row in stored] == list(range(1, head.log_position + 1))
    acknowledged = sum((client.lines() for client in clients), Counter())
    assert (
        Counter((row.draw, row.rollout, row.successes, row.trials) for row in stored)
        == acknowledged
    )
    batches = [batch for client in clients for batch in client.batches]
    ids = [draw for batch in batches for draw in batch.draws.draw_id]
    assert len(set(ids)) == len(ids) == head.draws
    assert len(batches) == head.selections


def _check_replays(clients: list[Client]) -> None:
    for client in clients:
        for batch in random.Random(client.number).sample(
            client.batches, min(CHECKED, len(client.batches))
        ):
            assert client.select(batch.sequence).draws == batch.draws


def _check_learned(fleet: Fleet, url: str, name: str) -> None:
    """The workers learn the rest.

    Every rollout was learned once, and both replicas serve the same.
    """
    ((trials,),) = query(
        url,
        "SELECT SUM(trials) FROM outcomes JOIN runs ON runs.id = run_id WHERE name = :name",
        name=name,
    )
    heads = [_replica(fleet, place).wait_trained(name, PATIENCE) for place in range(2)]
    assert heads[0]["model_version"] == heads[1]["model_version"] > 0
    series = _replica(fleet, 0).json("GET", f"/runs/{name}/metrics")["series"]
    assert sum(series["rollouts"]) == trials
    assert series["model_version"] == sorted(set(series["model_version"]))
    asked = {"run": name, "keys": [f"k{row}" for row in range(20)]}

    def same() -> bool:
        one, other = (
            _replica(fleet, place).json("POST", "/predict_difficulty", asked) for place in range(2)
        )
        return bool(one == other and one["model_version"] == heads[0]["model_version"])

    wait_for(same, PATIENCE, f"both replicas to serve the last model of {name}")
    assert ROLLOUTS * heads[0]["draws"] == trials

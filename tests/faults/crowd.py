"""Clients that never give up, and the account of what they were promised.

Nothing is lost, nothing counted twice.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from types import TracebackType
from typing import Any, Self

import httpx

from tests.faults.conftest import ROLLOUTS, query
from tests.server import Server, wait_for

BATCH = 8
PASSING = frozenset({429, 503})  # what a client is told to try again after
Body = dict[str, Any]


def report_of(batch: Body) -> Body:
    """Outcomes of a batch that depend only on its draws."""
    draws = batch["draws"]["draw_id"]
    solved = [sum(map(ord, draw)) % (ROLLOUTS + 1) for draw in draws]
    return {"run": "run", "draw_id": draws, "successes": solved, "trials": [ROLLOUTS] * len(draws)}


class Crowd:
    """Some clients of one server, each selecting and reporting in turn for a block's length."""

    def __init__(self, server: Server, clients: int = 4) -> None:
        self._server = server
        self._ending = threading.Event()
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, args=(number,)) for number in range(clients)
        ]
        self.draws: list[str] = []
        self.reported = 0
        self.refusals: Counter[int] = Counter()
        self.faults: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()
        assert not self.faults, self.faults

    def wait_for_more(self, reports: int, seconds: float = 120.0) -> None:
        """Wait until so many more reports have been acknowledged."""
        with self._changed:
            wanted = self.reported + reports
            enough = self._changed.wait_for(
                lambda: self.reported >= wanted or bool(self.faults), seconds
            )
        assert not self.faults, self.faults
        assert enough, (
            f"{wanted - self.reported} of {reports} reports did not come through in {seconds:g} s"
        )

    def wait_for_refusals(self, status: int, seconds: float = 120.0) -> None:
        """Wait until some more requests have been refused."""
        wanted = self.refusals[status] + 3
        wait_for(lambda: self.refusals[status] >= wanted, seconds, f"answers {status}")

    def _work(self, client: int) -> None:
        headers = {
            name: value
            for name, value in self._server.http.headers.items()
            if name == "authorization"
        }
        with httpx.Client(
            base_url=self._server.url, headers=headers, timeout=150.0, trust_env=False
        ) as http:
            step = 0
            while not self._ending.is_set() and not self.faults:
                asked = {
                    "run": "run",
                    "sequence": client * 100_000 + step,
                    "batch_size": BATCH,
                    "policy_version": step,
                }
                batch = self._insist(http, "/select_batch", asked)
                stored = batch and self._insist(http, "/outcomes", report_of(batch))
                if not batch or not stored:
                    return
                with self._changed:
                    self.draws += batch["draws"]["draw_id"]
                    self.reported += 1
                    self._changed.notify_all()
                if stored["stored"] + stored["duplicates"] != BATCH or stored["conflicts"]:
                    self.faults.append(f"a report of {BATCH} came to {stored}")
                step += 1

    def _insist(self, http: httpx.Client, path: str, body: Body) -> Body | None:
        """Ask until there is an answer; None where it is one that nobody should get."""
        while True:
            try:
                answer = http.post(path, json=body)
            except httpx.TransportError:  # sent or not, done or not: asking again is free
                time.sleep(0.1)
                continue
            if answer.status_code == 200:
                found: Body = answer.json()
                return found
            self.refusals[answer.status_code] += 1
            if answer.status_code not in PASSING or int(answer.headers["retry-after"]) < 1:
                self.faults.append(f"{path}: {answer.status_code} {answer.text}")
                return None
            time.sleep(0.1)


def check_account(database_url: str, server: Server, crowd: Crowd) -> None:
    """What the clients were promised is in the database, once, and nothing else.

    And the model has learned it, once.
    """
    run = server.wait_trained("run", 120.0)
    own = "run_id = (SELECT id FROM runs WHERE name = 'run')"
    stored = query(
        database_url, f"SELECT position, draw, trials FROM outcomes WHERE {own} ORDER BY position"
    )
    assert [row.position for row in stored] == list(range(1, len(stored) + 1))
    assert len(set(crowd.draws)) == len(crowd.draws)
    assert sorted(row.draw for row in stored) == sorted(
        int(draw.partition("-")[2]) for draw in crowd.draws
    )
    assert (run["draws"], run["log_position"], run["selections"]) == (
        len(stored),
        len(stored),
        len(stored) // BATCH,
    )
    series = server.json("GET", "/runs/run/metrics")["series"]
    assert sum(series["rollouts"]) == sum(row.trials for row in stored)
    assert series["model_version"] == sorted(set(series["model_version"]))

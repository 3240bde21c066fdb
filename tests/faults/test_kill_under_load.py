"""Kill -9 while eight clients select and report.

What was acknowledged is there, once, and goes on from there.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.conftest import ROLLOUTS, open_run, query
from tests.server import Server, running

CLIENTS = 8
BATCH = 8
ENOUGH = 48  # acknowledged reports, of all clients together, after which the server is killed
Body = dict[str, Any]


@dataclass
class Journal:
    """What the clients sent and what was acknowledged."""

    selections: list[tuple[Body, Body]] = field(default_factory=list)
    reports: list[tuple[Body, Body]] = field(default_factory=list)
    unanswered: list[tuple[str, Body]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def add(self, path: str, body: Body, answer: httpx.Response | None) -> Body | None:
        """Note one exchange; answers the parsed body of an acknowledged one."""
        with self.changed:
            if answer is None:
                self.unanswered.append((path, body))
            elif answer.status_code != 200:
                self.faults.append(f"{path}: {answer.status_code} {answer.text}")
            else:
                kept = self.selections if path == "/select_batch" else self.reports
                kept.append((body, answer.json()))
            self.changed.notify_all()
        return answer.json() if answer is not None and answer.status_code == 200 else None

    def wait_for_reports(self, count: int, seconds: float) -> None:
        with self.changed:
            enough = self.changed.wait_for(
                lambda: len(self.reports) >= count or bool(self.faults), seconds
            )
        assert enough, f"only {len(self.reports)} reports in {seconds:g} s"


def report_of(batch: Body, client: int) -> Body:
    """Outcomes of a batch that depend only on its draws.

    By groups from even clients, by rollouts from odd ones.
    """
    draws = batch["draws"]["draw_id"]
    solved = [sum(map(ord, draw)) % (ROLLOUTS + 1) for draw in draws]
    if client % 2 == 0:
        return {
            "run": "run",
            "draw_id": draws,
            "successes": solved,
            "trials": [ROLLOUTS] * len(draws),
        }
    each = [
        (draw, index, float(index < won))
        for draw, won in zip(draws, solved, strict=True)
        for index in range(ROLLOUTS)
    ]
    ids, indices, rewards = (list(column) for column in zip(*each, strict=True))
    return {"run": "run", "draw_id": ids, "rollout_index": indices, "reward": rewards}


def work(server: Server, journal: Journal, client: int) -> None:
    """Select and report until the server is gone."""
    with httpx.Client(base_url=server.url, timeout=60.0) as http:

        def ask(path: str, body: Body) -> Body | None:
            try:
                answer = http.post(path, json=body)
            except httpx.TransportError:
                answer = None
            return journal.add(path, body, answer)

        for step in range(100_000):
            batch = ask(
                "/select_batch",
                {"run": "run", "sequence": client * 100_000 + step, "batch_size": BATCH},
            )
            if batch is None or ask("/outcomes", report_of(batch, client)) is None:
                return


def lines(report: Body) -> list[tuple[int, int]]:
    """(draw number, rollout) of each line that a report makes in the log."""
    indices = report.get("rollout_index", [-1] * len(report["draw_id"]))
    return [
        (int(draw.partition("-")[2]), index)
        for draw, index in zip(report["draw_id"], indices, strict=True)
    ]


@pytest.mark.timeout(180)
def test_nothing_acknowledged_is_lost_or_counted_twice(database_url: str, tmp_path: Path) -> None:
    journal = Journal()
    with running(database_url, tmp_path) as server:
        open_run(server)
        clients = [
            threading.Thread(target=work, args=(server, journal, client))
            for client in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        try:
            journal.wait_for_reports(ENOUGH, 90.0)
        finally:
            server.kill()
            for client in clients:
                client.join()
    assert not journal.faults
    assert journal.unanswered, "the kill hit nobody"

    acknowledged = [line for report, _ in journal.reports for line in lines(report)]
    _check_log(database_url, acknowledged)
    with running(database_url, tmp_path) as server:
        head = server.json("GET", "/runs/run")
        assert head["log_position"] >= len(acknowledged)
        _check_replays(server, journal)
        _send_again(server, journal, head["log_position"])
        run = server.wait_trained("run")
        assert run["model_version"] > 0
        _check_steps(server, database_url)


def _check_log(database_url: str, acknowledged: list[tuple[int, int]]) -> None:
    """The log is gapless, its head is the run's, and each acknowledged line is there once."""
    stored = query(database_url, "SELECT position, draw, rollout FROM outcomes ORDER BY position")
    (head,) = query(database_url, "SELECT log_position, draws, selections FROM runs")
    assert [row.position for row in stored] == list(range(1, head.log_position + 1))
    count = Counter((row.draw, row.rollout) for row in stored)
    assert set(count.values()) <= {1}
    assert len(set(acknowledged)) == len(acknowledged)
    assert set(acknowledged) <= set(count)
    issued = query(
        database_url, "SELECT ordinal, first_draw, size FROM selections ORDER BY ordinal"
    )
    assert [row.ordinal for row in issued] == list(range(head.selections))
    ends = [0]
    for row in issued:
        assert row.first_draw == ends[-1]
        ends.append(row.first_draw + row.size)
    assert ends[-1] == head.draws


def _check_replays(server: Server, journal: Journal) -> None:
    for asked, answered in journal.selections:
        assert server.json("POST", "/select_batch", asked) == answered | {"replayed": True}


def _send_again(server: Server, journal: Journal, head: int) -> None:
    """Acknowledged reports are duplicates; unanswered ones are stored or duplicates, whole."""
    for report, _ in journal.reports:
        again = server.json("POST", "/outcomes", report)
        assert (again["stored"], again["duplicates"], again["conflicts"]) == (
            0,
            len(report["draw_id"]),
            [],
        )
        assert again["log_position"] == head
    for path, body in journal.unanswered:
        again = server.json("POST", path, body)
        if path == "/outcomes":
            assert (again["stored"], again["duplicates"]) in (
                (0, len(body["draw_id"])),
                (len(body["draw_id"]), 0),
            )
            assert server.json("POST", path, body)["stored"] == 0
        else:
            assert server.json("POST", path, body) == again | {"replayed": True}


def _check_steps(server: Server, database_url: str) -> None:
    """The model has learned every rollout of the log once.

    The steps' rollouts sum to the log's trials.
    """
    metrics = server.json("GET", "/runs/run/metrics")
    ((trials,),) = query(database_url, "SELECT SUM(trials) FROM outcomes")
    assert sum(metrics["series"]["rollouts"]) == trials
    assert metrics["series"]["model_version"] == sorted(set(metrics["series"]["model_version"]))

"""`promptgps train`: what a replica has taken in is learned.

Then the command ends, or with --watch goes on.
"""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.faults.conftest import open_run
from tests.server import Server, command, environment, running, start_worker, wait_for

WAIT = 60.0


def train(database_url: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `promptgps train` to its end."""
    asked = command("train", *arguments, "--database-url", database_url)
    return subprocess.run(
        asked, cwd=folder, env=environment(), capture_output=True, text=True, timeout=WAIT
    )


def take_step(server: Server, run: str) -> None:
    batch = server.json("POST", "/select_batch", {"run": run, "batch_size": 8})
    ids = batch["draws"]["draw_id"]
    server.json(
        "POST", "/outcomes", {"run": run, "draw_id": ids, "successes": [1] * 8, "trials": [4] * 8}
    )


def learned(server: Server, run: str) -> int:
    return int(server.json("GET", f"/runs/{run}")["trained_through"])


def test_a_run_is_learned_by_name_or_with_all_others(database_url: str, tmp_path: Path) -> None:
    with running(database_url, tmp_path, "--no-train") as server:
        for run in ("one", "two"):
            open_run(server, name=run)
            take_step(server, run)
        done = train(database_url, tmp_path, "one")
        assert done.returncode == 0, done.stderr
        wait_for(lambda: learned(server, "one") == 8, WAIT, "the replica to follow")
        assert learned(server, "two") == 0
        done = train(database_url, tmp_path, "--all")
        assert done.returncode == 0, done.stderr
        wait_for(lambda: learned(server, "two") == 8, WAIT, "the replica to follow")


def test_a_watching_worker_learns_as_outcomes_come_and_stops_when_told(
    database_url: str, tmp_path: Path
) -> None:
    with running(database_url, tmp_path, "--no-train") as server:
        worker = start_worker(database_url, tmp_path, "--watch")
        try:
            open_run(server, name="run")
            for steps in (1, 2):
                take_step(server, "run")
                wait_for(
                    lambda steps=steps: learned(server, "run") == 8 * steps,
                    WAIT,
                    "the worker to learn a step",
                )
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(WAIT) == 0
        finally:
            worker.kill()
            worker.wait()


@pytest.mark.parametrize("arguments", [(), ("run", "--all"), ("nobody",)])
def test_what_cannot_be_learned_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    refused = train(f"sqlite:///{tmp_path}/new.db", tmp_path, *arguments)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("promptgps: ")

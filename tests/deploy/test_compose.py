"""docker-compose.yml for real, with a trainer in a third container.

Meanwhile others are killed, restarted, restored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.engine import Stack, built_stack
from tests.deploy.trainer import BATCH
from tests.server import wait_for

KEY = re.compile(r"pgps_[0-9a-f]{12}_[A-Za-z0-9_-]{43}")


@pytest.mark.timeout(
    2400
)  # the first time, an engine is installed, base images are made and torch is fetched
def test_a_stack_that_is_killed_part_by_part_loses_nothing(tmp_path: Path) -> None:
    dump = tmp_path / "promptgps.dump"
    with built_stack(tmp_path) as stack:
        stack.up()
        (stack.key,) = KEY.findall(stack.compose("logs", "migrate"))
        (first, second), (worker,), (database,) = map(stack.containers, ("api", "worker", "db"))
        done = steps(stack.train(0, 3), 3)

        stack.docker("kill", first)
        done += steps(stack.train(3, 5), 5)  # through the other replica
        stack.docker("start", first)

        stack.docker("kill", worker)
        lines = stack.train(5, 7)
        done.append(next(lines))
        stack.docker("start", worker)
        done += steps(lines, 7)

        lines = stack.train(7, 20)
        done.append(next(lines))
        stack.docker("kill", database)
        stack.docker("start", database)
        done += steps(lines, 20)

        stack.docker("exec", second, "python", "-c", "import os; os.kill(1, 15)")
        wait_for(
            lambda: stack.state(second)["RestartCount"] == 1,
            60.0,
            "the replica to be started again",
            pause=0.5,
        )
        for replica in (first, second):
            stack.wait_healthy(replica)
        assert steps(stack.train(0, 20), 20) == done

        back_up(stack, dump)
        later = steps(stack.train(20, 22), 22)
        stack.compose("down")
        stack.up()
        assert not KEY.findall(stack.compose("logs", "migrate"))  # there is one
        assert steps(stack.train(0, 22), 22) == done + later
        restore(stack, dump)
        assert steps(stack.train(0, 20), 20) == done


def steps(lines: Iterable[Any], count: int) -> list[Any]:
    """The acknowledged steps among a trainer's lines.

    Once exactly ``count`` steps of its run are learned.
    """
    *done, run = lines
    assert run["log_position"] == count * BATCH
    assert run["model_version"] >= 1
    return done


def back_up(stack: Stack, dump: Path) -> None:
    """As the README says."""
    with dump.open("wb") as file:
        stack.compose(
            "exec", "-T", "db", "pg_dump", "-U", "promptgps", "-Fc", "promptgps", stdout=file
        )


def restore(stack: Stack, dump: Path) -> None:
    """As the README says."""
    stack.compose("stop", "api", "worker")
    with dump.open("rb") as file:
        restoring = (
            "pg_restore",
            "-U",
            "promptgps",
            "-d",
            "postgres",
            "--clean",
            "--if-exists",
            "--create",
        )
        stack.compose("exec", "-T", "db", *restoring, stdin=file)
    stack.up()

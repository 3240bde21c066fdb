"""Trainings in processes of their own: killed, without their service, on two ranks."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from promptgps_client import PromptGPS

from tests.adapters.processes import ROOT, program
from tests.adapters.sums import DATABASE, Run, opened
from tests.adapters.trl.told import reported, traced
from tests.adapters.trl.training import read
from tests.server import Server, running

TRAINING = Path(__file__).with_name("training.py")


def training(
    folder: Path,
    run: Run,
    *launcher: str,
    ends: int = 0,
    resume: bool = False,
    kill: Any = None,
    **options: Any,
) -> None:
    """A training in a process of its own, which must end with that exit code."""
    told = {
        "folder": str(folder),
        "run": run.name,
        "service": run.server.url,
        "resume": resume,
        "kill": kill or {},
    }
    program(
        *launcher, str(TRAINING), json.dumps(told | {"options": options}), folder=folder, ends=ends
    )


def test_killed_and_resumed_from_its_checkpoint(run: Run, tmp_path: Path) -> None:
    training(tmp_path, run, kill={"3": 0}, ends=-9)
    before = read(tmp_path / "trace.jsonl")
    assert [line["step"] for line in before] == [0, 1, 2, 3]
    drawn_before = [row["first_draw"] for row in run.selections()]

    training(tmp_path, run, resume=True)
    after = read(tmp_path / "trace.jsonl")[len(before) :]
    assert [line["step"] for line in after] == [2, 3, 4, 5]
    # read ahead before the checkpoint was made: the same draws
    assert after[0]["draw_id"] == before[2]["draw_id"]
    assert after[0]["prompt"] == before[2]["prompt"]
    # drawn after the snapshot: superseded, drawn anew
    assert set(after[1]["draw_id"]).isdisjoint(before[3]["draw_id"])
    assert reported(run) == traced(before[:2] + after)
    assert len(run.outcomes()) == 6 * 8
    selections = run.selections()
    # of which the last is only read ahead
    assert [row["sequence"] for row in selections] == list(range(7))
    assert [row["first_draw"] for row in selections[: len(drawn_before)]] == drawn_before
    assert run.client.run(run.name).epoch == 1
    assert not list(tmp_path.rglob("refused.jsonl"))


RANKS = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
# of three groups of four the middle one is on both ranks
SLICES = {"per_device_train_batch_size": 3}


def test_two_ranks_draw_the_same_and_report_their_parts(run: Run, tmp_path: Path) -> None:
    training(tmp_path, run, *RANKS, max_steps=4, **SLICES)
    trace = by_step(tmp_path)
    assert [(line["step"], line["rank"]) for line in trace] == [
        (step, rank) for step in range(4) for rank in range(2)
    ]
    shared = [
        set(one["draw_id"]) & set(other["draw_id"])
        for one, other in zip(trace[::2], trace[1::2], strict=True)
    ]
    assert [len(draws) for draws in shared] == [1] * 4
    assert len(run.outcomes()) == 4 * 12
    assert reported(run) == traced(trace)


def by_step(folder: Path) -> list[dict[str, Any]]:
    return sorted(read(folder / "trace.jsonl"), key=lambda line: (line["step"], line["rank"]))


@pytest.fixture
def fixed(tmp_path: Path) -> Iterator[tuple[Server, Run]]:
    """A service of this test alone, on an address that it can come back to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with again(tmp_path, port) as server, PromptGPS(server.url) as client:
        yield server, opened(client, server, "alone")


def again(folder: Path, port: str) -> Any:
    return running(f"sqlite:///{folder}/{DATABASE}", folder, "--port", port)


def test_two_ranks_go_on_without_the_service_which_is_told_later(
    fixed: tuple[Server, Run], tmp_path: Path
) -> None:
    server, run = fixed
    training(tmp_path, run, *RANKS, kill={"1": server.process.pid}, **SLICES)
    trace = by_step(tmp_path)
    assert [line["step"] for line in trace[::2]] == [0, 1, 2, 3, 4, 5]
    local = [line for line in trace if line["draw_id"][0].startswith("local-")]
    assert [line["step"] for line in local[::2]] == [3, 4, 5]  # the draws of step 2 were read ahead
    assert set(Counter(each_rollout(local)).values()) == {4}

    with again(tmp_path, server.url.rsplit(":", 1)[1]):
        training(tmp_path, run, *RANKS, resume=True, max_steps=8, **SLICES)
    trace = by_step(tmp_path)
    assert [line["step"] for line in trace[::2]] == list(range(8))
    outcomes = run.outcomes()
    assert sum(row["trials"] for row in outcomes) == 8 * 12
    assert sum(row["successes"] for row in outcomes) == sum(sum(line["reward"]) for line in trace)
    assert sum(row["trials"] for row in outcomes if row["draw"] is None) == 3 * 12
    drawn = [line for line in trace if line not in local]
    assert {
        draw: reward for draw, reward in reported(run).items() if draw[0] is not None
    } == traced(drawn)
    assert set(Counter(each_rollout(drawn)).values()) == {4}


def each_rollout(trace: list[dict[str, Any]]) -> list[str]:
    """The draw of each rollout."""
    return [draw_id for line in trace for draw_id in line["draw_id"]]


def test_the_example(run: Run, tmp_path: Path) -> None:
    program(str(ROOT / "examples/trl_grpo.py"), folder=tmp_path, PROMPTGPS_URL=run.server.url)
    told = run.client.run("trl-example")
    assert (told.selections, told.log_position) == (7, 6 * 8)

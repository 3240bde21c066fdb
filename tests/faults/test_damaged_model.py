"""The stored model is damaged: the service starts and serves all the same.

It learns again what was lost, and says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import ROLLOUTS, change, open_run, query
from tests.server import Server, running

STEPS = 5
BATCH = 40
KEYS = [f"k{row}" for row in range(0, 400, 5)]
DAMAGES = {
    "garbage": lambda state: bytes(range(256)) * 40,
    "truncated": lambda state: state[: len(state) // 2],
    "one bit": lambda state: state[:-9] + bytes([state[-9] ^ 1]) + state[-8:],
}


def train(server: Server, first: int = 0) -> None:
    for step in range(first, first + STEPS):
        asked = {"run": "run", "sequence": step, "policy_version": step, "batch_size": BATCH}
        draws = server.json("POST", "/select_batch", asked)["draws"]["draw_id"]
        solved = [int(draw.partition("-")[2]) % (ROLLOUTS + 1) for draw in draws]
        report = {"run": "run", "draw_id": draws, "successes": solved, "trials": [ROLLOUTS] * BATCH}
        server.json("POST", "/outcomes", report)
        server.wait_trained("run")


def predictions(server: Server) -> list[float]:
    found: list[float] = server.json("POST", "/predict_difficulty", {"run": "run", "keys": KEYS})[
        "success_mean"
    ]
    return found


def damage(database_url: str, how: Any, versions: list[int]) -> None:
    """Change stored states past the service."""
    for version in versions:
        ((state,),) = query(
            database_url,
            "SELECT state FROM model_versions WHERE version = :version",
            version=version,
        )
        changed = change(
            database_url,
            "UPDATE model_versions SET state = :state WHERE version = :version",
            state=how(bytes(state)),
            version=version,
        )
        assert changed == 1


def stored_versions(database_url: str) -> list[int]:
    return [
        row[0] for row in query(database_url, "SELECT version FROM model_versions ORDER BY version")
    ]


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("how", "which"), [("garbage", "all"), ("truncated", "newest"), ("one bit", "newest")]
)
def test_a_damaged_model_is_learned_again(
    database_url: str, tmp_path: Path, how: str, which: str
) -> None:
    with running(database_url, tmp_path) as server:
        open_run(server)
        train(server)
        before = predictions(server)
        head = server.json("GET", "/runs/run")
    versions = stored_versions(database_url)
    assert len(versions) == 2
    damage(database_url, DAMAGES[how], versions[-1:] if which == "newest" else versions)

    with running(database_url, tmp_path) as server:
        asked = {"run": "run", "sequence": STEPS, "policy_version": STEPS, "batch_size": BATCH}
        batch = server.json("POST", "/select_batch", asked)
        assert len(batch["draws"]["draw_id"]) == BATCH
        if which == "newest":  # served from the last good one at once
            assert batch["trained_through"] >= head["trained_through"] - BATCH
        run = server.wait_trained("run")
        assert run["log_position"] == head["log_position"] == STEPS * BATCH
        assert run["model_version"] > head["model_version"]
        assert predictions(server) == pytest.approx(before, abs=0.05)
        train(server, STEPS + 1)
        assert "a stored model cannot be read" in server.log.read_text()
    assert (
        query(database_url, "SELECT MAX(trained_through) FROM model_versions")[0][0]
        == 2 * STEPS * BATCH
    )

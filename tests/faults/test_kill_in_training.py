"""Kill -9 while the model learns: the next process learns the rest, and nothing twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.conftest import ROLLOUTS, open_run, query
from tests.server import Server, running

PROMPTS = 2_000
STEPS = 6
BATCH = 128
# learn at once and in small steps, so that there is always something under way
EAGER = {"PROMPTGPS_LEARN_SECONDS": "0", "PROMPTGPS_LEARN_GROUPS": "1"}


def step(server: Server, number: int) -> int:
    """One batch, reported as soon as it is there; answers the position of the log."""
    asked = {"run": "run", "sequence": number, "policy_version": number, "batch_size": BATCH}
    draws = server.json("POST", "/select_batch", asked)["draws"]["draw_id"]
    solved = [int(draw.partition("-")[2]) % (ROLLOUTS + 1) for draw in draws]
    report = {
        "run": "run",
        "draw_id": draws,
        "successes": solved,
        "trials": [ROLLOUTS] * len(draws),
    }
    position: int = server.json("POST", "/outcomes", report)["log_position"]
    return position


@pytest.mark.timeout(180)
def test_a_kill_while_the_model_trains_loses_no_outcome_and_learns_none_twice(
    database_url: str, tmp_path: Path
) -> None:
    with running(database_url, tmp_path, **EAGER) as server:
        open_run(server, PROMPTS)
        for number in range(STEPS):
            position = step(server, number)
        behind = server.json("GET", "/runs/run")
        server.kill()
    assert behind["log_position"] == position
    assert behind["trained_through"] < position, "the model was done before the kill"

    with running(database_url, tmp_path, **EAGER) as server:
        run = server.wait_trained("run")
        assert run["log_position"] == position == STEPS * BATCH
        series = server.json("GET", "/runs/run/metrics")["series"]
        assert sum(series["rollouts"]) == position * ROLLOUTS
        assert series["model_version"] == [
            float(version) for version in range(1, len(series["model_version"]) + 1)
        ]
        assert (
            server.json("POST", "/predict_difficulty", {"run": "run", "keys": ["k1"]})[
                "trained_through"
            ]
            == position
        )
    stored = query(database_url, "SELECT trained_through FROM model_versions ORDER BY version DESC")
    assert stored[0][0] == position

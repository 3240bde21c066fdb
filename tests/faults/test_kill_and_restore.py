"""A trainer and its server are killed and start again.

The trainer goes on from a checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from promptgps_client import PromptGPS
from promptgps_client.wire import Batch

from tests.faults.conftest import ROLLOUTS, open_run
from tests.server import running

BATCH = 8
WAIT = 60.0


def drive(gps: PromptGPS, steps: range) -> list[Batch]:
    """Synchronous steps, whose outcomes depend only on the prompts."""
    batches = []
    for step in steps:
        batch = gps.select_batch(
            run="run", batch_size=BATCH, sequence=step, policy_version=step, wait_seconds=WAIT
        )
        won = [sum(map(ord, prompt)) % (ROLLOUTS + 1) for prompt in batch.draws.prompt]
        gps.report_groups(
            run="run",
            draw_id=batch.draws.draw_id,
            successes=won,
            trials=[ROLLOUTS] * BATCH,
            policy_version=step,
        )
        batches.append(batch)
    return batches


def test_a_killed_server_goes_back_to_a_snapshot_and_draws_the_same(
    database_url: str, tmp_path: Path
) -> None:
    with running(database_url, tmp_path) as server, PromptGPS(server.url) as gps:
        open_run(server)
        drive(gps, range(3))
        kept = gps.snapshot("run", "step-3")
        first = drive(gps, range(3, 7))
        server.kill()
    with running(database_url, tmp_path) as server, PromptGPS(server.url) as gps:
        restored = gps.restore("run", "step-3")
        assert (restored.epoch, restored.draws, restored.log_position) == (
            1,
            kept.draws,
            kept.log_position,
        )
        assert (restored.superseded.draws, restored.superseded.outcomes) == (4 * BATCH, 4 * BATCH)
        again = drive(gps, range(3, 5))
        server.kill()
    with running(database_url, tmp_path) as server, PromptGPS(server.url) as gps:
        again += drive(gps, range(5, 7))
        for one, other in zip(first, again, strict=True):
            assert one.draws.prompt == other.draws.prompt
            assert set(one.draws.draw_id).isdisjoint(other.draws.draw_id)
        late = gps.report_groups(
            run="run", draw_id=first[0].draws.draw_id, successes=[0] * BATCH, trials=[1] * BATCH
        )
        assert (late.stored, late.superseded) == (0, BATCH)
        listed = gps.snapshots("run")
        assert [each.tag for each in listed.snapshots] == ["step-3"]
        assert [each.tag for each in listed.restores] == ["step-3"]

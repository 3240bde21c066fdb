"""The adapter in the real V1 trainer, against a real service."""

from __future__ import annotations

from pathlib import Path

from promptgps_client.adapters.verl import PromptGPSDataset

from tests.adapters.sums import KEYS, Run
from tests.adapters.verl.training import ROLLOUTS, Replies, config, step, trainer


def test_every_rollout_of_a_draw_is_reported_once(run: Run, tmp_path: Path) -> None:
    given = config(run, tmp_path)
    replies = Replies(given)
    made = trainer(given, replies)
    for _ in range(3):
        assert len(step(made)) == 4 * (ROLLOUTS + 2)
    made.train_dataset.seam.close()
    assert [row["size"] for row in run.selections()] == [4, 4, 4]
    assert reported(run) == {(number(draw), rollout): reward for (draw, rollout), reward in replies.rewards.items()}
    versions = {row["draw"]: row["policy_version"] for row in run.outcomes()}
    assert versions == {number(draw): version for draw, version in replies.versions.items()}


def reported(run: Run) -> dict[tuple[int, int], float]:
    """Rewards by draw and rollout, as the service has them."""
    return {(row["draw"], row["rollout"]): row["reward"] for row in run.outcomes()}


def number(draw_id: str) -> int:
    return int(draw_id.rsplit("-", 1)[1])

"""Rewards as the service has them, and as a training's trace has them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.adapters.sums import Run


def reported(run: Run) -> dict[tuple[int, int], float]:
    """Rewards by draw and rollout, as the service has them."""
    return {(row["draw"], row["rollout"]): row["reward"] for row in run.outcomes()}


def traced(trace: list[dict[str, Any]]) -> dict[tuple[int, int], float]:
    """The same, as the trainer's ranks handed them out: a draw's rollouts numbered in order."""
    rewards: dict[tuple[int, int], float] = {}
    seen: Counter[int] = Counter()
    for line in trace:
        for draw_id, reward in zip(line["draw_id"], line["reward"], strict=True):
            draw = number(draw_id)
            rewards[draw, seen[draw]] = reward
            seen[draw] += 1
    return rewards


def number(draw_id: str) -> int:
    return int(draw_id.rsplit("-", 1)[1])

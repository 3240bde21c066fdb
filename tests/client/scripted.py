"""Selectors of the scripted service, and what it answers them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from promptgps_client import Selector

from .conftest import Reply, Service

READY = Reply(200, {"ready": True, "checks": {}})
Make = Callable[..., Selector]


def answer(sequence: int, *numbers: int, replayed: bool = False, rollouts: int = 8) -> Reply:
    """The service's batch of the prompts with these numbers.

    It predicts each to succeed in a hundredth of its number.
    """
    draws = {
        "draw_id": [f"d1-{sequence}{number:02d}" for number in numbers],
        "prompt": [f"k{number}" for number in numbers],
        "predicted_success": [number / 100 for number in numbers],
        "uncertainty": [0.1] * len(numbers),
        "rollouts": [rollouts] * len(numbers),
    }
    return Reply(
        200,
        {
            "run": "r",
            "sequence": sequence,
            "replayed": replayed,
            "model_version": 1,
            "trained_through": 0,
            "strategy": "promptgps",
            "draws": draws,
            "warnings": [],
        },
    )


def stored(count: int = 1, conflicts: list[int] | None = None) -> Reply:
    return Reply(
        200, {"stored": count, "duplicates": 0, "conflicts": conflicts or [], "log_position": count}
    )


def problem(status: int, kind: str = "urn:promptgps:problem:some") -> Reply:
    return Reply(
        status, {"type": kind, "title": "No", "status": status, "detail": "so it is", "errors": []}
    )


def batches(service: Service, *replies: Reply) -> None:
    service.at["/select_batch"].extend(replies)


def asked(service: Service) -> list[dict[str, Any]]:
    return [seen.json() for seen in service.asked("/select_batch")]

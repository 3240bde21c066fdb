"""Answers that were given under an idempotency key before."""

from __future__ import annotations

from typing import Any

from promptgps_service.errors import Conflict, Fault
from promptgps_service.store.unit import Unit


def answered_before(
    unit: Unit, run_id: int, key: str | None, digest: str, kind: str
) -> dict[str, Any] | None:
    """The answer that the same request got under this key, if it has come before.

    Args:
        unit: with the run locked.
        run_id: the run.
        key: of the request; None where it has none.
        digest: of the request.
        kind: what the request is called.

    Raises:
        Conflict: the key has come with another request.
    """
    found = None if key is None else unit.runs.receipt(run_id, key)
    if found is None:
        return None

    before, answer = found
    if before != digest:
        raise Conflict(
            f"this Idempotency-Key has come with another {kind}",
            (Fault("Idempotency-Key", "reused"),),
        )

    return answer

"""Issued selections, one row each."""

from __future__ import annotations

from typing import Any

import numpy as np
from sqlalchemy import Connection, Row, bindparam, func, insert, select

from promptgps_service.store.clock import utc_now
from promptgps_service.store.records import SelectionRecord
from promptgps_service.store.tables import DRAWS, selections

_INSERT = insert(selections)
_FIND = select(selections).where(
    selections.c.run_id == bindparam("run"), selections.c.sequence == bindparam("sequence")
)
_HIGHEST = select(func.max(selections.c.sequence)).where(selections.c.run_id == bindparam("run"))
_LAST = (
    select(selections.c.sequence, selections.c.policy_version)
    .where(selections.c.run_id == bindparam("run"))
    .order_by(selections.c.sequence.desc())
    .limit(1)
)
_PLAIN = (
    "sequence",
    "ordinal",
    "request",
    "seed",
    "clock",
    "policy_version",
    "model_version",
    "trained_through",
    "strategy",
    "rollouts",
    "first_draw",
    "warnings",
    "epoch",
)


def _record(row: Row[tuple[object, ...]]) -> SelectionRecord:
    fields = row._mapping
    columns: dict[str, Any] = {name: fields[name] for name in _PLAIN}
    columns |= {name: np.frombuffer(fields[name], kind) for name, kind in DRAWS.items()}
    return SelectionRecord(waited=bool(fields["waited"]), **columns)


class Selections:
    """Selections over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def find(self, run_id: int, sequence: int) -> SelectionRecord | None:
        """The selection that answered (run, sequence), if one did."""
        row = self._connection.execute(_FIND, {"run": run_id, "sequence": sequence}).one_or_none()
        return None if row is None else _record(row)

    def next_sequence(self, run_id: int) -> int:
        """One past the highest sequence so far."""
        highest = self._connection.execute(_HIGHEST, {"run": run_id}).scalar_one()
        return 0 if highest is None else int(highest) + 1

    def last(self, run_id: int) -> tuple[int, int | None] | None:
        """Highest sequence so far, and the policy version it was asked for with."""
        row = self._connection.execute(_LAST, {"run": run_id}).one_or_none()
        return None if row is None else (int(row.sequence), row.policy_version)

    def since(self, run_id: int, ordinal: int) -> list[SelectionRecord]:
        """Selections with that ordinal or a later one, in the order of issue."""
        query = (
            select(selections)
            .where(selections.c.run_id == run_id, selections.c.ordinal >= ordinal)
            .order_by(selections.c.ordinal)
        )
        return [_record(row) for row in self._connection.execute(query).all()]

    def add(self, run_id: int, record: SelectionRecord) -> None:
        """Write a selection; its run must be locked."""
        packed = {
            name: getattr(record, name).astype(kind).tobytes() for name, kind in DRAWS.items()
        }
        plain = {name: getattr(record, name) for name in _PLAIN}
        own = {
            "run_id": run_id,
            "size": record.size,
            "waited": int(record.waited),
            "created_at": utc_now(),
        }
        self._connection.execute(_INSERT, own | plain | packed)

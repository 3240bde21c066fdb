"""Issued selections, one row each."""

from __future__ import annotations

import numpy as np
from sqlalchemy import Connection, Row, bindparam, func, insert, select

from promptgps_service.store.clock import utc_now
from promptgps_service.store.records import SelectionRecord
from promptgps_service.store.tables import selections

_INSERT = insert(selections)
_FIND = select(selections).where(
    selections.c.run_id == bindparam("run"), selections.c.sequence == bindparam("sequence")
)
_HIGHEST = select(func.max(selections.c.sequence)).where(selections.c.run_id == bindparam("run"))
_PLAIN = (
    "sequence", "ordinal", "request", "seed", "clock", "policy_version", "model_version", "trained_through",
    "strategy", "rollouts", "first_draw", "warnings", "epoch",
)  # fmt: skip


def _record(row: Row[tuple[object, ...]]) -> SelectionRecord:
    fields = row._mapping
    return SelectionRecord(
        **{name: fields[name] for name in _PLAIN},
        rows=np.frombuffer(fields["rows"], dtype="<i4"),
        predicted=np.frombuffer(fields["predicted"], dtype="<f4"),
        uncertainty=np.frombuffer(fields["uncertainty"], dtype="<f4"),
        uniform=np.frombuffer(fields["uniform"], dtype="u1"),
        waited=bool(fields["waited"]),
    )


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

    def since(self, run_id: int, ordinal: int) -> list[SelectionRecord]:
        """Selections with that ordinal or a later one, in the order of issue."""
        query = (
            select(selections)
            .where(selections.c.run_id == run_id, selections.c.ordinal >= ordinal)
            .order_by(selections.c.ordinal)
        )
        return [_record(row) for row in self._connection.execute(query)]

    def add(self, run_id: int, record: SelectionRecord) -> None:
        """Write a selection; its run must be locked."""
        packed = {
            "rows": record.rows.astype("<i4").tobytes(),
            "predicted": record.predicted.astype("<f4").tobytes(),
            "uncertainty": record.uncertainty.astype("<f4").tobytes(),
            "uniform": record.uniform.astype("u1").tobytes(),
            "waited": int(record.waited),
        }
        plain = {name: getattr(record, name) for name in _PLAIN}
        self._connection.execute(
            _INSERT, {"run_id": run_id, "size": record.size, "created_at": utc_now(), **plain, **packed}
        )

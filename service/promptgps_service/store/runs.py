"""Runs: settings, heads of the log, and the segments of pools that their rows are made of."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from promptgps_service.errors import NotFound
from promptgps_service.store.clock import utc_now
from promptgps_service.store.named import insert_named
from promptgps_service.store.records import RunRecord, Segment
from promptgps_service.store.tables import pools, receipts, run_segments, runs

_LOCK = select(runs).where(runs.c.id == bindparam("run")).with_for_update()
_SEGMENTS = (
    select(run_segments)
    .where(run_segments.c.run_id == bindparam("run"), run_segments.c.offset >= bindparam("after"))
    .order_by(run_segments.c.offset)
)


def _record(row: Row[tuple[object, ...]]) -> RunRecord:
    fields = row._mapping
    return RunRecord(**{name: fields[name] for name in RunRecord.__dataclass_fields__})


class Runs:
    """Runs over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def find(self, name: str) -> RunRecord | None:
        """The run of that name, if there is one."""
        row = self._connection.execute(select(runs).where(runs.c.name == name)).one_or_none()
        return None if row is None else _record(row)

    def get(self, name: str) -> RunRecord:
        """The run of that name.

        Raises:
            NotFound: there is none.
        """
        found = self.find(name)
        if found is None:
            raise NotFound(f"there is no run {name!r}")
        return found

    def lock(self, run_id: int) -> RunRecord:
        """The run, held against every other writer of its log until the unit of work ends."""
        return _record(self._connection.execute(_LOCK, {"run": run_id}).one())

    def all(self) -> list[RunRecord]:
        """Every run, by name."""
        return [_record(row) for row in self._connection.execute(select(runs).order_by(runs.c.name))]

    def pools(self) -> list[tuple[str, str]]:
        """(run, pool) for every pool that a run draws from, by name."""
        query = (
            select(runs.c.name, pools.c.name)
            .distinct()
            .select_from(run_segments.join(runs).join(pools))
            .order_by(runs.c.name, pools.c.name)
        )
        return [(run, pool) for run, pool in self._connection.execute(query)]

    def create(self, name: str, request: dict[str, Any], settings: dict[str, Any]) -> RunRecord | None:
        """Make a run with an empty log; None where the name is taken, perhaps by another process just now."""
        statement = insert(runs).values(
            name=name, request=request, settings=settings, log_position=0, draws=0, selections=0, created_at=utc_now()
        )
        return self.get(name) if insert_named(self._connection, statement) else None

    def set_settings(self, run_id: int, settings: dict[str, Any]) -> None:
        """Replace the spelled-out settings."""
        self._connection.execute(update(runs).where(runs.c.id == run_id).values(settings=settings))

    def advance(self, run_id: int, **heads: int) -> None:
        """Move heads (log_position, draws, selections) to the given values."""
        self._connection.execute(update(runs).where(runs.c.id == run_id).values(**heads))

    def segments(self, run_id: int, after: int = 0) -> list[Segment]:
        """Segments from row ``after`` on, in the order of rows."""
        rows = self._connection.execute(_SEGMENTS, {"run": run_id, "after": after}).all()
        return [Segment(row.offset, row.pool_id, row.start, row.size) for row in rows]

    def add_segment(self, run_id: int, segment: Segment) -> None:
        """Append rows to a run; its run must be locked."""
        self._connection.execute(
            insert(run_segments).values(
                run_id=run_id, offset=segment.offset, pool_id=segment.pool_id, start=segment.start, size=segment.count
            )
        )

    def receipt(self, run_id: int, key: str) -> tuple[str, dict[str, Any]] | None:
        """Digest of the request and answer that were given under an idempotency key."""
        row = self._connection.execute(
            select(receipts.c.request, receipts.c.answer).where(
                receipts.c.run_id == run_id, receipts.c.idempotency_key == key
            )
        ).one_or_none()
        return None if row is None else (row.request, row.answer)

    def keep_receipt(self, run_id: int, key: str, request: str, answer: dict[str, Any]) -> None:
        """Remember the answer given under an idempotency key."""
        self._connection.execute(
            insert(receipts).values(run_id=run_id, idempotency_key=key, request=request, answer=answer)
        )

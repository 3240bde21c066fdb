"""What was done to runs and pools, by whom and when; an event outlives what it is about."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import ColumnElement, Connection, func, insert, select, text

from promptgps_service.store.clock import utc_now
from promptgps_service.store.records import Detail, EventRecord
from promptgps_service.store.tables import events

RUN_DELETED = "run-deleted"
POOL_DELETED = "pool-deleted"
DELETIONS = (RUN_DELETED, POOL_DELETED)
DETAIL_CHARACTERS = 1_000
_DELETION_LOCK = 5_518_203_301  # any constant


class Events:
    """Events over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(
        self,
        action: str,
        *,
        run: str | None = None,
        pool: str | None = None,
        key: str | None = None,
        detail: Mapping[str, Detail] | None = None,
        subject_id: int | None = None,
    ) -> None:
        """Note something, in the unit of work that does it.

        Args:
            action: what was done, at most 32 characters, as `run-archived`.
            run: name of the run that it was done to.
            pool: name of the pool that it was done to.
            key: name of the API key that asked for it; None where no key was asked for.
            detail: more, as columns of one row; long words are cut.
            subject_id: id of what was deleted, which must never come again.
        """
        if action in DELETIONS and self._connection.dialect.name == "postgresql":
            # Deletions commit in the order of their ids, so that `since` passes none over.
            lock = text("SELECT pg_advisory_xact_lock(:key)")
            self._connection.execute(lock, {"key": _DELETION_LOCK})

        shown = {name: _cut(value) for name, value in (detail or {}).items()}
        self._connection.execute(
            insert(events).values(
                created_at=utc_now(),
                key=key,
                action=action,
                run=run,
                pool=pool,
                subject_id=subject_id,
                detail=shown,
            )
        )

    def page(
        self,
        *,
        run: str | None = None,
        pool: str | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[EventRecord]:
        """The newest events before an id, newest first; of a run or a pool where one is named."""
        query = select(events)
        if run is not None:
            query = query.where(events.c.run == run)
        if pool is not None:
            query = query.where(events.c.pool == pool)
        if before is not None:
            query = query.where(events.c.id < before)

        rows = self._connection.execute(query.order_by(events.c.id.desc()).limit(limit)).mappings()
        return [EventRecord(**row) for row in rows]

    def latest(
        self, action: str, *, run: str | None = None, pool: str | None = None
    ) -> EventRecord | None:
        """The newest event of one kind about a run or a pool, if there is one."""
        about = events.c.run == run if run is not None else events.c.pool == pool
        query = select(events).where(about, events.c.action == action)
        row = (
            self._connection.execute(query.order_by(events.c.id.desc()).limit(1))
            .mappings()
            .one_or_none()
        )
        return None if row is None else EventRecord(**row)

    def newest_id(self, action: str | None = None) -> int:
        """Id of the newest event, of one kind where it is given; 0 where there is none."""
        query = select(func.max(events.c.id))
        if action is not None:
            query = query.where(events.c.action == action)
        return int(self._connection.execute(query).scalar_one() or 0)

    def since(self, event_id: int, action: str) -> list[EventRecord]:
        """Events of one kind after an id, in their order; costs what has happened since."""
        query = select(events).where(events.c.id > event_id, events.c.action == action)
        rows = self._connection.execute(query.order_by(events.c.id)).mappings()
        return [EventRecord(**row) for row in rows]

    def was_deleted(self, action: str, subject_id: int) -> bool:
        """Whether something of that id was deleted."""
        query = select(events.c.id).where(_of(action), events.c.subject_id == subject_id).limit(1)
        return self._connection.execute(query).first() is not None

    def highest_deleted(self, action: str) -> int:
        """The highest id of what was deleted; 0 where nothing was."""
        query = select(func.max(events.c.subject_id)).where(_of(action))
        return int(self._connection.execute(query).scalar_one() or 0)


def _of(action: str) -> ColumnElement[bool]:
    return events.c.action == action


def _cut(value: Detail) -> Detail:
    if isinstance(value, str) and len(value) > DETAIL_CHARACTERS:
        return value[: DETAIL_CHARACTERS - 1] + "…"
    return value

"""Runs: settings, heads of the log, and the segments of pools that their rows are made of."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Table, bindparam, delete, func, insert, select, update

from promptgps_service.errors import NotFound, RunGone
from promptgps_service.store.clock import utc_now
from promptgps_service.store.events import RUN_DELETED, Events
from promptgps_service.store.ids import fresh_id
from promptgps_service.store.named import insert_named
from promptgps_service.store.records import RunRecord, RunRows, Segment, record_of
from promptgps_service.store.states import DELETING, VISIBLE, hidden_name
from promptgps_service.store.tables import (
    leases,
    model_versions,
    pools,
    receipts,
    run_segments,
    runs,
    snapshots,
    superseded_outcomes,
    superseded_selections,
)

# NO KEY UPDATE on PostgreSQL: writers of the log exclude each other, while rows that refer to the
# run (the large ones of model versions above all) can be inserted meanwhile.
_LOCK = select(runs).where(runs.c.id == bindparam("run")).with_for_update(key_share=True)
# What `touched` is set to. On PostgreSQL transactions commit in another order than they began in,
# so that a counter could be passed over by who looks for what is new; the number of the transaction
# can be held against those under way.
_TOUCH = {
    "sqlite": select(func.coalesce(func.max(runs.c.touched), 0) + 1).scalar_subquery(),
    "postgresql": func.txid_current(),
}
_OLDEST_UNDER_WAY = select(func.txid_snapshot_xmin(func.txid_current_snapshot()))
_VISIBLE = runs.c.state.in_(VISIBLE)
_TOUCHED = select(runs).where(runs.c.touched >= bindparam("since"), _VISIBLE)
_SEGMENTS = (
    select(run_segments)
    .where(run_segments.c.run_id == bindparam("run"), run_segments.c.offset >= bindparam("after"))
    .order_by(run_segments.c.offset)
)


class Runs:
    """Runs over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def find(self, name: str, *, keep: bool = False) -> RunRecord | None:
        """The run of that name, if there is one.

        With ``keep`` nobody deletes it while the unit of work lasts.
        """
        query = select(runs).where(runs.c.name == name, _VISIBLE)
        if keep:
            query = query.with_for_update(read=True, key_share=True)

        row = self._connection.execute(query).one_or_none()
        return None if row is None else record_of(RunRecord, row)

    def get(self, name: str) -> RunRecord:
        """The run of that name.

        Raises:
            NotFound: there is none.
        """
        found = self.find(name)
        if found is None:
            deleted = Events(self._connection).latest(RUN_DELETED, run=name)
            when = f": it was deleted at {deleted.created_at}" if deleted is not None else ""
            raise NotFound(f"there is no run {name!r}{when}")

        return found

    def by_id(self, run_id: int) -> RunRecord:
        """The run with that id.

        Raises:
            RunGone: it was deleted.
        """
        row = self._connection.execute(select(runs).where(runs.c.id == run_id)).one_or_none()
        if row is None or row.state == DELETING:
            raise RunGone(run_id)
        return record_of(RunRecord, row)

    def lock(self, run_id: int) -> RunRecord:
        """The run, held against every other writer of its log until the unit of work ends.

        Raises:
            RunGone: it was deleted.
        """
        row = self._connection.execute(_LOCK, {"run": run_id}).one_or_none()
        if row is None or row.state == DELETING:
            raise RunGone(run_id)
        return record_of(RunRecord, row)

    def all(self) -> list[RunRecord]:
        """Every run, by name."""
        query = select(runs).where(_VISIBLE).order_by(runs.c.name)
        return [record_of(RunRecord, row) for row in self._connection.execute(query)]

    def pools(self) -> list[tuple[str, str]]:
        """(run, pool) for every pool that a run draws from, by name."""
        query = (
            select(runs.c.name, pools.c.name)
            .distinct()
            .select_from(run_segments.join(runs).join(pools))
            .where(_VISIBLE)
            .order_by(runs.c.name, pools.c.name)
        )
        return [(run, pool) for run, pool in self._connection.execute(query)]

    def create(
        self, name: str, request: dict[str, Any], settings: dict[str, Any]
    ) -> RunRecord | None:
        """Make a run with an empty log.

        None where the name is taken, perhaps by another process just now.
        """
        statement = insert(runs).values(
            name=name,
            request=request,
            settings=settings,
            log_position=0,
            draws=0,
            selections=0,
            created_at=utc_now(),
            touched=self._touch,
            **fresh_id(self._connection, runs, RUN_DELETED),
        )
        return self.get(name) if insert_named(self._connection, statement) else None

    def set_settings(self, run_id: int, settings: dict[str, Any]) -> None:
        """Replace the spelled-out settings."""
        changed = {"settings": settings, "revision": runs.c.revision + 1, "touched": self._touch}
        self._connection.execute(update(runs).where(runs.c.id == run_id).values(**changed))

    def amend_settings(self, run_id: int, settings: dict[str, Any]) -> None:
        """Replace the settings by others that are the same to a learner.

        What it learns at the moment stays valid. The run must be locked.
        """
        changed = {"settings": settings, "touched": self._touch}
        self._connection.execute(update(runs).where(runs.c.id == run_id).values(**changed))

    def set_state(self, run_id: int, state: str, fault: str | None = None) -> None:
        """Open, archive or mark a run as faulty, with what is wrong; every process notices."""
        changed = {"state": state, "fault": fault, "touched": self._touch}
        self._connection.execute(update(runs).where(runs.c.id == run_id).values(**changed))

    def advance(self, run_id: int, **heads: int) -> None:
        """Move heads (log_position, draws, selections, …) to the given values.

        The run must be locked.
        """
        self._connection.execute(
            update(runs).where(runs.c.id == run_id).values(**heads, touched=self._touch)
        )

    def want(self, run_id: int, position: int) -> None:
        """Say that somebody waits for the model to learn up to a position of the log."""
        wanting = update(runs).where(runs.c.id == run_id, runs.c.wanted < position)
        self._connection.execute(wanting.values(wanted=position, touched=self._touch))

    # ---- the end of a run ------------------------------------------------------------------------

    def hold_for_deletion(self, run_id: int) -> RunRecord:
        """The run, held for its deletion.

        It is held against every writer and against whoever refers to it until the unit of work
        ends.

        Raises:
            RunGone: it was deleted.
        """
        row = self._connection.execute(
            select(runs).where(runs.c.id == run_id).with_for_update()
        ).one_or_none()
        if row is None or row.state == DELETING:
            raise RunGone(run_id)

        return record_of(RunRecord, row)

    def started_from(self, name: str) -> list[RunRecord]:
        """Runs that started from what the run of that name had learned, by name.

        An import under way is among them, too.
        """
        source = runs.c.settings["warm_start_from"].as_string()
        query = select(runs).where(source == name, runs.c.state != DELETING).order_by(runs.c.name)
        return [record_of(RunRecord, row) for row in self._connection.execute(query)]

    def over_pool(self, pool_id: int) -> list[RunRecord]:
        """Runs whose rows are prompts of that pool, by name; an import under way too."""
        of_pool = select(run_segments.c.run_id).where(run_segments.c.pool_id == pool_id)
        query = (
            select(runs)
            .where(runs.c.id.in_(of_pool), runs.c.state != DELETING)
            .order_by(runs.c.name)
        )
        return [record_of(RunRecord, row) for row in self._connection.execute(query)]

    def rows_of(self, run: RunRecord) -> RunRows:
        """How much there is of a run, superseded rows too."""

        def count(table: Table) -> int:
            query = select(func.count()).select_from(table).where(table.c.run_id == run.id)
            return int(self._connection.execute(query).scalar_one())

        later = select(func.coalesce(func.sum(superseded_selections.c.size), 0)).where(
            superseded_selections.c.run_id == run.id
        )

        return RunRows(
            selections=run.selections + count(superseded_selections),
            draws=run.draws + int(self._connection.execute(later).scalar_one()),
            outcomes=run.log_position + count(superseded_outcomes),  # the log has no gaps
            model_versions=count(model_versions),
            snapshots=count(snapshots),
        )

    def hide(self, run_id: int) -> None:
        """Take a run out of sight.

        Its name is free, nobody holds it, its pools do not need to wait for it. Its other rows are
        left for ``Removal``. The run must be held for deletion.
        """
        for table in (leases, run_segments):
            self._connection.execute(delete(table).where(table.c.run_id == run_id))
        hidden = {"name": hidden_name(run_id), "state": DELETING, "touched": self._touch}
        self._connection.execute(update(runs).where(runs.c.id == run_id).values(**hidden))

    # ---- what has changed ------------------------------------------------------------------------

    def touched(self, since: int) -> tuple[list[RunRecord], int]:
        """Runs that have changed since an earlier look, and what to give as ``since`` next time.

        ``since`` is 0 at first. Some may come again that have not changed; none that has is left
        out. It costs what has changed, not what there is.
        """
        following = since
        if self._connection.dialect.name == "postgresql":
            following = int(self._connection.execute(_OLDEST_UNDER_WAY).scalar_one())

        rows = self._connection.execute(_TOUCHED, {"since": since}).all()
        if self._connection.dialect.name == "sqlite":
            # one writer at a time: the numbers come in order
            following = max((row.touched + 1 for row in rows), default=since)

        return [record_of(RunRecord, row) for row in rows], following

    @property
    def _touch(self) -> Any:
        return _TOUCH[self._connection.dialect.name]

    def segments(self, run_id: int, after: int = 0) -> list[Segment]:
        """Segments from row ``after`` on, in the order of rows."""
        rows = self._connection.execute(_SEGMENTS, {"run": run_id, "after": after}).all()
        return [Segment(row.offset, row.pool_id, row.start, row.size) for row in rows]

    def add_segment(self, run_id: int, segment: Segment) -> None:
        """Append rows to a run; its run must be locked."""
        self._connection.execute(
            insert(run_segments).values(
                run_id=run_id,
                offset=segment.offset,
                pool_id=segment.pool_id,
                start=segment.start,
                size=segment.count,
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

    def keep_receipt(
        self, run_id: int, key: str, request: str, answer: dict[str, Any], position: int
    ) -> None:
        """Remember the answer given under an idempotency key.

        It is kept until the log is put back to before ``position``.
        """
        self._connection.execute(
            insert(receipts).values(
                run_id=run_id,
                idempotency_key=key,
                request=request,
                answer=answer,
                log_position=position,
            )
        )

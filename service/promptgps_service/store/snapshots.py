"""Snapshots of runs, and the way back.

What came after one goes to the superseded tables, out of every other query.
"""

from __future__ import annotations

from sqlalchemy import Connection, Table, and_, delete, func, insert, literal, select, update

from promptgps_service.errors import NotFound
from promptgps_service.store.clock import utc_now
from promptgps_service.store.records import (
    RestoreRecord,
    RunRecord,
    SnapshotRecord,
    Superseded,
    record_of,
)
from promptgps_service.store.tables import (
    model_versions,
    outcomes,
    receipts,
    restores,
    selections,
    snapshots,
    steps,
    superseded_outcomes,
    superseded_selections,
    superseded_steps,
)

_HEADS = (
    "epoch",
    "settings",
    "log_position",
    "draws",
    "selections",
    "model_version",
    "trained_through",
)


class Snapshots:
    """Snapshots over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def find(self, run_id: int, tag: str) -> SnapshotRecord | None:
        """The snapshot of that tag that stands, if there is one."""
        query = select(snapshots).where(
            snapshots.c.run_id == run_id, snapshots.c.tag == tag, snapshots.c.superseded_in == 0
        )
        row = self._connection.execute(query).one_or_none()
        return None if row is None else record_of(SnapshotRecord, row)

    def get(self, run_id: int, tag: str) -> SnapshotRecord:
        """The snapshot of that tag that stands.

        Raises:
            NotFound: there is none, or a restore has superseded it.
        """
        found = self.find(run_id, tag)
        if found is None:
            last = max(
                (each.superseded_in for each in self.all(run_id) if each.tag == tag), default=0
            )
            why = f": the restore that began epoch {last} has superseded it" if last else ""
            raise NotFound(f"there is no snapshot {tag!r}{why}")

        return found

    def all(self, run_id: int) -> list[SnapshotRecord]:
        """Every snapshot, superseded ones too, in the order of making."""
        query = select(snapshots).where(snapshots.c.run_id == run_id).order_by(snapshots.c.id)
        return [record_of(SnapshotRecord, row) for row in self._connection.execute(query)]

    def add(self, run: RunRecord, tag: str) -> SnapshotRecord:
        """Make a snapshot of a run, which must be locked."""
        heads = {name: getattr(run, name) for name in _HEADS}
        self._connection.execute(
            insert(snapshots).values(
                run_id=run.id, tag=tag, created_at=utc_now(), superseded_in=0, **heads
            )
        )
        return self.get(run.id, tag)

    def restores(self, run_id: int) -> list[RestoreRecord]:
        """Every restore, in order, with what it has superseded."""
        query = select(restores).where(restores.c.run_id == run_id).order_by(restores.c.epoch)
        return [
            RestoreRecord(row.epoch, row.tag, row.created_at, self.superseded(run_id, row.epoch))
            for row in self._connection.execute(query).all()
        ]

    def superseded(self, run_id: int, epoch: int) -> Superseded:
        """How much the restore that began an epoch has superseded; late outcomes count too."""

        def count(table: Table) -> int:
            of_epoch = and_(table.c.run_id == run_id, table.c.superseded_in == epoch)
            return int(
                self._connection.execute(
                    select(func.count()).select_from(table).where(of_epoch)
                ).scalar_one()
            )

        draws = select(func.coalesce(func.sum(superseded_selections.c.size), 0)).where(
            superseded_selections.c.run_id == run_id, superseded_selections.c.superseded_in == epoch
        )

        return Superseded(
            selections=count(superseded_selections),
            draws=int(self._connection.execute(draws).scalar_one()),
            outcomes=count(superseded_outcomes),
            snapshots=count(snapshots),
        )

    def supersede_after(self, run: RunRecord, snapshot: SnapshotRecord) -> int:
        """Supersede all that came after a snapshot of a run; answers the epoch that begins.

        The run must be locked.
        """
        epoch = run.epoch + 1
        moved = (
            (selections, superseded_selections, selections.c.ordinal >= snapshot.selections),
            (outcomes, superseded_outcomes, outcomes.c.position > snapshot.log_position),
            (steps, superseded_steps, steps.c.version > snapshot.model_version),
        )
        for table, archive, later in moved:
            of_run = and_(table.c.run_id == run.id, later)
            names = [*table.columns.keys(), "superseded_in"]
            rows = select(*table.columns, literal(epoch)).where(of_run)
            self._connection.execute(insert(archive).from_select(names, rows))
            self._connection.execute(delete(table).where(of_run))

        later_still = and_(
            snapshots.c.run_id == run.id,
            snapshots.c.superseded_in == 0,
            snapshots.c.id > snapshot.id,
        )
        self._connection.execute(update(snapshots).where(later_still).values(superseded_in=epoch))

        for table, later in (
            # nobody can go back to them
            (model_versions, model_versions.c.version > snapshot.model_version),
            # sent again, they are news
            (receipts, receipts.c.log_position > snapshot.log_position),
        ):
            self._connection.execute(delete(table).where(table.c.run_id == run.id, later))

        self._connection.execute(
            insert(restores).values(
                run_id=run.id, epoch=epoch, tag=snapshot.tag, created_at=utc_now()
            )
        )
        return epoch

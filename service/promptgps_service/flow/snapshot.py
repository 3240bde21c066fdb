"""Snapshots: a run as it is now, marked by a tag that goes with the trainer's checkpoint."""

from __future__ import annotations

from promptgps_client.wire import RestoreNote, Snapshot, Snapshots, SupersededCounts, TakeSnapshot

from promptgps_service.flow.context import Context
from promptgps_service.flow.states import on_current_run, require_open
from promptgps_service.store.records import SnapshotRecord


@on_current_run
def take_snapshot(
    context: Context, name: str, request: TakeSnapshot, by: str | None = None
) -> tuple[Snapshot, bool]:
    """Mark a run; answers the snapshot and whether it is new.

    It costs a row: the log stays where it is, and the published model version is kept from now on.

    Raises:
        NotFound: there is no such run.
        NotOpen: it is archived or faulty.
    """
    desk = context.desk(name)
    with context.store.write() as unit:
        record = unit.runs.lock(desk.state.id)
        require_open(unit, record)
        found = unit.snapshots.find(record.id, request.tag)
        made = found or unit.snapshots.add(record, request.tag)
        if found is None:
            unit.events.add("snapshot-taken", run=name, key=by, detail={"tag": request.tag})

    return _snapshot(name, made), found is None


def list_snapshots(context: Context, name: str) -> Snapshots:
    """Snapshots and restores of a run."""
    with context.store.read() as unit:
        record = unit.runs.get(name)
        snapshots = unit.snapshots.all(record.id)
        restores = unit.snapshots.restores(record.id)

    return Snapshots(
        run=name,
        epoch=record.epoch,
        snapshots=[_snapshot(name, each) for each in snapshots],
        restores=[
            RestoreNote(
                epoch=each.epoch,
                tag=each.tag,
                created_at=each.created_at,
                superseded=SupersededCounts.model_validate(vars(each.superseded)),
            )
            for each in restores
        ],
    )


def _snapshot(run: str, record: SnapshotRecord) -> Snapshot:
    return Snapshot(
        run=run,
        tag=record.tag,
        epoch=record.epoch,
        selections=record.selections,
        draws=record.draws,
        log_position=record.log_position,
        model_version=record.model_version,
        trained_through=record.trained_through,
        created_at=record.created_at,
        superseded=record.superseded_in > 0,
    )

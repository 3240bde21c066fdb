"""Back to a snapshot: log, counts, model, selections and settings.

What came after is superseded, not deleted.
"""

from __future__ import annotations

from promptgps_client.wire import Restore, Restored, SupersededCounts

from promptgps_service.flow.context import Context
from promptgps_service.flow.digest import request_digest
from promptgps_service.flow.receipts import answered_before
from promptgps_service.flow.states import on_current_run, require_open
from promptgps_service.store.records import Detail, RunRecord, SnapshotRecord, Superseded
from promptgps_service.store.unit import Unit

_NOTHING = Superseded(0, 0, 0, 0)


@on_current_run
def restore_run(
    context: Context,
    name: str,
    request: Restore,
    idempotency_key: str | None,
    by: str | None = None,
) -> Restored:
    """Put a run back to a snapshot.

    Every process that serves or learns the run notices by its epoch, and reads it anew. Given the
    same requests and outcomes as the first time, the run draws the same prompts again. Only the
    prompts that its pools have got since stay.

    Raises:
        NotFound: no such run, or no such snapshot that stands.
        NotOpen: the run is archived or faulty.
        Conflict: the idempotency key has come with another request.
        Unavailable: the database does not answer; the run is where it was.
    """
    desk = context.desk(name)
    digest = request_digest(request, frozenset())

    with context.store.write() as unit:
        record = unit.runs.lock(desk.state.id)
        require_open(unit, record)

        before = answered_before(unit, record.id, idempotency_key, digest, "request")
        if before is not None:
            answer = Restored.model_validate(before)
        else:
            answer = _put_back(unit, record, unit.snapshots.get(record.id, request.tag))
            if answer.epoch != record.epoch:
                told: dict[str, Detail] = {"tag": answer.tag, "epoch": answer.epoch}
                told |= answer.superseded.model_dump()
                unit.events.add("run-restored", run=name, key=by, detail=told)
            if idempotency_key is not None:
                unit.runs.keep_receipt(record.id, idempotency_key, digest, answer.model_dump(), 0)

    desk.trainer.update()
    return answer


def _put_back(unit: Unit, record: RunRecord, snapshot: SnapshotRecord) -> Restored:
    superseded = _NOTHING
    if not _is_at(record, snapshot):
        epoch = unit.snapshots.supersede_after(record, snapshot)
        superseded = unit.snapshots.superseded(record.id, epoch)
        unit.runs.set_settings(record.id, snapshot.settings)
        unit.runs.advance(
            record.id,
            epoch=epoch,
            log_position=snapshot.log_position,
            draws=snapshot.draws,
            selections=snapshot.selections,
            model_version=snapshot.model_version,
            trained_through=snapshot.trained_through,
            wanted=0,
        )
        record = unit.runs.lock(record.id)

    return Restored(
        run=record.name,
        tag=snapshot.tag,
        epoch=record.epoch,
        selections=record.selections,
        draws=record.draws,
        log_position=record.log_position,
        model_version=record.model_version,
        trained_through=record.trained_through,
        superseded=SupersededCounts.model_validate(vars(superseded)),
    )


def _is_at(record: RunRecord, snapshot: SnapshotRecord) -> bool:
    """Whether nothing has come after the snapshot; learning from what was there is nothing new."""
    heads = ("log_position", "draws", "selections", "settings")
    return all(getattr(record, head) == getattr(snapshot, head) for head in heads)

"""Runs and pools put to rest, woken, and taken away.

Each change leaves an event with the name of the key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from promptgps_client.wire import Deleted, Pool, Run

from promptgps_service.errors import Conflict, Fault
from promptgps_service.flow.context import Context
from promptgps_service.flow.open_run import describe_run
from promptgps_service.flow.register import describe_pool
from promptgps_service.store.records import RunRecord
from promptgps_service.store.states import ARCHIVED, IMPORTING, OPEN
from promptgps_service.store.unit import Store, Unit

NAMED = 20  # runs that a refusal names
Sees = Callable[[str], bool]


def everything(_name: str) -> bool:
    """What may be named to whoever may know of every run."""
    return True


# ---- in a process that serves --------------------------------------------------------------------


def archive_run(context: Context, name: str, by: str | None) -> Run:
    """Put a run to rest: from now on it costs disk only.

    Raises:
        NotFound: there is no such run.
    """
    put_run_away(context.store, name, by)
    context.drop(name)
    return describe_run(context, name)


def reopen_run(context: Context, name: str, by: str | None) -> Run:
    """Have an archived run go on, or try a faulty one again.

    Raises:
        NotFound: there is no such run.
        NotOpen: it is still faulty.
    """
    wake_run(context.store, name, by)
    context.desk(name)
    return describe_run(context, name)


def delete_run(
    context: Context, name: str, by: str | None, *, dry_run: bool, sees: Sees = everything
) -> Deleted:
    """Take a run away with everything of it; its rows go in the background.

    Raises:
        NotFound: there is no such run.
        Conflict: another run started from it; names those that the caller may see.
    """
    deleted = remove_run(context.store, name, by, dry_run=dry_run, sees=sees)
    if not dry_run:
        context.drop(name)
        context.sweeper.wake()
    return deleted


def archive_pool(context: Context, name: str, by: str | None) -> Pool:
    """Put a pool to rest: it takes no prompts and no new runs, while runs over it go on.

    Raises:
        NotFound: there is no such pool.
    """
    put_pool_away(context.store, name, by)
    return describe_pool(context, name)


def reopen_pool(context: Context, name: str, by: str | None) -> Pool:
    """Have an archived pool take prompts and new runs again.

    Raises:
        NotFound: there is no such pool.
    """
    wake_pool(context.store, name, by)
    return describe_pool(context, name)


def delete_pool(
    context: Context, name: str, by: str | None, *, dry_run: bool, sees: Sees = everything
) -> Deleted:
    """Take a pool away with its prompts; they go in the background.

    Raises:
        NotFound: there is no such pool.
        Conflict: a run needs it, be it an archived one; names those that the caller may see.
    """
    deleted = remove_pool(context.store, name, by, dry_run=dry_run, sees=sees)
    if not dry_run:
        context.sweeper.wake()
    return deleted


# ---- in the database alone -----------------------------------------------------------------------


def put_run_away(store: Store, name: str, by: str | None) -> None:
    """What ``archive_run`` does in the database; processes that have the run open follow."""
    with store.write() as unit:
        record = unit.runs.lock(unit.runs.get(name).id)
        if record.state == ARCHIVED:
            return
        unit.runs.set_state(record.id, ARCHIVED)
        unit.leases.release(record.id)
        told = {} if record.fault is None else {"fault": record.fault}
        unit.events.add("run-archived", run=name, key=by, detail=told)


def wake_run(store: Store, name: str, by: str | None) -> None:
    """What ``reopen_run`` does in the database.

    Whether the run can be built shows once it is opened.
    """
    with store.write() as unit:
        record = unit.runs.lock(unit.runs.get(name).id)
        if record.state == OPEN:
            return
        unit.runs.set_state(record.id, OPEN)
        unit.events.add(
            "run-opened", run=name, key=by, detail={"was": record.state, "fault": record.fault}
        )


def put_pool_away(store: Store, name: str, by: str | None) -> None:
    """What ``archive_pool`` does."""
    _set_pool(store, name, ARCHIVED, "pool-archived", by)


def wake_pool(store: Store, name: str, by: str | None) -> None:
    """What ``reopen_pool`` does."""
    _set_pool(store, name, OPEN, "pool-opened", by)


def _set_pool(store: Store, name: str, state: str, action: str, by: str | None) -> None:
    with store.write() as unit:
        record = unit.pools.get(name, keep=True)
        if record.state != state:
            unit.pools.set_state(record.id, state)
            unit.events.add(action, pool=name, key=by)


def remove_run(
    store: Store, name: str, by: str | None, *, dry_run: bool, sees: Sees = everything
) -> Deleted:
    """What ``delete_run`` does at once: the run is out of sight and its name is free.

    ``sweep`` does the rest.
    """
    with store.read() as unit:
        record = unit.runs.get(name)
        _refuse_source(unit, record, sees)
        rows = unit.runs.rows_of(record)

    deleted = Deleted(name=name, dry_run=dry_run, **vars(rows))
    if dry_run:
        return deleted

    with store.write() as unit:
        record = unit.runs.hold_for_deletion(unit.runs.get(name).id)
        _refuse_source(unit, record, sees)
        unit.runs.hide(record.id)
        unit.events.add("run-deleted", run=name, key=by, subject_id=record.id, detail=vars(rows))

    return deleted


def remove_pool(
    store: Store, name: str, by: str | None, *, dry_run: bool, sees: Sees = everything
) -> Deleted:
    """What ``delete_pool`` does at once: the pool is out of sight and its name is free.

    ``sweep`` does the rest.
    """
    with store.read() as unit:
        record = unit.pools.get(name)
        _refuse_needed(unit, record.id, name, sees)

    deleted = Deleted(name=name, dry_run=dry_run, prompts=record.prompts)
    if dry_run:
        return deleted

    with store.write() as unit:
        record = unit.pools.hold_for_deletion(unit.pools.get(name).id)
        _refuse_needed(unit, record.id, name, sees)
        unit.pools.hide(record.id)
        told = {"prompts": record.prompts}
        unit.events.add("pool-deleted", pool=name, key=by, subject_id=record.id, detail=told)

    return deleted


def _refuse_source(unit: Unit, record: RunRecord, sees: Sees) -> None:
    started = unit.runs.started_from(record.name)
    if started:
        why = "its model is framed by the prompts that this one had"
        told, faults = _told(started, sees, f"started from run {record.name!r}")
        raise Conflict(
            f"run {record.name!r} cannot be deleted: {told} ({why}); delete that first", faults
        )


def _refuse_needed(unit: Unit, pool_id: int, name: str, sees: Sees) -> None:
    over = unit.runs.over_pool(pool_id)
    if over:
        told, faults = _told(over, sees, f"draws from pool {name!r}")
        raise Conflict(f"pool {name!r} cannot be deleted: {told}; delete that first", faults)


def _told(records: Sequence[RunRecord], sees: Sees, what: str) -> tuple[str, tuple[Fault, ...]]:
    """Runs that stand in the way, in words and as faults.

    Of those that the caller may not see only the number is told.
    """
    importing = sum(record.state == IMPORTING for record in records)
    names = [record.name for record in records if record.state != IMPORTING and sees(record.name)]
    others = len(records) - importing - len(names)
    words = [repr(name) for name in names[:NAMED]]
    words += [f"{len(names) - NAMED} more"] if len(names) > NAMED else []
    words += [f"{others} that this API key does not own"] if others else []
    words += ["one that is being imported"] if importing else []
    faults = tuple(Fault("run", f"{name!r} {what}", row) for row, name in enumerate(names[:NAMED]))

    return f"{'runs' if len(records) > 1 else 'run'} {', '.join(words)} {what}", faults

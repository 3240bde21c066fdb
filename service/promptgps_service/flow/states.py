"""What a run that is put away, or broken, is told whoever wants to go on with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from promptgps_service.errors import NotOpen, PoolNotOpen, RunGone
from promptgps_service.store.pools import archived_pool
from promptgps_service.store.records import PoolRecord, RunRecord
from promptgps_service.store.states import ARCHIVED, FAULTY, OPEN
from promptgps_service.store.unit import Unit

if TYPE_CHECKING:
    from promptgps_service.flow.context import Context

P = ParamSpec("P")
A = TypeVar("A")


def require_open(unit: Unit, record: RunRecord, *, or_faulty: bool = False) -> None:
    """Let pass a run that is open.

    Args:
        unit: which has the run's record.
        record: of the run, as it is now.
        or_faulty: let pass a faulty one, too: what is asked for may mend it.

    Raises:
        NotOpen: it is archived or faulty; says since when, or why, and what to do.
    """
    if record.state == OPEN or (or_faulty and record.state == FAULTY):
        return

    name = record.name
    how = f"POST /runs/{record.name}/open or `promptgps runs open {record.name}`"

    if record.state == ARCHIVED:
        event = unit.events.latest("run-archived", run=name)
        since = f" since {event.created_at}" if event is not None else ""
        raise NotOpen(
            f"run {name!r} is archived{since}: it takes no draws and no outcomes; "
            f"open it with {how}"
        )

    reason = record.fault or "the reason was not kept"
    raise NotOpen(f"run {name!r} is faulty: {reason}; once that is mended, try it again with {how}")


def require_readable(unit: Unit, run_id: int) -> None:
    """Let pass a run that this process has opened and that may still be asked.

    Raises:
        RunGone: it was deleted just now, by another process.
        NotOpen: it is faulty.
    """
    record = unit.runs.by_id(run_id)
    if record.state == FAULTY:
        require_open(unit, record)


def require_open_pool(pool: PoolRecord) -> None:
    """Let pass a pool that is open.

    Raises:
        PoolNotOpen: it is archived; says what to do.
    """
    if pool.state != OPEN:
        raise PoolNotOpen(archived_pool(pool.name))


def on_current_run(
    use_case: Callable[Concatenate[Context, P], A],
) -> Callable[Concatenate[Context, P], A]:
    """Have a use case done again where it finds that the run it has at hand was deleted.

    Another process may have deleted it just now, and made a new one of the same name: then that one
    is meant. Where there is none, the second time says so.
    """

    @wraps(use_case)
    def done(context: Context, /, *args: P.args, **kwargs: P.kwargs) -> A:
        try:
            return use_case(context, *args, **kwargs)
        except RunGone as gone:
            context.drop_id(gone.run_id)
            return use_case(context, *args, **kwargs)

    return done

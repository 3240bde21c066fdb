"""Workers: learn what there is and end, or go on learning until told to stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import structlog

from promptgps_service.app import make_context
from promptgps_service.flow.context import Context
from promptgps_service.flow.states import require_open
from promptgps_service.serve import prepare
from promptgps_service.settings import Settings
from promptgps_service.store.states import OPEN

_log = structlog.get_logger(__name__)
CHECK_SECONDS = 1.0


def watch_runs(settings: Settings, only: Collection[str] | None, *, migrate: bool) -> bool:
    """Learn all runs, or ``only`` those of these names, as outcomes come in.

    It goes on until SIGINT or SIGTERM; the step at hand is finished first. Answers whether it ended
    because it was told to; false where a thread has died.
    """
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())

    with _context(settings, migrate=migrate) as context:
        context.follow(only)
        _log.info("watching", runs=sorted(only) if only else "all")
        while not (told := stopping.wait(CHECK_SECONDS)) and context.alive:
            pass

    _log.info("stopped", told=told)
    return told


def learn_runs(settings: Settings, only: Collection[str] | None, *, migrate: bool) -> bool:
    """Learn what the logs hold now.

    A run that another worker holds is waited for, until that one has learned it.

    Raises:
        NotFound: there is no run of one of the names.
        NotOpen: one of them is archived or faulty.
        Unavailable: the database does not answer.
    """
    # leave in order: the runs are given back
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _context(settings, migrate=migrate) as context:
        with context.store.read() as unit:
            records = [record for record in unit.runs.all() if record.state == OPEN]
            if only is not None:
                records = [unit.runs.get(name) for name in only]
                for record in records:
                    require_open(unit, record)

        waiting = {record.name: record.log_position for record in records}
        while waiting := {
            name: at for name, at in waiting.items() if not _has_learned(context, name, at)
        }:
            time.sleep(settings.poll_seconds)

    return True


def _has_learned(context: Context, name: str, position: int) -> bool:
    with context.store.read() as unit:
        record = unit.runs.find(name)

    if record is None or record.state != OPEN:  # put away since
        return True
    # a restore may have shortened the log
    if record.trained_through >= min(position, record.log_position):
        return True
    if context.leases.hold(record.id):
        context.desk(name).trainer.learn(position)

    return False  # until the database says so


@contextmanager
def _context(settings: Settings, *, migrate: bool) -> Iterator[Context]:
    prepare(settings, migrate=migrate)
    context = make_context(settings)
    try:
        yield context
    finally:
        context.close()

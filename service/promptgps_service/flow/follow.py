"""Following what other processes write: a look, several times a second, at the runs that have changed.

A look costs what has changed, not what there is. It brings the state of every run that this process has opened up to
the database and has newer model versions loaded on the lane; in a process that learns it finds the runs that nobody
learns.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from promptgps_service.errors import NotFound, NotOpen
from promptgps_service.store.events import RUN_DELETED
from promptgps_service.store.records import EventRecord, RunRecord
from promptgps_service.store.states import OPEN

if TYPE_CHECKING:
    from promptgps_service.flow.context import Context, Desk

POLL_SECONDS = 0.25
CLAIM_SECONDS = 1.0  # a look takes on no more runs after so long: those that are open want to be followed


class Follower:
    """A reader of the heads of all runs, with a cursor of its own."""

    def __init__(self, context: Context, only: Collection[str] | None) -> None:
        """Follow all runs; take on ``only`` those of these names, or any if it is None."""
        self._context = context
        self._only = only
        self._since = 0
        self._deletions = 0  # id of the newest deletion that was seen
        self._behind: dict[int, RunRecord] = {}

    def look(self) -> None:
        """One look.

        Raises:
            Unavailable: the database does not answer; the next look sees what this one has missed.
            Busy: the lane is full.
        """
        context = self._context
        with context.store.read() as unit:
            deleted = unit.events.since(self._deletions, RUN_DELETED)
            touched, since = unit.runs.touched(self._since)
            self._put_away(touched, deleted)
            changed = [record for record in touched if record.state == OPEN]
            opened = [(desk, record) for record in changed if (desk := context.opened(record.name)) is not None]
            for desk, record in opened:
                context.catch_up_in(unit, desk.state, record)
        for desk, record in opened:
            _pass_on(desk, record)
        self._note(changed)
        self._since = since
        self._deletions = max((event.id for event in deleted), default=self._deletions)
        self._take_on()

    def _put_away(self, touched: list[RunRecord], deleted: list[EventRecord]) -> None:
        """Forget runs that are archived, faulty or deleted, and those whose name another run has now."""
        over = {record.id for record in touched if record.state != OPEN}
        over |= {event.subject_id for event in deleted if event.subject_id is not None}
        for run_id in over:
            self._behind.pop(run_id, None)
            self._context.drop_id(run_id)
        for record in touched:
            desk = self._context.opened(record.name)
            if desk is not None and desk.state.id != record.id:
                self._context.drop_id(desk.state.id)

    def _note(self, changed: list[RunRecord]) -> None:
        for record in changed:
            if record.behind and (self._only is None or record.name in self._only):
                self._behind[record.id] = record
            else:
                self._behind.pop(record.id, None)

    def _take_on(self) -> None:
        """Learn the runs that are behind and that no worker holds."""
        context = self._context
        if not context.learning.enabled:
            return
        waiting = [
            record for record in self._behind.values()
            if context.opened(record.name) is None or not context.leases.holds(record.id)
        ]  # fmt: skip
        if not waiting:
            return
        worker = context.leases.join()  # also where others hold it all: they may be dead
        with context.store.read() as unit:
            held = unit.leases.held([record.id for record in waiting], besides=worker)
        started = time.monotonic()
        for record in waiting:
            if record.id not in held and context.leases.hold(record.id):
                try:
                    context.desk(record.name).trainer.wake(record.wanted)
                except (NotFound, NotOpen):  # put away since; the next look says so
                    context.leases.forget(record.id)
            if time.monotonic() - started > CLAIM_SECONDS:
                break


def _pass_on(desk: Desk, record: RunRecord) -> None:
    table = desk.state.table
    now = (record.epoch, record.revision, record.model_version, desk.state.rows)
    if table is None or table.made_of != now:
        desk.trainer.refresh()
    if record.behind:
        desk.trainer.wake(record.wanted)

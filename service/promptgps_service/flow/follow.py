"""Following what other processes write: a look, several times a second, at changed runs.

A look costs what has changed, not what there is. It does nothing for a run itself, so that no run
keeps the others waiting: what is opened here is brought up to the database by its trainer, and what
nobody learns is opened aside.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from promptgps_service.store.events import RUN_DELETED
from promptgps_service.store.records import EventRecord, RunRecord
from promptgps_service.store.states import OPEN

if TYPE_CHECKING:
    from promptgps_service.flow.context import Context

POLL_SECONDS = 0.25
CLAIM_SECONDS = (
    1.0  # a look takes on no more runs after so long: those that are open want to be followed
)


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
        """
        with self._context.store.read() as unit:
            deleted = unit.events.since(self._deletions, RUN_DELETED)
            touched, since = unit.runs.touched(self._since)

        self._put_away(touched, deleted)
        changed = [record for record in touched if record.state == OPEN]
        for record in changed:
            self._pass_on(record)

        self._note(changed)
        self._since = since
        self._deletions = max((event.id for event in deleted), default=self._deletions)
        self._take_on()

    def _put_away(self, touched: list[RunRecord], deleted: list[EventRecord]) -> None:
        """Forget runs that are archived, faulty or deleted, or whose name another run has now."""
        over = {record.id for record in touched if record.state != OPEN}
        over |= {event.subject_id for event in deleted if event.subject_id is not None}
        for run_id in over:
            self._behind.pop(run_id, None)

        for run_id in over & self._context.in_memory:
            self._context.drop_id(run_id)

        for record in touched:
            desk = self._context.opened(record.name)
            if desk is not None and desk.state.id != record.id:
                self._context.drop_id(desk.state.id)

    def _pass_on(self, record: RunRecord) -> None:
        desk = self._context.opened(record.name)
        if desk is None:
            return
        desk.trainer.follow()
        if record.behind:
            desk.trainer.wake(record.wanted)

    def _note(self, changed: list[RunRecord]) -> None:
        for record in changed:
            ours = self._only is None or record.name in self._only
            if record.behind and ours:
                self._behind[record.id] = record
            else:
                self._behind.pop(record.id, None)

    def _take_on(self) -> None:
        """Learn the runs that are behind and that no worker holds."""
        context = self._context
        if not context.learning.enabled:
            return

        waiting = [
            record
            for record in self._behind.values()
            if context.opened(record.name) is None or not context.leases.holds(record.id)
        ]
        if not waiting:
            return

        worker = context.leases.join()  # also where others hold it all: they may be dead
        with context.store.read() as unit:
            held = unit.leases.held([record.id for record in waiting], besides=worker)

        started = time.monotonic()
        for record in waiting:
            if record.id not in held and context.leases.hold(record.id):
                context.open_soon(record)
            if time.monotonic() - started > CLAIM_SECONDS:
                break

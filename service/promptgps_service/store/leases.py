"""Who learns which run: workers that show signs of life, and the runs that they hold."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select, update

from promptgps_service.store.lookup import in_parts
from promptgps_service.store.named import insert_named
from promptgps_service.store.states import IMPORTING, OPEN
from promptgps_service.store.tables import leases, runs, workers


class Leases:
    """Workers and leases over one connection.

    A lease lasts as long as its holder's row in `workers`. That row goes when the worker leaves, or
    when another has watched its beat stand still for long enough; no clock is compared with
    another.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def join(self, worker: str) -> None:
        """Make a new worker known."""
        self._connection.execute(insert(workers).values(id=worker, beat=0))

    def beat(self, worker: str) -> bool:
        """Show a sign of life; false where the worker was taken for dead."""
        moved = update(workers).where(workers.c.id == worker).values(beat=workers.c.beat + 1)
        return self._connection.execute(moved).rowcount == 1

    def beats(self) -> dict[str, int]:
        """How often each worker has shown a sign of life."""
        return {row.id: row.beat for row in self._connection.execute(select(workers)).all()}

    def bury(self, worker: str, beat: int) -> bool:
        """Free everything that a worker holds, if it has shown no sign of life since that beat."""
        dead = delete(workers).where(workers.c.id == worker, workers.c.beat == beat)
        return self._connection.execute(dead).rowcount == 1

    def leave(self, worker: str) -> None:
        """Free everything that a worker holds."""
        self._connection.execute(delete(workers).where(workers.c.id == worker))

    def take(self, run_id: int, worker: str) -> bool:
        """Take a run that is open and that nobody holds; true where the worker holds it now."""
        holder = self.holder(run_id)
        if holder is None and self._may_be_held(run_id):
            taking = insert(leases).values(run_id=run_id, holder=worker)
            if insert_named(self._connection, taking):
                return True

        return holder == worker

    def _may_be_held(self, run_id: int) -> bool:
        state = self._connection.execute(
            select(runs.c.state).where(runs.c.id == run_id)
        ).scalar_one_or_none()
        return state in (OPEN, IMPORTING)

    def release(self, run_id: int) -> None:
        """Free a run, whoever holds it."""
        self._connection.execute(delete(leases).where(leases.c.run_id == run_id))

    def held(self, run_ids: Sequence[int], besides: str) -> set[int]:
        """Which of the runs another worker holds."""
        found: set[int] = set()
        for part in in_parts(run_ids):
            query = select(leases).where(leases.c.run_id.in_(part))
            found.update(
                row.run_id for row in self._connection.execute(query) if row.holder != besides
            )

        return found

    def holder(self, run_id: int, *, keep: bool = False) -> str | None:
        """Who holds a run.

        With ``keep`` nobody can take it from it before the unit of work ends.
        """
        query = select(leases.c.holder).where(leases.c.run_id == run_id)
        return self._connection.execute(
            query.with_for_update(read=True) if keep else query
        ).scalar_one_or_none()

"""Draws and outcomes that a restore has superseded.

They are kept, found by what is reported late, and otherwise left alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sqlalchemy import Connection, func, insert, select

from promptgps_service.store.clock import utc_seconds
from promptgps_service.store.lookup import in_parts
from promptgps_service.store.records import OutcomeRecord, SupersededDraw
from promptgps_service.store.tables import DRAWS
from promptgps_service.store.tables import superseded_outcomes as outcomes
from promptgps_service.store.tables import superseded_selections as selections


class SupersededLog:
    """Superseded draws and their outcomes over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def draws(self, run_id: int, epoch: int, numbers: Sequence[int]) -> dict[int, SupersededDraw]:
        """Which of the draws issued in an epoch are superseded, by number."""
        query = (
            select(
                selections.c.first_draw,
                selections.c.rows,
                selections.c.rollouts,
                selections.c.superseded_in,
            )
            .where(selections.c.run_id == run_id, selections.c.epoch == epoch)
            .where(selections.c.first_draw <= max(numbers))
            .where(selections.c.first_draw + selections.c.size > min(numbers))
        )

        asked = set(numbers)
        found = {}
        for first, packed, rollouts, superseded_in in self._connection.execute(query):
            for number, row in enumerate(
                np.frombuffer(packed, DRAWS["rows"]).tolist(), start=first
            ):
                if number in asked:
                    found[number] = SupersededDraw(superseded_in, row, rollouts)

        return found

    def of_draws(
        self, run_id: int, superseded_in: int, draws: Sequence[int]
    ) -> list[OutcomeRecord]:
        """Everything that has been reported of draws that one restore has superseded."""
        found: list[OutcomeRecord] = []
        for part in in_parts(draws):
            query = select(
                *(outcomes.c[name] for name in OutcomeRecord.__dataclass_fields__)
            ).where(
                outcomes.c.run_id == run_id,
                outcomes.c.superseded_in == superseded_in,
                outcomes.c.draw.in_(part),
            )
            found.extend(OutcomeRecord(*row) for row in self._connection.execute(query))

        return found

    def append(self, run_id: int, superseded_in: int, records: Sequence[OutcomeRecord]) -> None:
        """Append outcomes of draws that one restore has superseded to the log of that time.

        The run must be locked.
        """
        head = select(func.coalesce(func.max(outcomes.c.position), 0)).where(
            outcomes.c.run_id == run_id, outcomes.c.superseded_in == superseded_in
        )
        position = int(self._connection.execute(head).scalar_one())
        now = utc_seconds()

        rows = [
            {
                "run_id": run_id,
                "superseded_in": superseded_in,
                "position": place,
                "received_at": now,
                **vars(record),
            }
            for place, record in enumerate(records, start=position + 1)
        ]

        if rows:
            self._connection.execute(insert(outcomes), rows)

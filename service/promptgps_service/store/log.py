"""The outcome log: append only, ordered and gapless per run.

The only truth; all else is read from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from promptgps_client.wire import ROUNDING
from sqlalchemy import Connection, bindparam, select
from sqlalchemy.dialects import registry

from promptgps_service.store.clock import utc_seconds
from promptgps_service.store.lookup import in_parts
from promptgps_service.store.records import LogSlice, OutcomeRecord
from promptgps_service.store.tables import outcomes

_COLUMNS = ", ".join(f'"{column.name}"' for column in outcomes.columns)
_POSTGRESQL = registry.load("postgresql")()
# One statement of arrays: 8,192 rollouts one by one would keep PostgreSQL busy three times as long.
_ARRAYS = ", ".join(f"%s::{column.type.compile(_POSTGRESQL)}[]" for column in outcomes.columns)
_INSERT_POSTGRESQL = f"INSERT INTO outcomes ({_COLUMNS}) SELECT * FROM unnest({_ARRAYS})"
_INSERT_SQLITE = (
    f"INSERT INTO outcomes ({_COLUMNS}) VALUES ({', '.join('?' * len(outcomes.columns))})"
)
_OF_DRAWS = select(*(outcomes.c[name] for name in OutcomeRecord.__dataclass_fields__)).where(
    outcomes.c.run_id == bindparam("run"), outcomes.c.draw.in_(bindparam("draws", expanding=True))
)
_REPORTED = select(outcomes.c.draw, outcomes.c.received_at).where(
    outcomes.c.run_id == bindparam("run"), outcomes.c.draw >= 0
)
_LOWEST = _REPORTED.order_by(outcomes.c.draw).limit(1)
_HIGHEST = _REPORTED.order_by(outcomes.c.draw.desc()).limit(1)


class Log:
    """The outcome log over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def of_draws(self, run_id: int, draws: Sequence[int]) -> list[OutcomeRecord]:
        """Everything that has been reported of those draws."""
        found: list[OutcomeRecord] = []
        for part in in_parts(draws):
            asked = {"run": run_id, "draws": part}
            found.extend(
                OutcomeRecord(*row) for row in self._connection.execute(_OF_DRAWS, asked).all()
            )

        return found

    def reported(self, run_id: int) -> tuple[int, float] | None:
        """Highest draw with an outcome, and seconds since the lowest such draw was reported."""
        lowest = self._connection.execute(_LOWEST, {"run": run_id}).one_or_none()
        highest = self._connection.execute(_HIGHEST, {"run": run_id}).one_or_none()
        if lowest is None or highest is None:
            return None
        return int(highest.draw), max(utc_seconds() - lowest.received_at, 0.0)

    def has_reward(self, run_id: int, value: float) -> bool:
        """Whether some rollout that counts has had that reward, up to rounding.

        Reads the log until it finds one.
        """
        near = outcomes.c.reward.between(value - ROUNDING, value + ROUNDING)
        query = (
            select(outcomes.c.position)
            .where(outcomes.c.run_id == run_id, outcomes.c.trials > 0, near)
            .limit(1)
        )
        return self._connection.execute(query).first() is not None

    def append(self, run_id: int, head: int, records: Sequence[OutcomeRecord]) -> int:
        """Append records after position ``head``; the run must be locked. Answers the new head."""
        now = utc_seconds()
        rows = [
            (
                run_id,
                head + index,
                record.draw,
                record.row,
                record.rollout,
                record.successes,
                record.trials,
                record.reward,
                record.status,
                record.policy_version,
                now,
                record.part,
            )
            for index, record in enumerate(records, start=1)
        ]

        if rows and self._connection.dialect.name == "postgresql":
            columns = tuple(list(column) for column in zip(*rows, strict=True))
            self._connection.exec_driver_sql(_INSERT_POSTGRESQL, columns)
        elif rows:
            self._connection.exec_driver_sql(_INSERT_SQLITE, rows)

        return head + len(rows)

    def after(self, run_id: int, position: int, until: int | None = None) -> LogSlice:
        """Everything after a position, up to and including ``until`` if it is given."""
        names = (
            "draw",
            "row",
            "rollout",
            "successes",
            "trials",
            "status",
            "policy_version",
            "part",
        )
        query = (
            select(outcomes.c.position, *(outcomes.c[name] for name in names))
            .where(outcomes.c.run_id == run_id, outcomes.c.position > position)
            .order_by(outcomes.c.position)
        )
        if until is not None:
            query = query.where(outcomes.c.position <= until)

        rows = self._connection.execute(query).all()
        if not rows:
            empty = np.zeros(0, np.int64)
            return LogSlice(
                position, empty, empty, empty, np.zeros(0), np.zeros(0), empty, empty, empty
            )

        columns = list(zip(*rows, strict=True))

        def integers(
            values: Sequence[int | None],
        ) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
            return np.fromiter(
                (-1 if value is None else value for value in values), np.int64, len(values)
            )

        return LogSlice(
            head=int(columns[0][-1]),
            draw=integers(columns[1]),
            row=integers(columns[2]),
            rollout=integers(columns[3]),
            successes=np.array(columns[4], np.float64),
            trials=np.array(columns[5], np.float64),
            status=integers(columns[6]),
            policy_version=integers(columns[7]),
            part=integers(columns[8]),
        )

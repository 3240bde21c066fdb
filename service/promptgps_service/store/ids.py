"""Ids of runs and pools.

What was deleted is known by its id elsewhere, so none ever comes again.
"""

from __future__ import annotations

from sqlalchemy import Connection, Table, func, select, text

from promptgps_service.store.events import Events

LEAP = 100_000  # an id that is asked for may be so far ahead of the others


def fresh_id(connection: Connection, table: Table, deletion: str) -> dict[str, int]:
    """The column `id` of a new row, where the database's own choice might be an id used before.

    PostgreSQL counts on whatever is deleted. SQLite takes one more than the highest there is.
    """
    if connection.dialect.name == "postgresql":
        return {}
    return {"id": _highest(connection, table, deletion) + 1}


def claimed_id(connection: Connection, table: Table, deletion: str, wanted: int) -> dict[str, int]:
    """The column `id` of a row that was elsewhere.

    The same, unless it is taken, was deleted, or leaps ahead.
    """
    taken = connection.execute(select(table.c.id).where(table.c.id == wanted)).first() is not None
    if taken or Events(connection).was_deleted(deletion, wanted):
        return fresh_id(connection, table, deletion)
    if connection.dialect.name == "postgresql":
        return {"id": wanted} if _count_up(connection, table, wanted) else {}
    if wanted > _highest(connection, table, deletion) + LEAP:
        return fresh_id(connection, table, deletion)

    return {"id": wanted}


def _highest(connection: Connection, table: Table, deletion: str) -> int:
    there = int(connection.execute(select(func.max(table.c.id))).scalar_one() or 0)
    return max(there, Events(connection).highest_deleted(deletion))


def _count_up(connection: Connection, table: Table, wanted: int) -> bool:
    """Bring PostgreSQL's sequence past an id; false where that is too far.

    Setting it could set it back, under the feet of another process that has just counted on.
    """
    sequence = {"sequence": f"{table.name}_id_seq"}
    now = int(connection.execute(text("SELECT nextval(:sequence)"), sequence).scalar_one())
    if now >= wanted:
        return True
    if wanted - now > LEAP:
        return False

    counting = text("SELECT max(nextval(:sequence)) FROM generate_series(1, :steps)")
    connection.execute(counting, {**sequence, "steps": wanted - now})
    return True

"""Rows that are known by a name.

Two processes may make the same one at the same time, and one of them wins.
"""

from __future__ import annotations

from sqlalchemy import Connection, Insert
from sqlalchemy.exc import IntegrityError


def insert_named(connection: Connection, statement: Insert) -> bool:
    """Insert a row; false where its name is taken. The transaction goes on in either case."""
    try:
        with connection.begin_nested():
            connection.execute(statement)
    except IntegrityError:
        return False

    return True

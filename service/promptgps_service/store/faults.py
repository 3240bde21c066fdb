"""Which errors are faults of the database, and how a caller is told.

None of them shows a statement or a path.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DatabaseError, DBAPIError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from promptgps_service.errors import Unavailable

_BY_CODE = {
    "SQLITE_FULL": "the database has no room left on its disk",
    "53100": "the database has no room left on its disk",  # disk_full
    "SQLITE_NOTADB": "the file is not a database",
    "SQLITE_CORRUPT": "the database file is damaged",
    "XX001": "the database is damaged",  # data_corrupted
    "42P01": "the database has not been migrated",  # undefined_table
    "42703": "the database has not been migrated",  # undefined_column
    "25006": "the database takes no writes: it is read-only",  # read_only_sql_transaction
}
_READ_ONLY = "the database takes no writes: its file is read-only"


def fault_of(error: DBAPIError) -> str | None:
    """What is wrong with the database.

    None where nothing is and the error is ours (a statement, a constraint).
    """
    code = str(
        getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorname", None)
    )
    if code in _BY_CODE:
        return _BY_CODE[code]
    if code.startswith("SQLITE_READONLY"):
        return _READ_ONLY
    # SQLite tells damage by the root of its errors; PostgreSQL a standby or a failing disk by
    # InternalError
    if isinstance(error, OperationalError | InternalError) or type(error) is DatabaseError:
        return "the database does not answer"

    return None


@contextmanager
def unavailable() -> Iterator[None]:
    """Turn faults of the database into `Unavailable`.

    Raises:
        Unavailable: it does not answer, is full or damaged, or every connection is in use.
    """
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable(
            "every connection to the database is in use; nothing was stored, try again"
        ) from error
    except DBAPIError as error:
        if error.connection_invalidated:  # perhaps while it committed, and then nobody knows
            detail = (
                "the connection to the database was lost; "
                "if anything was stored, then all of it: try again"
            )
            raise Unavailable(detail) from error
        fault = fault_of(error)
        if fault is None:
            raise
        raise Unavailable(f"{fault}; nothing was stored, try again") from error

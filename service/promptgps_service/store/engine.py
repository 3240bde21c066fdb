"""URL to engine.

Everything in which SQLite and PostgreSQL differ at connection time stands here.
"""

from __future__ import annotations

import sqlite3
from functools import partial
from typing import Any

import psycopg
import stamina
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url

from promptgps_service.errors import Invalid
from promptgps_service.store.presence import PostgresqlPresence, SqlitePresence

# Request threads, what learns and imports; a smaller pool would make threads queue where nobody
# sees it.
CONNECTIONS = 48
BUSY_TIMEOUT_MS = 30_000
# A database machine that vanishes says nothing: its silence must not keep a request, and the run it
# has locked, for the quarter of an hour that the kernel would wait.
_POSTGRESQL = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "client_encoding": "utf8",
}
# A process that is stopped in the middle of a unit of work says nothing either; here the database
# gives up on it.
IDLE_TIMEOUT_MS = 20_000
_PRESENCE = "promptgps_presence"


def parse_url(url: str) -> URL:
    """Check a database URL.

    Raises:
        Invalid: neither a SQLite file nor PostgreSQL.
    """
    try:
        parsed = make_url(url)
    except Exception as error:
        raise Invalid.at("database_url", "is not a database URL") from error

    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise Invalid.at(
                "database_url", "SQLite needs a file: what is acknowledged has to be durable"
            )
        return parsed

    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")

    raise Invalid.at(
        "database_url", f"{backend} is not supported; use sqlite:///FILE or postgresql://…"
    )


def make_engine(url: str) -> Engine:
    """Engine for a URL, with durable commits and explicit transactions on both databases."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = create_engine(
            parsed,
            pool_size=CONNECTIONS,
            max_overflow=0,
            connect_args={"timeout": BUSY_TIMEOUT_MS / 1000},
        )
        presence = SqlitePresence()
        event.listen(engine, "do_connect", partial(_before_sqlite, presence))
        event.listen(engine, "connect", partial(_prepare_sqlite, presence))
        event.listen(engine, "close", lambda *_: presence.closed())
        event.listen(engine, "begin", partial(_begin_sqlite, presence))

        return engine

    engine = create_engine(
        parsed,
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_pre_ping=True,  # the database may have been restarted since the last use
        # row locks of the runs serialise writers; readers see what is committed
        isolation_level="READ COMMITTED",
        connect_args=_POSTGRESQL,
    )
    event.listen(engine, "connect", partial(_prepare_postgresql, PostgresqlPresence()))

    return engine


def check_presence(connection: Connection) -> None:
    """Check that what a connection has written is where the next process will read.

    Raises:
        Unavailable: the SQLite file was deleted, moved or replaced.
    """
    presence = connection.info.get(_PRESENCE)
    if presence is not None:
        presence.check()


def _prepare_postgresql(
    presence: PostgresqlPresence, connection: psycopg.Connection[Any], _record: Any
) -> None:
    try:
        connection.execute(f"SET idle_in_transaction_session_timeout = {IDLE_TIMEOUT_MS}")
        found = connection.execute("SELECT oid FROM pg_database WHERE datname = current_database()")
        row = found.fetchone()
        connection.commit()
        assert row is not None  # we are in it
        presence.connected(row[0])
    except BaseException:
        connection.close()
        raise


def _before_sqlite(
    presence: SqlitePresence, _dialect: Any, _record: Any, _arguments: Any, _options: Any
) -> None:
    """Keep SQLite from making new files where those of the other connections were."""
    presence.check()


def _prepare_sqlite(presence: SqlitePresence, connection: sqlite3.Connection, record: Any) -> None:
    # we say BEGIN ourselves: the driver would begin too late and never IMMEDIATE
    connection.isolation_level = None

    try:
        cursor = connection.cursor()
        _write_ahead(cursor)

        for pragma in (
            "synchronous = FULL",  # acknowledged means on disk, also when the power fails
            "foreign_keys = ON",
            f"busy_timeout = {BUSY_TIMEOUT_MS}",
            "cache_size = -65536",
            "temp_store = MEMORY",
        ):
            cursor.execute(f"PRAGMA {pragma}")

        cursor.execute("SELECT count(*) FROM sqlite_master").fetchone()  # opens the log, too
        _, _, path = cursor.execute("PRAGMA database_list").fetchone()
        presence.opened(path)
        record.info[_PRESENCE] = presence
        cursor.close()
    except BaseException:
        connection.close()
        raise


def _is_locked(error: Exception) -> bool:
    name = str(getattr(error, "sqlite_errorname", ""))
    return name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


@stamina.retry(
    on=_is_locked, attempts=None, timeout=BUSY_TIMEOUT_MS / 1000, wait_initial=0.02, wait_max=0.5
)
def _write_ahead(cursor: sqlite3.Cursor) -> None:
    """Switch a file to write-ahead logging, so that readers never wait for the writer.

    The first switch of a new file does not heed the busy timeout.
    """
    cursor.execute("PRAGMA journal_mode = WAL")


def _begin_sqlite(presence: SqlitePresence, connection: Connection) -> None:
    presence.check()
    # IMMEDIATE takes the write lock at once: a transaction that read first could not be upgraded
    # without SQLITE_BUSY.
    write = connection.get_execution_options().get("promptgps_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN DEFERRED")

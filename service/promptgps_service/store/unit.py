"""One store over one unit of work: a transaction, with a repository for each noun."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property

from sqlalchemy import Connection

from promptgps_service.errors import PromptGPSError
from promptgps_service.store.archive import Archive
from promptgps_service.store.engine import check_presence, make_engine
from promptgps_service.store.events import Events
from promptgps_service.store.faults import unavailable
from promptgps_service.store.keys import Keys
from promptgps_service.store.leases import Leases
from promptgps_service.store.log import Log
from promptgps_service.store.migrate import is_current, schema_fault
from promptgps_service.store.pools import Pools
from promptgps_service.store.removal import Removal
from promptgps_service.store.runs import Runs
from promptgps_service.store.selections import Selections
from promptgps_service.store.snapshots import Snapshots
from promptgps_service.store.subsets import Subsets
from promptgps_service.store.superseded import SupersededLog
from promptgps_service.store.versions import Versions
from promptgps_service.store.write_turn import WriteTurn
from promptgps_service.store.writing import Writing, give_room_back, take_room, write_little

_mine = threading.local()  # the stores that the thread has a connection to


def holds_connection() -> bool:
    """Whether the calling thread is inside a unit of work."""
    return bool(getattr(_mine, "stores", ()))


@contextmanager
def _only_connection(store: Store) -> Iterator[None]:
    """Let a thread have one connection at a time.

    Were each to want a second one, none would be left to go on with.
    """
    stores: set[Store] = _mine.__dict__.setdefault("stores", set())
    if store in stores:
        raise RuntimeError("this thread has a unit of work open already; pass it on")

    stores.add(store)
    try:
        yield
    finally:
        stores.remove(store)


@contextmanager
def _without_leftovers(connection: Connection) -> Iterator[None]:
    """Close the connection for good where something broke in the middle of its work.

    A result that is read half-way stays open as long as the error is looked at, past the end of the
    transaction. On SQLite it would keep the connection, back in the pool, at an old state of the
    database, where it cannot write.
    """
    try:
        yield
    except PromptGPSError:
        raise
    except BaseException:
        connection.invalidate()
        raise


class Unit:
    """Repositories over one connection; committed or rolled back as a whole by the store."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @cached_property
    def pools(self) -> Pools:
        """Pools and their prompts."""
        return Pools(self.connection)

    @cached_property
    def runs(self) -> Runs:
        """Runs, their settings and segments."""
        return Runs(self.connection)

    @cached_property
    def subsets(self) -> Subsets:
        """Subsets of runs' prompts."""
        return Subsets(self.connection)

    @cached_property
    def selections(self) -> Selections:
        """Issued selections."""
        return Selections(self.connection)

    @cached_property
    def log(self) -> Log:
        """The outcome log."""
        return Log(self.connection)

    @cached_property
    def keys(self) -> Keys:
        """API keys."""
        return Keys(self.connection)

    @cached_property
    def versions(self) -> Versions:
        """Model versions and the metrics of the steps that led to them."""
        return Versions(self.connection)

    @cached_property
    def leases(self) -> Leases:
        """Workers and the runs that they hold."""
        return Leases(self.connection)

    @cached_property
    def snapshots(self) -> Snapshots:
        """Snapshots and restores."""
        return Snapshots(self.connection)

    @cached_property
    def superseded(self) -> SupersededLog:
        """What a restore has superseded."""
        return SupersededLog(self.connection)

    @cached_property
    def events(self) -> Events:
        """What was done, by whom and when."""
        return Events(self.connection)

    @cached_property
    def removal(self) -> Removal:
        """Rows of what was deleted."""
        return Removal(self.connection)

    @cached_property
    def archive(self) -> Archive:
        """Whole rows, to be carried to another database."""
        return Archive(self.connection)


class Store:
    """The database: durable once ``write`` has left its block without an error."""

    def __init__(self, url: str) -> None:
        self.engine = make_engine(url)
        self._turn: AbstractContextManager[None] = nullcontext()
        self._reader = self.engine
        self.writing = Writing()

        if self.engine.dialect.name == "postgresql":  # SQLite reads from one snapshot anyway
            self._reader = self.engine.execution_options(isolation_level="REPEATABLE READ")
        else:
            self._turn = WriteTurn()

    @contextmanager
    def read(self) -> Iterator[Unit]:
        """A read-only unit of work; all its queries see one state of the database.

        Raises:
            Unavailable: the database does not answer.
        """
        with (
            _only_connection(self),
            unavailable(),
            self._reader.connect() as connection,
            connection.begin(),
            _without_leftovers(connection),
        ):
            yield Unit(connection)

    @contextmanager
    def write(self) -> Iterator[Unit]:
        """A unit of work that commits at the end of the block, or leaves no trace if it raises.

        Raises:
            Unavailable: the database does not answer, is full, or stayed locked; nothing of the
                block is stored.
        """
        with _only_connection(self), self.writing.watched(), self._write() as connection:
            yield Unit(connection)

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with self._turn, unavailable(), self.engine.connect() as connection:
            connection = connection.execution_options(promptgps_write=True)
            with connection.begin(), _without_leftovers(connection):
                yield connection
            # what went into a file that nobody finds again is not stored
            check_presence(connection)

    def probe_writes(self) -> None:
        """Make sure that the database takes writes; costs a look while the last writes say so.

        Raises:
            Unavailable: it takes none.
        """
        with self.read():
            pass  # it is there, and it is the one that it was

        if not self.writing.needs_probe:
            return

        with self.writing.watched(settles=True):
            if self.writing.trouble is None:
                with self._write() as connection:
                    write_little(connection)
            else:
                with self._write() as connection:
                    take_room(connection)
                with self._write() as connection:
                    give_room_back(connection)

    def is_current(self) -> bool:
        """Whether the schema is the newest.

        Raises:
            Unavailable: no answer.
        """
        with self.read() as unit:
            return is_current(unit.connection)

    def schema_fault(self) -> str | None:
        """Why this code cannot work with the database's schema; None where it can.

        Raises:
            Unavailable: no answer.
        """
        with self.read() as unit:
            return schema_fault(unit.connection)

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

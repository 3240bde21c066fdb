"""Whether a connection still writes where the next process will read.

SQLite goes on writing into a file that was deleted, moved away or replaced, and nobody finds again
what it puts there: such a write must not be acknowledged. A PostgreSQL database that was dropped
and made anew under its name is another database, too.
"""

from __future__ import annotations

import os
import threading

from promptgps_service.errors import Unavailable

Identity = tuple[int, int]  # device and number of a file

_SIDES = ("-wal", "-shm")  # the log of committed writes, and the index of it that processes share


class SqlitePresence:
    """The database file of one engine: the one that its first connection has opened.

    The log and its index come and go with the connections, so they are known for as long as any is
    open. Looking at the files costs a few microseconds, so that every unit of work can do so.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._main: dict[str, Identity] = {}
        self._sides: dict[str, Identity] = {}
        self._connections = 0

    def check(self) -> None:
        """Check the files.

        Raises:
            Unavailable: one is gone, or another one.
        """
        for files in (self._main, self._sides):
            for path, known in files.copy().items():
                _check(path, known)

    def opened(self, path: str) -> None:
        """Note a new connection, and what it has open.

        Args:
            path: the database file, as SQLite names it.

        Raises:
            Unavailable: the file is gone, or not the one of the connections before.
        """
        with self._lock:
            main = _identity(path)
            if main is None:
                raise _gone(path)

            self._main = self._main or {path: main}
            if self._connections == 0:
                found = {path + side: _identity(path + side) for side in _SIDES}
                self._sides = {name: known for name, known in found.items() if known is not None}

            self.check()
            self._connections += 1

    def closed(self) -> None:
        """Note that a connection is no more; the last one takes the log with it."""
        with self._lock:
            self._connections -= 1
            if self._connections == 0:
                self._sides = {}


class PostgresqlPresence:
    """The database of one engine: the one that its first connection has found."""

    def __init__(self) -> None:
        self._known: int | None = None

    def connected(self, found: int) -> None:
        """Compare the number of the database that a new connection has found.

        Raises:
            Unavailable: it is another one.
        """
        if self._known is None:
            self._known = found

        if found != self._known:
            raise Unavailable(
                "another database is there under the name of the one that this process began with; "
                "nothing was stored; start the service again to go on with it"
            )


def _check(path: str, known: Identity) -> None:
    found = _identity(path)
    if found is None:
        raise _gone(path)

    if found != known:
        raise Unavailable(
            f"{_what(path)} was replaced under the running service; nothing was stored that would "
            "last; start the service again to go on with the file that is there now"
        )


def _gone(path: str) -> Unavailable:
    return Unavailable(
        f"{_what(path)} is gone; nothing was stored that would last; put it back, or start the "
        "service again to begin with an empty one"
    )


def _what(path: str) -> str:
    """The file in words, which never show where it lies: strangers read them."""
    return "the log beside the database file" if path.endswith(_SIDES) else "the database file"


def _identity(path: str) -> Identity | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino

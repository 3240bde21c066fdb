"""Whether the database takes writes: what the last came to, and a small one where none were."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, delete, insert
from sqlalchemy.exc import TimeoutError as PoolTimeout

from promptgps_service.errors import Unavailable
from promptgps_service.store.tables import write_probes

QUIET_SECONDS = 10.0  # so long a write speaks for the next ones; a probe each time wears no disk
ROOM = 256 * 1024  # bytes that have to find room before writes that have failed are trusted again


class Writing:
    """What is known of a database's writes; kept by the store, asked by readiness."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done = -QUIET_SECONDS
        self._trouble: str | None = None

    @property
    def trouble(self) -> str | None:
        """Why the database takes no writes; None where it takes them, as far as is known."""
        return self._trouble

    @property
    def needs_probe(self) -> bool:
        """Whether only another write can tell how things are."""
        return self._trouble is not None or time.monotonic() - self._done >= QUIET_SECONDS

    @contextmanager
    def watched(self, *, settles: bool = False) -> Iterator[None]:
        """Note what becomes of a write.

        Args:
            settles: whether its success ends the trouble. A small write may still fit where
                others do not, so that only the probe settles it.

        Raises:
            Unavailable: what the block raises.
        """
        try:
            yield
        except Unavailable as error:
            if not isinstance(error.__cause__, PoolTimeout):  # that says nothing of the database
                self._note(error.detail)
            raise
        else:
            self._note(None, settles=settles)

    def _note(self, trouble: str | None, *, settles: bool = False) -> None:
        with self._lock:
            if trouble is not None:
                self._trouble = trouble
                return
            self._done = time.monotonic()
            if settles:
                self._trouble = None


def write_little(connection: Connection) -> None:
    """Write and take away a row: a commit on the disk, of which nothing is left."""
    made = insert(write_probes).values(room=b"").returning(write_probes.c.id)
    own = connection.execute(made).scalar_one()
    connection.execute(delete(write_probes).where(write_probes.c.id == own))


def take_room(connection: Connection) -> None:
    """Write as much as proves that there is room, to be given back by `give_room_back`.

    Raises:
        Unavailable: there is none on the disk, though the file itself may have pages left.
    """
    connection.execute(insert(write_probes).values(room=os.urandom(ROOM)))
    free = _free_bytes(connection.engine)
    if free is not None and free < ROOM:
        raise Unavailable("the database has no room left on its disk")


def give_room_back(connection: Connection) -> None:
    """Take away what was written to prove that there is room, also by a process that died of it."""
    connection.execute(delete(write_probes))


def _free_bytes(engine: Engine) -> int | None:
    """Room on the disk of a SQLite file; of PostgreSQL's nothing is known."""
    path = engine.url.database
    if engine.dialect.name != "sqlite" or path is None or not hasattr(os, "statvfs"):
        return None

    try:
        disk = os.statvfs(path)
    except OSError:
        return None

    return disk.f_bavail * disk.f_frsize

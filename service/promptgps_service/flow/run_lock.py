"""The lock of a run, and the one order in which it may be taken.

The run comes first, then a connection to the database. Requests of many ranks meet at the same run.
Were one of them to hold a connection while it waits for the run, and another the run while it waits
for a connection, both would stand still until one of them gives up.
"""

from __future__ import annotations

import threading
from types import TracebackType

from promptgps_service.store.unit import holds_connection


class RunLock:
    """A lock that its thread may take again, and that refuses to be taken in the wrong order."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._owner = 0

    def __enter__(self) -> None:
        if not self.held and holds_connection():
            raise RuntimeError(
                "a run's lock is taken before a connection to the database, not after"
            )

        self._lock.acquire()
        self._depth += 1
        self._owner = threading.get_ident()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._depth -= 1
        self._lock.release()

    @property
    def held(self) -> bool:
        """Whether the calling thread has it."""
        return self._depth > 0 and self._owner == threading.get_ident()

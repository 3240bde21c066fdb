"""Turns at a SQLite file, which takes one writer at a time.

SQLite itself lets a writer that finds another one at work sleep and try again, longer each time, in
no order: beside a crowd somebody is always too late. The threads of one process wait here instead,
first come, first served.
"""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType


class WriteTurn:
    """A lock whose waiters get it in the order in which they came."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._taken = False

    def __enter__(self) -> None:
        with self._changing:
            if not self._taken:
                self._taken = True
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)

        turn.acquire()  # released by whoever is before this one

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changing:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False

"""A lock for each of many keys."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from weakref import WeakValueDictionary


class KeyedLocks:
    """Locks by key, each there as long as somebody holds it or waits for it.

    Keys that are asked once cost nothing.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: WeakValueDictionary[Hashable, threading.Lock] = WeakValueDictionary()

    def __getitem__(self, key: Hashable) -> threading.Lock:
        """The lock of that key; ``with`` keeps it as long as its block lasts."""
        with self._guard:
            return self._locks.setdefault(key, threading.Lock())

    def __len__(self) -> int:
        """Keys whose lock somebody holds or waits for."""
        return len(self._locks)

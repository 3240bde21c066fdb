"""How long something has stood still, by this process's own monotonic clock.

No two clocks are ever compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable


class Stillness:
    """Remembers since when each key has had its value."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._seen: dict[Hashable, tuple[object, float]] = {}

    def seconds(self, key: Hashable, value: object) -> float:
        """For how long the key has been seen with this value; 0 at first and when it changes."""
        now = self._now()
        known = self._seen.get(key)
        if known is None or known[0] != value:
            self._seen[key] = known = (value, now)
        return now - known[1]

    def keep(self, keys: Collection[Hashable]) -> None:
        """Forget all other keys."""
        self._seen = {key: seen for key, seen in self._seen.items() if key in keys}

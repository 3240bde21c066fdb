"""Who holds something and has died: told by his beats, and by a clock of our own that nobody sets back."""

from __future__ import annotations

import time
from collections.abc import Hashable


class Watch:
    """What one process has seen of others' beats. Clocks of two machines, or of one that is set, are never compared."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, tuple[Hashable, float]] = {}

    def silent(self, what: Hashable, beat: Hashable, seconds: float) -> bool:
        """Whether a beat has been the last one for so long, counted from when this process first saw it."""
        now = time.monotonic()
        last, since = self._seen.get(what, (None, now))
        if last != beat:
            self._seen[what] = (beat, now)
            return False
        return now - since >= seconds

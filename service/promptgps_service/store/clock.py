"""The wall clock, for stamps that people read and for the term of a key.

Nothing else is decided by it.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime


def utc_now() -> str:
    """Now, ISO 8601 to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def utc_seconds() -> float:
    """Now, in seconds since the epoch."""
    return time.time()

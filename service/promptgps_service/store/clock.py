"""Time as it is stored: aware UTC. Clocks jump, so it decides nothing but when an API key expires."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def utc_now(*, ahead: timedelta = timedelta()) -> str:
    """Now, or so much later, in ISO 8601 to the millisecond; its order is that of time."""
    return (datetime.now(UTC) + ahead).isoformat(timespec="milliseconds")

"""Whether this process can serve, part by part.

Each part is judged by what it is meant to do: a thread by its own period, so that no setting of
polling or leases makes a healthy one look late or a dead one look well; the database by a question
now, and by what its last writes came to.

| part | not ok where |
| --- | --- |
| `database` | it does not answer, is gone, or takes no writes |
| `migrations` | its schema is older or newer than this code |
| `device` | the thread that learns and scores has stopped |
| `runs` | the runs have not all been read since the start |
| `follow` | nothing was heard from other processes for too long |
| `leases` | this process could not show that it lives |
| `keys` | API keys could not be read for too long |
| `writes` | the thread that tries writes has stopped |
"""

from __future__ import annotations

from collections.abc import Mapping

from promptgps_service.errors import Unavailable
from promptgps_service.flow.device_queue import DeviceQueue
from promptgps_service.flow.ticker import Ticker
from promptgps_service.store.unit import Store

# So long beyond its period without a sign of life, or with one job, and a load balancer should ask
# another process.
SILENCE_SECONDS = 15.0
WRITES = "writes"
OK = "ok"


def check(
    store: Store, queue: DeviceQueue, tickers: Mapping[str, Ticker], *, runs_are_read: bool
) -> dict[str, str]:
    """Readiness part by part: `ok`, or what is wrong."""
    checks = {
        "device": OK if queue.alive else "the thread that learns and scores has stopped",
        "runs": OK if runs_are_read else "runs are being read",
    }
    for name, ticker in tickers.items():
        if name != WRITES:
            checks[name] = check_ticker(ticker)

    checks.update(_check_database(store))
    writes = tickers.get(WRITES)
    if writes is not None:
        checks[WRITES] = OK if writes.alive else "has stopped"
        if checks["database"] == OK and writes.busy >= SILENCE_SECONDS:
            checks["database"] = f"takes no writes: no answer for {writes.busy:.0f} s"

    return checks


def check_ticker(ticker: Ticker) -> str:
    """Whether a thread does its work in time: `ok`, or what is wrong."""
    if not ticker.alive:
        return "has stopped"
    if ticker.busy >= SILENCE_SECONDS:
        return f"has been at one job for {ticker.busy:.0f} s"
    if ticker.silence >= ticker.seconds + SILENCE_SECONDS:
        why = f": {ticker.trouble}" if ticker.trouble is not None else ""
        return f"not done for {ticker.silence:.0f} s{why}"

    return OK


def _check_database(store: Store) -> dict[str, str]:
    try:
        schema = store.schema_fault()
    except Unavailable as error:
        return {"database": error.detail}

    trouble = store.writing.trouble
    return {
        "database": OK if trouble is None else f"takes no writes: {trouble}",
        "migrations": schema or OK,
    }

"""Takes away what was deleted, slice by slice, while everybody else goes on.

What is deleted is out of sight at once; its rows go afterwards. Should the process be killed in
between, the next one that starts or deletes something goes on where it stopped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from promptgps_service.errors import Unavailable
from promptgps_service.store.unit import Store

_log = structlog.get_logger(__name__)
SLICE_SECONDS = 0.02  # a slice is to take about so long
LEAST_PAUSE = 0.002  # between two, so that those who wait for the database come in between
SMALLEST_SCALE = 1.0
LARGEST_SCALE = 64.0
RETRY_SECONDS = 1.0


def sweep(store: Store, rest: Callable[[float], bool]) -> None:
    """Take away everything that is deleted.

    Args:
        store: the database.
        rest: waits so many seconds, and says whether to go on.

    Raises:
        Unavailable: the database does not answer; what is left is taken away another time.
    """
    with store.write() as unit:
        unit.removal.abandon_dead_imports()
    for kind in ("runs", "pools"):  # in this order: rows of runs refer to pools
        with store.read() as unit:
            waiting = unit.removal.waiting(kind)
        for owner in waiting:
            if not _take_away(store, kind, owner, rest):
                return


def _take_away(store: Store, kind: str, owner: int, rest: Callable[[float], bool]) -> bool:
    scale = 1.0
    more = True
    while more:
        with store.write() as unit:
            started = time.monotonic()  # not the wait for the database: it is what others want, too
            more = unit.removal.slice(kind, owner, scale)
        took = time.monotonic() - started
        if took > SLICE_SECONDS:
            scale = max(scale / 2, SMALLEST_SCALE)
        elif took < SLICE_SECONDS / 2:
            scale = min(scale * 2, LARGEST_SCALE)
        if not rest(max(took, LEAST_PAUSE)):
            return False

    return True


class Sweeper:
    """One thread that sweeps whenever something was deleted."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changed = threading.Condition()
        self._wanted = False
        self._stopping = False
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Something was deleted, or may have been left half deleted."""
        with self._changed:
            self._wanted = True
            if self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._work, name="sweeper", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self) -> None:
        """Finish the slice at hand and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _rest(self, seconds: float) -> bool:
        with self._changed:
            return not self._changed.wait_for(lambda: self._stopping, seconds)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._stopping)
                if self._stopping:
                    return
                self._wanted = False

            try:
                sweep(self._store, self._rest)
            except Unavailable as error:
                _log.warning("what was deleted is taken away later", cause=error.detail)
                if self._rest(RETRY_SECONDS):
                    self.wake()
            except Exception:  # noqa: BLE001  what is out of sight may wait; the service goes on
                _log.exception("what was deleted cannot be taken away")

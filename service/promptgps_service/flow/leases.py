"""The runs that this process may learn: one process a run, for as long as it shows signs of life.

A worker counts a beat up in the database. Whoever has seen the same beat for the length of a lease,
by its own monotonic clock, takes the worker for dead and frees its runs. Being taken for dead by
mistake (a process that was stopped for a while) does no harm: publishing asks in its own
transaction who holds the lease.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable

import structlog

from promptgps_service.errors import Unavailable
from promptgps_service.flow.stillness import Stillness
from promptgps_service.store.unit import Store

_log = structlog.get_logger(__name__)
LEASE_SECONDS = 10.0
BEATS = 4  # signs of life in the length of a lease


class Leases:
    """This process as a worker. It becomes one when it first finds something to learn."""

    def __init__(
        self, store: Store, seconds: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.pause = seconds / BEATS
        self._store = store
        self._seconds = seconds
        self._now = now
        self._still = Stillness(now)
        self._looked = now()
        self._lock = threading.Lock()
        self._worker: str | None = None
        self._held: set[int] = set()

    @property
    def worker(self) -> str | None:
        """What this process is called among the workers; None while it is none."""
        return self._worker

    def holds(self, run_id: int) -> bool:
        """Whether this process holds a run, as far as it knows."""
        return run_id in self._held

    def hold(self, run_id: int) -> bool:
        """Take a run, unless another worker holds it; answers whether this process may learn it.

        Raises:
            Unavailable: the database does not answer.
        """
        with self._lock:
            if run_id in self._held:
                return True

            worker = self._join()
            with self._store.read() as unit:
                free = unit.leases.holder(run_id) in (None, worker)

            if free:
                with self._store.write() as unit:
                    free = unit.leases.take(run_id, worker)

            if free:
                self._held.add(run_id)

            return free

    def join(self) -> str:
        """Become a worker, which looks after the others; answers what it is called.

        Raises:
            Unavailable: the database does not answer.
        """
        with self._lock:
            return self._join()

    def _join(self) -> str:
        if self._worker is None:
            worker = f"{socket.gethostname()[:40]}-{secrets.token_hex(8)}"
            with self._store.write() as unit:
                unit.leases.join(worker)
            self._worker = worker
        return self._worker

    def forget(self, run_id: int) -> None:
        """Ask the database again before the next learning of a run."""
        with self._lock:
            self._held.discard(run_id)

    def beat(self) -> None:
        """Show a sign of life, and free what workers hold that show none.

        Raises:
            Unavailable: the database does not answer.
        """
        with self._lock:
            if self._worker is None:
                return
            # It was this process that stood still, or the database.
            if self._now() - self._looked > self._seconds:
                self._still.keep(())

            with self._store.write() as unit:
                alive = unit.leases.beat(self._worker)
                beats = unit.leases.beats()
                for worker, beat in beats.items():
                    still = (
                        worker != self._worker
                        and self._still.seconds(worker, beat) >= self._seconds
                    )
                    if still and unit.leases.bury(worker, beat):
                        _log.warning(
                            "a worker shows no sign of life; its runs are free", worker=worker
                        )

            self._still.keep(beats)
            self._looked = self._now()

            if not alive:
                _log.warning(
                    "taken for dead by another worker; every run is asked for anew",
                    worker=self._worker,
                )
                self._worker = None
                self._held.clear()

    def leave(self) -> None:
        """Give every run back, so that another worker need not wait."""
        with self._lock:
            worker = self._worker
            self._worker = None
            self._held.clear()

        if worker is not None:
            try:
                with self._store.write() as unit:
                    unit.leases.leave(worker)
            except Unavailable:
                _log.warning(
                    "leases run out by themselves: the database does not answer", worker=worker
                )

"""One worker thread a device: all training and scoring queues here, bounded, so that requests never pile up unseen."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, TypeVar

import structlog

from promptgps_service.errors import Busy

T = TypeVar("T")
_log = structlog.get_logger(__name__)
CALL_SECONDS = 30.0  # a lane that cannot publish (the database's disk is full) must not take every request's thread


class Lane:
    """A queue of jobs and the thread that does them, in the order in which they fall due."""

    def __init__(self, name: str, depth: int) -> None:
        self.name = name
        self._depth = depth
        self._due: list[tuple[float, int, Callable[[], None], Future[Any] | None]] = []
        self._waiting: dict[Hashable, float] = {}
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name=f"lane-{name}", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """Jobs waiting."""
        return len(self._due)

    @property
    def alive(self) -> bool:
        """Whether the thread still works."""
        return self._thread.is_alive()

    def rest(self, seconds: float) -> bool:
        """Called by a job: wait, and say whether the lane still works; false means give up."""
        with self._changed:
            return not self._changed.wait_for(lambda: self._stopping, seconds)

    def submit(self, key: Hashable, job: Callable[[], None], delay: float = 0.0) -> None:
        """Do a job once ``delay`` seconds have passed; one that waits under the same key already stands for both.

        A job may be asked for while its predecessor runs; then it runs again. An error is logged and does not stop
        the lane: the job's owner decides what a failure means before it gets here.
        """
        due = time.monotonic() + delay
        with self._changed:
            if self._waiting.get(key, float("inf")) <= due:
                return
            self._waiting[key] = due
            self._push(due, lambda: self._keyed(key, due, job))

    def call(self, job: Callable[[], T]) -> T:
        """Do a job on the lane and wait for its answer.

        Raises:
            Busy: as many jobs wait as the lane allows, or it did not get to this one in time.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._stopping or len(self._due) >= self._depth:
                raise Busy(f"the {self.name} lane is full", retry_after=1.0)
            self._push(time.monotonic(), lambda: _resolve(future, job), future)
        try:
            return future.result(CALL_SECONDS)
        except TimeoutError:
            if not future.cancel():  # it is being done, or it was the job itself that ran out of time
                return future.result()
            raise Busy(f"the {self.name} lane is held up", retry_after=5.0) from None

    def stop(self) -> None:
        """Finish the job at hand, drop the rest (the log has it all) and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    def _push(self, due: float, run: Callable[[], None], future: Future[Any] | None = None) -> None:
        heapq.heappush(self._due, (due, next(self._order), run, future))
        self._changed.notify_all()

    def _keyed(self, key: Hashable, due: float, job: Callable[[], None]) -> None:
        with self._changed:
            if self._waiting.get(key) != due:
                return  # an earlier appointment under the same key has done it
            del self._waiting[key]
        job()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._stopping:
                if not self._due:
                    self._changed.wait()
                elif (delay := self._due[0][0] - time.monotonic()) > 0:
                    self._changed.wait(delay)
                else:
                    return heapq.heappop(self._due)[2]
            return None

    def _work(self) -> None:
        while (run := self._next()) is not None:
            try:
                run()
            except Exception:  # noqa: BLE001  the lane outlives any job; the traceback goes to the log
                _log.exception("lane job failed", lane=self.name)
        for _, _, _, future in self._due:
            if future is not None and future.set_running_or_notify_cancel():
                future.set_exception(Busy(f"the {self.name} lane is stopping", retry_after=5.0))


def _resolve(future: Future[Any], job: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return  # nobody waits for it any more
    try:
        future.set_result(job())
    except BaseException as error:  # noqa: BLE001  the caller gets it
        future.set_exception(error)

"""One thread a device: training and scoring take turns here.

No run waits for the whole of another's work. Who has work to do is an *owner* (a run). The work of
one owner is done in order, one job at a time. Between owners the device's time is shared fairly:
whoever has had least of it goes next, for one turn. A job that takes long says where it may be
interrupted: it is a generator, which yields there.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import structlog

from promptgps_service.errors import Busy

T = TypeVar("T")
# A job that yields may be interrupted there: for a turn of others (None), for so many seconds, or
# until something that is done aside (reading the database, say) has come.
Steps: TypeAlias = Generator[float | Future[Any] | None, None, T]

_log = structlog.get_logger(__name__)

TURN_SECONDS = 0.1  # after which a job that yields makes way for other owners
CALL_SECONDS = 30.0  # a device that is held up must not take every request's thread
ASIDE_THREADS = 4
CALLERS = 32  # each holds a thread of the server, of which some must be left for others


@dataclass(eq=False)
class _Job:
    """One job, waiting or interrupted."""

    begin: Callable[[], Steps[Any]]
    key: Hashable | None = None
    answer: Future[Any] | None = None
    steps: Steps[Any] | None = None
    dropped: bool = False


@dataclass(eq=False)
class _Owner:
    """Jobs of one owner in order; the first may be interrupted.

    Attributes:
        spent: seconds of the device that count against it.
        asleep_until: monotonic time before which its first job does not want to go on.
    """

    spent: float = 0.0
    asleep_until: float = 0.0
    jobs: deque[_Job] = field(default_factory=deque)


class DeviceQueue:
    """The jobs of all owners, and the thread that does them.

    Args:
        name: of the device, for messages.
        callers: requests that may wait for the device at a time, half of them for one owner.
    """

    def __init__(self, name: str, callers: int = CALLERS) -> None:
        self.name = name
        self._most_callers = callers
        self._callers: Counter[Hashable] = Counter()
        self._owners: dict[Hashable, _Owner] = {}
        self._appointments: dict[
            tuple[Hashable, Hashable], tuple[float, Callable[[], Steps[None]]]
        ] = {}
        self._due: list[tuple[float, int, tuple[Hashable, Hashable]]] = []
        self._order = itertools.count()
        self._at_work: _Job | None = None
        self._spent = 0.0  # of the owner that had the last turn: who comes anew begins there
        self._changed = threading.Condition()
        self._stopping = False
        self._aside = ThreadPoolExecutor(ASIDE_THREADS, "aside")
        self._thread = threading.Thread(target=self._work, name=f"device-{name}", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """Jobs that are to be done now; those with a later appointment do not count."""
        with self._changed:
            return sum(len(owner.jobs) for owner in self._owners.values())

    @property
    def alive(self) -> bool:
        """Whether the thread still works."""
        return self._thread.is_alive()

    def submit(
        self, owner: Hashable, key: Hashable, job: Callable[[], Steps[None]], delay: float = 0.0
    ) -> None:
        """Do a job, once ``delay`` seconds have passed.

        One that waits under the same key stands for both. A job may be asked for while its
        predecessor is at work; then it is done again. An error is logged and does not stop the
        queue: the job decides what a failure means before it gets here.

        Args:
            owner: whose job it is.
            key: what it is known by among the owner's jobs.
            job: a generator function that yields where it may be interrupted.
            delay: seconds.
        """
        due = time.monotonic() + delay
        with self._changed:
            known = self._appointments.get((owner, key))
            if known is not None and known[0] <= due:
                return

            if delay > 0:
                self._appoint(owner, key, job, due)
            else:
                self._appointments.pop((owner, key), None)
                self._enqueue(owner, _Job(job, key))
            self._changed.notify_all()

    def call(self, owner: Hashable, job: Callable[[], Steps[T]]) -> T:
        """Do a job and wait for its answer.

        Args:
            owner: whose job it is.
            job: a generator function that yields where it may be interrupted, and returns the
                answer.

        Raises:
            Busy: as many callers wait as may, or the device did not get to this job in time.
        """
        answer: Future[T] = Future()
        with self._changed:
            self._admit(owner)
            self._enqueue(owner, _Job(job, answer=answer))
            self._changed.notify_all()

        try:
            return answer.result(CALL_SECONDS)
        except TimeoutError:
            # It is being done, or it was the job itself that ran out of time.
            if not answer.cancel():
                return answer.result()
            raise Busy(f"the device {self.name} is held up", retry_after=5.0) from None
        finally:
            with self._changed:
                self._callers[owner] -= 1

    def aside(self, work: Callable[[], T]) -> Steps[T]:
        """Let a job wait, off the device, for work that does not need it.

        Such work is reading the database or the pools' vectors.

        Args:
            work: what is waited for; ``yield from`` this in a job gives its answer, or raises its
                error.
        """
        done = self._aside.submit(work)
        yield done
        return done.result()

    def forget(self, owner: Hashable) -> None:
        """Drop all that an owner has waiting; a job that has begun ends where it next yields."""
        with self._changed:
            for appointment in [known for known in self._appointments if known[0] == owner]:
                del self._appointments[appointment]

            found = self._owners.get(owner)
            waiting = list(found.jobs) if found is not None else []
            for job in waiting:
                job.dropped = True
                if found is not None and job.steps is None and job is not self._at_work:
                    found.jobs.remove(job)
                    _refuse(job, Busy("what this was asked of is there no more", retry_after=1.0))

    def stop(self) -> None:
        """Finish the turn at hand, drop the rest (the log has it all) and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()
        self._aside.shutdown()

    # ---- under the lock ----------------------------------------------------------------------

    def _admit(self, owner: Hashable) -> None:
        if self._stopping:
            raise Busy(f"the device {self.name} is stopping", retry_after=5.0)

        if self._callers.total() >= self._most_callers:
            detail = f"{self._most_callers} requests wait for the device {self.name} already"
            raise Busy(detail, retry_after=1.0)

        if self._callers[owner] >= max(self._most_callers // 2, 1):
            detail = f"{self._callers[owner]} requests of this run wait for the device already"
            raise Busy(detail, retry_after=1.0)

        self._callers += Counter({owner: 1})  # also drops those that are at zero

    def _appoint(
        self, owner: Hashable, key: Hashable, job: Callable[[], Steps[None]], due: float
    ) -> None:
        self._appointments[owner, key] = due, job
        heapq.heappush(self._due, (due, next(self._order), (owner, key)))

        if len(self._due) > 2 * len(self._appointments) + 64:  # most of them were overtaken
            self._due = [
                (due, next(self._order), known) for known, (due, _) in self._appointments.items()
            ]
            heapq.heapify(self._due)

    def _enqueue(self, owner: Hashable, job: _Job) -> None:
        found = self._owners.setdefault(owner, _Owner())
        if not found.jobs:
            found.spent = max(found.spent, self._spent)  # nobody saves up turns while it is idle
            found.asleep_until = 0.0

        waits = any(
            job.key is not None and other.key == job.key and other.steps is None
            for other in found.jobs
        )
        if not waits:
            found.jobs.append(job)

    def _take_up_appointments(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            due, _, (owner, key) = heapq.heappop(self._due)
            known = self._appointments.get((owner, key))
            if known is not None and known[0] == due:
                del self._appointments[owner, key]
                self._enqueue(owner, _Job(known[1], key))

    def _next(self) -> tuple[_Owner, _Job] | None:
        """The owner whose turn it is, and its job; None at the end."""
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                self._take_up_appointments(now)

                busy = [owner for owner in self._owners.values() if owner.jobs]
                awake = [owner for owner in busy if owner.asleep_until <= now]
                if awake:
                    owner = min(awake, key=lambda each: each.spent)
                    self._spent = owner.spent
                    self._at_work = owner.jobs[0]
                    return owner, owner.jobs[0]

                times = [owner.asleep_until for owner in busy] + [due for due, *_ in self._due[:1]]
                soonest = min(times, default=float("inf"))
                self._changed.wait(None if soonest == float("inf") else max(soonest - now, 0.0))

            return None

    def _settle(
        self, owner: _Owner, job: _Job, seconds: float, pause: float | Future[Any] | None
    ) -> None:
        """Charge a turn; with a ``pause`` the job goes on later, else it has ended."""
        with self._changed:
            owner.spent += seconds
            self._at_work = None

            if pause is not None and job.dropped:
                _refuse(job, Busy("what this was asked of is there no more", retry_after=1.0))
                pause = None

            if isinstance(pause, Future):
                owner.asleep_until = float("inf")
                pause.add_done_callback(lambda _: self._wake(owner))
            elif pause is not None:
                owner.asleep_until = time.monotonic() + pause
            else:
                owner.jobs.remove(job)
                self._owners = {
                    name: each
                    for name, each in self._owners.items()
                    if each.jobs or each.spent > self._spent
                }

    def _wake(self, owner: _Owner) -> None:
        with self._changed:
            owner.asleep_until = 0.0
            self._changed.notify_all()

    # ---- the thread --------------------------------------------------------------------------

    def _work(self) -> None:
        while (turn := self._next()) is not None:
            owner, job = turn
            started = time.monotonic()
            pause = self._turn(job, started + TURN_SECONDS)
            self._settle(owner, job, time.monotonic() - started, pause)

        for left in [job for each in self._owners.values() for job in each.jobs]:
            _refuse(left, Busy(f"the device {self.name} is stopping", retry_after=5.0))

    def _turn(self, job: _Job, until: float) -> float | Future[Any] | None:
        """Go on with a job; answers the pause that it wants next, None where it has ended."""
        try:
            if job.steps is None:
                if job.answer is not None and not job.answer.set_running_or_notify_cancel():
                    return None  # nobody waits for it any more
                job.steps = job.begin()

            while time.monotonic() < until:
                pause = next(job.steps)
                if pause is not None and not (isinstance(pause, Future) and pause.done()):
                    return pause
            return 0.0
        except StopIteration as end:
            if job.answer is not None:
                job.answer.set_result(end.value)
            return None
        except BaseException as error:  # noqa: BLE001  the queue outlives any job
            if job.answer is not None:
                job.answer.set_exception(error)
            else:
                _log.exception("a job on the device failed", device=self.name)
            return None


def _refuse(job: _Job, error: Exception) -> None:
    """Tell whoever waits for a job that it will not be done."""
    if job.steps is not None:
        job.steps.close()
        if job.answer is not None:
            job.answer.set_exception(error)
    elif job.answer is not None and job.answer.set_running_or_notify_cancel():
        job.answer.set_exception(error)

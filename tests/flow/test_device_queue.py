"""The device's queue: who waits gets an answer, or is told soon.

Nobody waits for all of another's work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import pytest
from promptgps_service.errors import Busy
from promptgps_service.flow import device_queue
from promptgps_service.flow.device_queue import DeviceQueue, Steps

from tests.server import wait_for

T = TypeVar("T")
PATIENCE = 30.0


def at_once(work: Callable[[], T]) -> Callable[[], Steps[T]]:
    """A job that is done in one go."""

    def job() -> Steps[T]:
        yield from ()
        return work()

    return job


@contextmanager
def opened(callers: int = 8) -> Iterator[DeviceQueue]:
    queue = DeviceQueue("test", callers)
    try:
        yield queue
    finally:
        queue.stop()


@contextmanager
def held_up(callers: int = 8) -> Iterator[tuple[DeviceQueue, threading.Event]]:
    """A queue at work on a job that lasts until the event is set."""
    begun = threading.Event()
    over = threading.Event()

    def hold() -> None:
        begun.set()
        over.wait(PATIENCE)

    with opened(callers) as queue:
        try:
            queue.submit("holder", "job", at_once(hold))
            assert begun.wait(PATIENCE)
            yield queue, over
        finally:
            over.set()


# ---- callers -------------------------------------------------------------------------------------


def test_only_so_many_callers_may_wait() -> None:
    with held_up(callers=2) as (queue, over), ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(queue.call, owner, at_once(lambda: None)) for owner in "ab"]
        wait_for(lambda: queue.depth == 3, PATIENCE, "the callers to wait")
        with pytest.raises(Busy) as refused:
            queue.call("c", at_once(lambda: None))
        assert refused.value.retry_after >= 1
        over.set()
        for caller in waiting:
            caller.result(PATIENCE)
        assert queue.call("c", at_once(lambda: "room again")) == "room again"


def test_one_owner_leaves_room_for_the_callers_of_others() -> None:
    with held_up(callers=4) as (queue, over), ThreadPoolExecutor(4) as threads:
        crowd = [threads.submit(queue.call, "crowd", at_once(lambda: None)) for _ in range(2)]
        wait_for(lambda: queue.depth == 3, PATIENCE, "the crowd to wait")
        with pytest.raises(Busy):
            queue.call("crowd", at_once(lambda: None))
        calm = threads.submit(queue.call, "calm", at_once(lambda: "let in"))
        wait_for(lambda: queue.depth == 4, PATIENCE, "the calm one to wait")
        over.set()
        assert calm.result(PATIENCE) == "let in"
        for caller in crowd:
            caller.result(PATIENCE)


def test_jobs_that_wait_for_a_later_time_take_no_callers_place() -> None:
    with opened(callers=1) as queue:
        for number in range(1_000):
            queue.submit("flood", number, at_once(lambda: None), delay=3_600.0)
            queue.submit("flood", "overtaken", at_once(lambda: None), delay=3_600.0 - number)
        assert queue.depth == 0
        assert queue.call("calm", at_once(lambda: "let in")) == "let in"
        assert len(queue._due) <= 2 * len(queue._appointments) + 64


def test_a_queue_that_is_held_up_sends_its_callers_away_and_does_not_do_their_jobs_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device_queue, "CALL_SECONDS", 0.05)
    done = []
    with held_up() as (queue, over):
        with pytest.raises(Busy) as refused:
            queue.call("a", at_once(lambda: done.append("unwanted")))
        assert refused.value.retry_after >= 1
        over.set()
        monkeypatch.setattr(device_queue, "CALL_SECONDS", PATIENCE)
        assert queue.call("a", at_once(lambda: "works")) == "works"
    assert done == []


def test_a_job_that_has_begun_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_queue, "CALL_SECONDS", 0.05)
    begun = threading.Event()
    over = threading.Event()

    def work() -> str:
        begun.set()
        over.wait(PATIENCE)
        return "done"

    with opened() as queue, ThreadPoolExecutor(1) as threads:
        answer = threads.submit(queue.call, "a", at_once(work))
        assert begun.wait(PATIENCE)
        time.sleep(0.3)
        assert not answer.done()
        over.set()
        assert answer.result(PATIENCE) == "done"


@pytest.mark.parametrize("error", [TimeoutError("of the job"), ValueError("of the job")])
def test_what_a_job_raises_is_its_callers(error: Exception) -> None:
    def work() -> None:
        raise error

    with opened() as queue:
        with pytest.raises(type(error), match="of the job"):
            queue.call("a", at_once(work))
        assert queue.alive


def test_a_queue_that_stops_leaves_nobody_waiting() -> None:
    with held_up() as (queue, over), ThreadPoolExecutor(4) as threads:
        callers = [threads.submit(queue.call, "a", at_once(lambda: None)) for _ in range(3)]
        wait_for(lambda: queue.depth == 4, PATIENCE, "the callers to wait")
        stopping = threads.submit(queue.stop)
        wait_for(lambda: queue._stopping, PATIENCE, "the queue to stop")
        over.set()
        stopping.result(PATIENCE)
        for caller in callers:
            with pytest.raises(Busy):
                caller.result(PATIENCE)


# ---- turns ---------------------------------------------------------------------------------------


def test_a_long_job_makes_way_for_others_where_it_yields() -> None:
    goes_on = threading.Event()
    order = []

    def long() -> Steps[None]:
        while not goes_on.is_set():
            time.sleep(0.01)
            yield None
        order.append("long")

    with opened() as queue:
        queue.submit("flood", "learn", long)
        for number in range(3):
            queue.call(f"calm-{number}", at_once(lambda number=number: order.append(number)))  # type: ignore[misc]
        goes_on.set()
        wait_for(lambda: "long" in order, PATIENCE, "the long job to end")
    assert order == [0, 1, 2, "long"]


def test_the_device_is_shared_by_time_and_not_by_jobs() -> None:
    """One owner's jobs are many and long, the other's few and short.

    Each gets as much as it asks for, up to half.
    """
    used = {"flood": 0.0, "calm": 0.0}
    over = threading.Event()

    def work(owner: str, seconds: float) -> Callable[[], Steps[None]]:
        def job() -> Steps[None]:
            for _ in range(3):
                started = time.monotonic()
                time.sleep(seconds)
                used[owner] += time.monotonic() - started
                yield None
            if not over.is_set():
                queue.submit(owner, f"{owner}-{time.monotonic()}", work(owner, seconds))

        return job

    with opened() as queue:
        for _ in range(8):
            queue.submit("flood", object(), work("flood", 0.03))
        queue.submit("calm", object(), work("calm", 0.005))
        wait_for(lambda: used["flood"] > 1.5, PATIENCE, "the flood to use its share")
        over.set()
    assert used["calm"] > 0.25 * used["flood"]


def test_the_jobs_of_one_owner_are_done_in_order_and_never_interleaved() -> None:
    seen = []

    def job(name: str) -> Callable[[], Steps[None]]:
        def steps() -> Steps[None]:
            for part in range(3):
                seen.append((name, part))
                yield from queue.aside(lambda: time.sleep(0.002))

        return steps

    with opened() as queue:
        for name in "abc":
            queue.submit("run", name, job(name))
        queue.call("run", at_once(lambda: None))
    assert seen == [(name, part) for name in "abc" for part in range(3)]


def test_others_go_on_while_a_job_waits_for_the_database() -> None:
    answered = threading.Event()

    def waits() -> Steps[str]:
        if not (yield from queue.aside(lambda: answered.wait(PATIENCE))):
            return "in vain"
        return "answered"

    with opened() as queue, ThreadPoolExecutor(1) as threads:
        slow = threads.submit(queue.call, "slow", waits)
        wait_for(lambda: queue.depth == 1, PATIENCE, "the slow one to wait")
        assert queue.call("other", at_once(lambda: "goes on")) == "goes on"
        answered.set()
        assert slow.result(PATIENCE) == "answered"


def test_what_breaks_aside_breaks_the_job_that_waits_for_it() -> None:
    def breaks() -> Steps[None]:
        yield from queue.aside(lambda: [][0])

    with opened() as queue:
        with pytest.raises(IndexError):
            queue.call("a", breaks)
        assert queue.call("a", at_once(lambda: "goes on")) == "goes on"


def test_a_key_stands_for_one_job_that_waits_and_an_earlier_time_overtakes() -> None:
    done = []
    with held_up() as (queue, over):
        for number in range(5):
            queue.submit("a", "learn", at_once(lambda number=number: done.append(number)))  # type: ignore[misc]
        queue.submit("a", "later", at_once(lambda: done.append("late")), delay=3_600.0)
        queue.submit("a", "later", at_once(lambda: done.append("soon")), delay=0.01)
        over.set()
        wait_for(lambda: "soon" in done, PATIENCE, "the appointment")
    assert done == [0, "soon"]


def test_what_an_owner_has_waiting_is_dropped_with_it() -> None:
    done = []
    with held_up() as (queue, over), ThreadPoolExecutor(1) as threads:
        queue.submit("gone", "now", at_once(lambda: done.append("now")))
        queue.submit("gone", "later", at_once(lambda: done.append("later")), delay=0.05)
        caller = threads.submit(queue.call, "gone", at_once(lambda: done.append("called")))
        wait_for(lambda: queue.depth == 3, PATIENCE, "its jobs to wait")
        queue.forget("gone")
        with pytest.raises(Busy):
            caller.result(PATIENCE)
        over.set()
        queue.call("other", at_once(lambda: time.sleep(0.1)))
    assert done == []

"""The lane: whoever waits for it gets his answer, or is told soon that he will get none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from promptgps_service.errors import Busy
from promptgps_service.flow import lane as lane_module
from promptgps_service.flow.lane import Lane

from tests.server import wait_for

PATIENCE = 30.0


@contextmanager
def held_up(depth: int = 8) -> Iterator[tuple[Lane, threading.Event]]:
    """A lane at work on a job that lasts until the event is set."""
    lane, begun, over = Lane("test", depth), threading.Event(), threading.Event()
    try:

        def job() -> None:
            begun.set()
            over.wait(PATIENCE)

        lane.submit("job", job)
        assert begun.wait(PATIENCE)
        yield lane, over
    finally:
        over.set()
        lane.stop()


def test_a_full_lane_takes_no_more() -> None:
    with held_up(depth=2) as (lane, over):
        callers = [threading.Thread(target=lane.call, args=(lambda: None,)) for _ in range(2)]
        for caller in callers:
            caller.start()
        wait_for(lambda: lane.depth == 2, PATIENCE, "the lane to be full")
        with pytest.raises(Busy) as refused:
            lane.call(lambda: None)
        assert refused.value.retry_after >= 1
        over.set()
        for caller in callers:
            caller.join()
        assert lane.call(lambda: "room again") == "room again"


def test_a_lane_that_is_held_up_sends_its_callers_away_and_does_not_do_their_jobs_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lane_module, "CALL_SECONDS", 0.05)
    done = []
    with held_up() as (lane, over):
        with pytest.raises(Busy) as refused:
            lane.call(lambda: done.append("unwanted"))
        assert refused.value.retry_after >= 1
        over.set()
        assert lane.call(lambda: "works") == "works"
    assert done == []


def test_a_job_that_has_begun_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "CALL_SECONDS", 0.05)
    lane, begun, over = Lane("test", 8), threading.Event(), threading.Event()

    def job() -> str:
        begun.set()
        over.wait(PATIENCE)
        return "done"

    answers: list[str] = []
    caller = threading.Thread(target=lambda: answers.append(lane.call(job)))
    caller.start()
    assert begun.wait(PATIENCE)
    caller.join(0.3)
    assert caller.is_alive()
    over.set()
    caller.join()
    lane.stop()
    assert answers == ["done"]


@pytest.mark.parametrize("error", [TimeoutError("of the job"), ValueError("of the job")])
def test_what_a_job_raises_is_its_callers(error: Exception) -> None:
    lane = Lane("test", 8)

    def job() -> None:
        raise error

    with pytest.raises(type(error), match="of the job"):
        lane.call(job)
    assert lane.alive
    lane.stop()


def test_a_lane_that_stops_leaves_nobody_waiting() -> None:
    refusals: list[Busy] = []
    with held_up() as (lane, over):

        def call() -> None:
            try:
                lane.call(lambda: None)
            except Busy as busy:
                refusals.append(busy)

        callers = [threading.Thread(target=call) for _ in range(3)]
        for caller in callers:
            caller.start()
        wait_for(lambda: lane.depth == 3, PATIENCE, "the callers to wait")
        stopping = threading.Thread(target=lane.stop)
        stopping.start()
        wait_for(lambda: lane._stopping, PATIENCE, "the lane to stop")
        over.set()
        for thread in (*callers, stopping):
            thread.join()
    assert len(refusals) == 3

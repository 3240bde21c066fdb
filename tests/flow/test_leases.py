"""Leases by a clock that the test moves: who holds a run, who is dead.

And that no wall clock is asked.
"""

from __future__ import annotations

import time
from pathlib import Path

import promptgps_service
import pytest
from promptgps_service.flow.leases import BEATS, Leases
from promptgps_service.flow.publish import Origin, Overtaken, publish
from promptgps_service.store.records import RunRecord, VersionRecord
from promptgps_service.store.unit import Store

from tests.contracts.samples import make_run

LEASE = 100.0


class Clock:
    """A monotonic clock that stands until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def run(store: Store) -> RunRecord:
    return make_run(store)


@pytest.fixture(params=["the wall clock goes on", "the wall clock is set back"])
def one(
    request: pytest.FixtureRequest, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> Leases:
    """A worker, whose host's time may be set back a day whenever it is asked."""
    if request.param.endswith("back"):
        began = time.time()
        days = iter(range(1, 10_000))
        monkeypatch.setattr(time, "time", lambda: began - 86_400.0 * next(days))
    return Leases(store, LEASE, clock)


@pytest.fixture
def other(store: Store, clock: Clock) -> Leases:
    return Leases(store, LEASE, clock)


def live(clock: Clock, seconds: float, *workers: Leases) -> None:
    """Let time pass, with signs of life of those workers only."""
    for _ in range(round(seconds * BEATS / LEASE)):
        clock.seconds += LEASE / BEATS
        for worker in workers:
            worker.beat()


def test_one_worker_holds_a_run_until_it_leaves(
    run: RunRecord, one: Leases, other: Leases, clock: Clock
) -> None:
    assert one.hold(run.id)
    assert one.hold(run.id)
    assert not other.hold(run.id)
    live(clock, 5 * LEASE, one, other)
    assert not other.hold(run.id)
    one.leave()
    assert other.hold(run.id)
    assert not one.hold(run.id)


def test_a_worker_that_shows_no_sign_of_life_loses_its_runs_after_the_length_of_a_lease(
    run: RunRecord, one: Leases, other: Leases, clock: Clock
) -> None:
    assert one.hold(run.id)
    assert not other.hold(run.id)
    other.beat()
    live(clock, 0.75 * LEASE, other)
    assert not other.hold(run.id)
    live(clock, 0.5 * LEASE, other)
    assert other.hold(run.id)
    one.beat()
    assert not one.holds(run.id)
    assert not one.hold(run.id), "it is a worker again, and the run is another's"


def test_whoever_stood_still_itself_takes_nobody_for_dead(
    run: RunRecord, one: Leases, other: Leases, clock: Clock
) -> None:
    assert one.hold(run.id)
    assert not other.hold(run.id)
    live(clock, 0.5 * LEASE, one, other)
    clock.seconds += 50 * LEASE  # suspended, or the database was away for everybody
    other.beat()
    assert not other.hold(run.id)
    one.beat()
    live(clock, 3 * LEASE, one, other)
    assert one.holds(run.id)
    assert not other.hold(run.id)


def test_a_worker_frees_only_what_the_dead_one_held(
    store: Store, one: Leases, other: Leases, clock: Clock
) -> None:
    runs = [make_run(store, name).id for name in "abc"]
    assert all(one.hold(run) for run in runs[:2])
    assert other.hold(runs[2])
    third = Leases(store, LEASE, clock)
    assert not third.hold(runs[2])
    live(clock, 1.5 * LEASE, other, third)
    assert [third.hold(run) for run in runs] == [True, True, False]


# ---- publishing ----------------------------------------------------------------------------------


def origin(run: RunRecord, worker: Leases, **changes: int) -> Origin:
    return Origin(
        **{"run_id": run.id, "worker": worker.worker, "epoch": 0, "revision": 0, "version": 0}
        | changes
    )


def offer(store: Store, made: Origin, version: int = 1, through: int = 1) -> None:
    with store.write() as unit:
        publish(
            unit,
            made,
            VersionRecord(version, through, "beta", made.worker.encode()),
            [{"step": float(version)}],
        )


def test_the_holder_publishes_one_version_after_another(
    store: Store, run: RunRecord, one: Leases
) -> None:
    one.hold(run.id)
    offer(store, origin(run, one))
    offer(store, origin(run, one, version=1), version=3, through=7)
    with store.read() as unit:
        head = unit.runs.get("run")
        assert (head.model_version, head.trained_through) == (3, 7)
        assert [version for version, _, _ in unit.versions.metrics(run.id)] == [1, 2]


@pytest.mark.parametrize(
    ("changes", "version", "through"),
    [({"version": 1}, 2, 2), ({"epoch": 1}, 2, 9), ({"revision": 1}, 2, 9), ({}, 1, 9), ({}, 3, 4)],
    ids=["from an older version", "epoch", "revision", "a number that is taken", "a shorter log"],
)
def test_what_goes_on_from_something_else_is_not_published(
    store: Store, run: RunRecord, one: Leases, changes: dict[str, int], version: int, through: int
) -> None:
    one.hold(run.id)
    offer(store, origin(run, one), version=2, through=5)
    with pytest.raises(Overtaken):
        offer(store, origin(run, one, **{"version": 2} | changes), version, through)
    with store.read() as unit:
        assert unit.versions.latest(run.id).version == 2
        assert len(unit.versions.metrics(run.id)) == 1


def test_two_workers_never_both_publish(
    store: Store, run: RunRecord, one: Leases, other: Leases, clock: Clock
) -> None:
    one.hold(run.id)
    other.hold(run.id)
    live(clock, 1.5 * LEASE, other)
    assert other.hold(run.id)
    assert one.holds(run.id), "the first one does not know yet that it was replaced"
    for from_version in (0, 1):  # before the heir has published, and after
        with pytest.raises(Overtaken, match="held by"):
            offer(store, origin(run, one, version=from_version), version=from_version + 1)
        if from_version == 0:
            offer(store, origin(run, other))
    with store.read() as unit:
        assert unit.versions.latest(run.id).state == other.worker.encode()
        assert unit.runs.get("run").model_version == 1


def test_nobody_publishes_a_run_that_nobody_holds(
    store: Store, run: RunRecord, one: Leases
) -> None:
    one.hold(run.id)
    made = origin(run, one)
    one.leave()
    with pytest.raises(Overtaken, match="nobody"):
        offer(store, made)


# ---- clocks --------------------------------------------------------------------------------------


def test_the_wall_clock_is_read_in_one_place_only() -> None:
    package = Path(promptgps_service.__file__).parent
    asking = (
        "time.time(",
        "time_ns(",
        "datetime.now(",
        "utcnow(",
        "func.now(",
        "CURRENT_TIMESTAMP",
    )
    asked = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if any(word in path.read_text() for word in asking)
    }
    assert asked == {"store/clock.py"}

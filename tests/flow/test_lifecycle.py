"""What is over can be put away: runs and pools archived, opened again and deleted.

Every process sees it.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from promptgps_client.wire import (
    AllocateBudget,
    ChangeRun,
    CreatePool,
    Embedding,
    PredictDifficulty,
    Restore,
    SendSubset,
    TakeSnapshot,
)
from promptgps_service.errors import Conflict, NotFound, NotOpen, PoolNotOpen, RunGone
from promptgps_service.flow import lifecycle
from promptgps_service.flow import sweep as sweeping
from promptgps_service.flow.allocate import allocate_budget
from promptgps_service.flow.archive_export import export_run
from promptgps_service.flow.context import Context
from promptgps_service.flow.events import list_events, pool_events, run_events
from promptgps_service.flow.metrics import run_metrics
from promptgps_service.flow.open_run import change_run, describe_run, list_runs
from promptgps_service.flow.predict import predict_difficulty
from promptgps_service.flow.prompt_columns import PromptChunk
from promptgps_service.flow.register import add_prompts, create_pool, describe_pool
from promptgps_service.flow.restore import restore_run
from promptgps_service.flow.rows import Keys, rows_of
from promptgps_service.flow.snapshot import list_snapshots, take_snapshot
from promptgps_service.flow.subsets import send_subset
from promptgps_service.flow.sweep import sweep
from promptgps_service.flow.trainer import Learning
from promptgps_service.store.records import OutcomeRecord
from promptgps_service.store.tables import metadata
from promptgps_service.store.unit import Store
from promptgps_service.work import learn_runs
from sqlalchemy import func, text
from sqlalchemy import select as query

from tests.databases import opened_context
from tests.flow.driving import WAIT, add, open_run, report_groups, select, settle, step, vectors
from tests.server import wait_for


@pytest.fixture
def second(database_url: str) -> Iterator[Context]:
    """Another process of the service."""
    with opened_context(database_url) as opened:
        yield opened


def on(_seconds: float) -> bool:
    """Go on sweeping at once."""
    return True


def left_of(store: Store, run_id: int) -> int:
    """Rows of a run in every table."""
    with store.read() as unit:
        tables = [table for table in metadata.sorted_tables if "run_id" in table.c]
        return sum(
            unit.connection.execute(
                query(func.count()).select_from(t).where(t.c.run_id == run_id)
            ).scalar_one()
            for t in tables
        )


def waiting(store: Store) -> list[int]:
    """Runs that are deleted and not gone yet."""
    with store.read() as unit:
        return unit.removal.waiting("runs")


def actions(context: Context, **whose: str) -> list[str]:
    page = run_events if "run" in whose else pool_events
    return [
        event.action
        for event in page(context.store, next(iter(whose.values())), before=None, limit=200).events
    ]


SERVING = Learning(enabled=False, groups=1, seconds=0.0)
PUT_OFF: list[tuple[str, Callable[[Context, Any], Any]]] = [
    ("a draw", lambda context, batch: select(context, 2)),
    ("a repeated draw", lambda context, batch: select(context, 4, sequence=0)),
    ("an outcome", lambda context, batch: report_groups(context, batch)),
    ("a subset", lambda context, batch: send_subset(context, "run", SendSubset(keys=["pool-1"]))),
    ("a snapshot", lambda context, batch: take_snapshot(context, "run", TakeSnapshot(tag="later"))),
    ("a restore", lambda context, batch: restore_run(context, "run", Restore(tag="early"), None)),
    ("opening it again as it was", lambda context, batch: open_run(context)),
]


# ---- archived ------------------------------------------------------------------------------------


def test_an_archived_run_takes_nothing_in_any_process_and_can_still_be_read(
    context: Context, second: Context, tmp_path: Any
) -> None:
    add(context, 30)
    open_run(context)
    step(context, 4, sequence=0)
    take_snapshot(context, "run", TakeSnapshot(tag="early"))
    settle(context)
    batch = select(context, 4, sequence=1)
    second.desk("run")
    asked = PredictDifficulty(run="run", keys=["pool-1", "pool-2"])
    budget = AllocateBudget(run="run", keys=["pool-1", "pool-2"], total=4)
    before = [
        predict_difficulty(context, asked),
        allocate_budget(context, budget),
        run_metrics(context, "run"),
    ]

    archived = lifecycle.archive_run(context, "run", "alice")
    assert archived.state == "archived"
    for process in (context, second):
        for what, attempt in PUT_OFF:
            with pytest.raises(NotOpen, match=r"archived since 20.*POST /runs/run/open") as refusal:
                attempt(process, batch)
            assert "promptgps runs open run" in str(refusal.value), what
        with pytest.raises(NotOpen, match="archived"):
            change_run(process, "run", ChangeRun(rollouts_per_prompt=3))
        assert describe_run(process, "run").state == "archived"
        assert [run.state for run in list_runs(process).runs] == ["archived"]
        assert [each.tag for each in list_snapshots(process, "run").snapshots] == ["early"]
        after = [
            predict_difficulty(process, asked),
            allocate_budget(process, budget),
            run_metrics(process, "run"),
        ]
        assert after == before
    export_run(context.store, "run", tmp_path / "archive")
    assert lifecycle.archive_run(context, "run", "bob").state == "archived"  # again: nothing new
    assert actions(context, run="run") == ["run-archived", "snapshot-taken", "run-created"]

    assert lifecycle.reopen_run(second, "run", "bob").state == "open"
    assert [report_groups(process, batch).stored for process in (context, second)] == [4, 0]
    for process in (context, second):
        assert select(process, 4, sequence=1).replayed
    settle(second)
    newest = run_events(context.store, "run", before=None, limit=1)
    assert (newest.events[0].action, newest.events[0].key) == ("run-opened", "bob")
    assert newest.next is not None


def test_an_archived_run_costs_disk_only(context: Context, second: Context) -> None:
    add(context, 30)
    open_run(context)
    report_groups(context, select(context, 8))
    settle(context)
    second.desk("run")
    lifecycle.archive_run(context, "run", None)
    for process in (context, second):
        wait_for(lambda: process.opened("run") is None, WAIT, "the run to be forgotten")  # noqa: B023
        wait_for(lambda: not process.features._vectors, WAIT, "its vectors to be forgotten")  # noqa: B023
        assert not process.features._matrices
    assert not context.leases.holds(1)
    assert not second.leases.holds(1)
    with context.store.read() as unit:
        assert unit.leases.holder(1) is None


def test_only_the_last_archived_runs_that_were_asked_stay_in_memory(context: Context) -> None:
    names = [f"run-{number}" for number in range(5)]
    for name in names:
        add(context, 10, pool=name)
        open_run(context, name=name, pool=name)
        lifecycle.archive_run(context, name, None)
    for name in names * 2:
        predict_difficulty(context, PredictDifficulty(run=name, keys=[f"{name}-3"]))
    assert len(context._resting) == len(context.features._vectors) == 2
    assert context.desks() == []


def test_an_archived_run_that_others_push_out_while_it_is_opened_is_answered(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(context, 10)
    open_run(context)
    lifecycle.archive_run(context, "run", None)
    monkeypatch.setattr(context, "_forget_pools", context._resting.clear)
    answer = predict_difficulty(context, PredictDifficulty(run="run", keys=["pool-3"]))
    assert len(answer.success_mean) == 1
    assert not context._resting


def test_names_of_no_run_cost_no_memory(context: Context) -> None:
    for number in range(100):
        with pytest.raises(NotFound):
            select(context, 1, run=f"no-run-{number}")
    assert len(context._opening) == len(context.features._locks) == 0


def test_what_was_reported_before_a_run_was_archived_is_learned_when_it_is_opened_again(
    database_url: str,
) -> None:
    with opened_context(database_url, learning=SERVING) as replica:
        add(replica, 30)
        open_run(replica)
        report_groups(replica, select(replica, 8))
        lifecycle.archive_run(replica, "run", None)
        with opened_context(database_url) as worker:
            time.sleep(0.3)
            assert worker.opened("run") is None
            with worker.store.read() as unit:
                assert unit.runs.get("run").trained_through == 0
            lifecycle.reopen_run(replica, "run", None)
            assert replica.desk("run").state.wait_learned(8, WAIT)


def test_a_select_that_waits_is_let_go_when_its_run_is_archived(database_url: str) -> None:
    with (
        opened_context(database_url, learning=SERVING) as one,
        opened_context(database_url, learning=SERVING) as other,
    ):
        add(one, 30)
        open_run(one)
        report_groups(one, select(one, 8))  # which nobody learns
        told: list[str] = []

        def ask() -> None:
            try:
                select(other, 4, wait_seconds=60.0)
            except NotOpen as refusal:
                told.append(refusal.detail)

        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(0.3)
        started = time.monotonic()
        lifecycle.archive_run(one, "run", None)
        asking.join()
        assert time.monotonic() - started < 10.0
        assert "archived" in told[0]


def test_an_archived_pool_takes_no_prompts_and_no_new_runs_while_its_runs_go_on(
    context: Context, second: Context
) -> None:
    add(context, 30)
    open_run(context)
    assert lifecycle.archive_pool(context, "pool", "alice").state == "archived"
    for process in (context, second):
        with pytest.raises(
            PoolNotOpen, match="POST /pools/pool/open or `promptgps pools open pool`"
        ):
            add(process, 2, first=30)
        with pytest.raises(PoolNotOpen, match="archived"):
            open_run(process, name="new")
        assert open_run(process).name == "run"  # it is there already
        report_groups(process, select(process, 4))
        assert describe_pool(process, "pool").state == "archived"
    assert lifecycle.reopen_pool(second, "pool", None).state == "open"
    assert add(context, 2, first=30).added == 2
    assert actions(context, pool="pool") == [
        "prompts-added",
        "pool-opened",
        "pool-archived",
        "prompts-added",
        "pool-created",
    ]


def test_a_worker_that_is_told_to_learn_an_archived_run_says_why_not(
    context: Context, database_url: str
) -> None:
    from promptgps_service.settings import Settings

    add(context, 10)
    for name in ("run", "other"):
        open_run(context, name=name)
    lifecycle.archive_run(context, "run", None)
    settings = Settings(database_url=database_url, device="cpu", torch_threads=1, train=True)
    with pytest.raises(NotOpen, match="archived"):
        learn_runs(settings, ["run"], migrate=False)
    assert learn_runs(settings, None, migrate=False)


# ---- faulty --------------------------------------------------------------------------------------


def test_a_faulty_run_says_why_and_can_be_tried_again(context: Context, second: Context) -> None:
    add(context, 30)
    open_run(context)
    batch = select(context, 4, sequence=0)
    with context.store.write() as unit:
        unit.runs.set_state(1, "faulty", "its pools do not fit together")
        unit.events.add("run-faulty", run="run", detail={"fault": "its pools do not fit together"})
    for process in (context, second):
        for _, attempt in PUT_OFF:
            with pytest.raises(
                NotOpen, match=r"faulty: its pools do not fit together.*POST /runs/run/open"
            ):
                attempt(process, batch)
        with pytest.raises(NotOpen, match="faulty"):
            predict_difficulty(process, PredictDifficulty(run="run", keys=["pool-1"]))
        described = describe_run(process, "run")
        assert (described.state, described.fault) == ("faulty", "its pools do not fit together")
    # what may mend it is let in
    changed = change_run(context, "run", ChangeRun(rollouts_per_prompt=5), "alice")
    assert (changed.state, changed.rollouts_per_prompt) == ("faulty", 5)
    assert lifecycle.reopen_run(second, "run", "alice").state == "open"
    assert report_groups(context, batch).stored == 4
    told = run_events(context.store, "run", before=None, limit=3).events
    assert [event.action for event in told] == ["run-opened", "run-changed", "run-faulty"]
    assert told[0].detail == {"was": "faulty", "fault": "its pools do not fit together"}
    assert told[1].detail == {"rollouts_per_prompt": "8 → 5"}


@pytest.mark.parametrize(
    "settings",
    [
        "{}",
        "[]",
        "7",
        "null",
        '{"pools": 3}',
        '{"pools": [], "reward": {}, "selection": {"strategy": "x"}}',
    ],
)
def test_a_run_whose_settings_make_no_sense_is_listed_as_faulty_beside_the_others(
    context: Context, settings: str
) -> None:
    add(context, 10)
    for name in ("a", "run", "z"):
        open_run(context, name=name)
    with context.store.write() as unit:
        unit.connection.execute(
            text("UPDATE runs SET settings = :s WHERE name = 'run'"), {"s": settings}
        )
    states = {run.name: (run.state, run.fault) for run in list_runs(context).runs}
    assert states["a"] == states["z"] == ("open", None)
    assert states["run"][0] == "faulty"
    assert "settings cannot be read" in str(states["run"][1])
    assert describe_run(context, "run").pools[0].pool == "pool"
    assert lifecycle.delete_run(context, "run", None, dry_run=False).name == "run"
    assert {run.name for run in list_runs(context).runs} == {"a", "z"}


# ---- deleted -------------------------------------------------------------------------------------


def test_a_deleted_run_is_gone_from_every_process_and_a_new_one_of_its_name_is_a_new_one(
    context: Context, second: Context
) -> None:
    add(context, 30)
    open_run(context)
    open_run(context, name="other")
    batch = step(context, 6)
    late = select(second, 4)
    second.desk("run")
    would = lifecycle.delete_run(context, "run", "alice", dry_run=True)
    assert (would.selections, would.draws, would.outcomes, would.dry_run) == (2, 10, 6, True)
    assert describe_run(context, "run").draws == 10

    deleted = lifecycle.delete_run(context, "run", "alice", dry_run=False)
    assert deleted.model_dump(exclude={"dry_run", "model_versions"}) == would.model_dump(
        exclude={"dry_run", "model_versions"}
    )
    for process in (context, second):
        for attempt in (
            lambda: select(process, 2),  # noqa: B023
            lambda: report_groups(process, late),  # noqa: B023
            lambda: describe_run(process, "run"),  # noqa: B023
            lambda: predict_difficulty(process, PredictDifficulty(run="run", keys=["pool-1"])),  # noqa: B023
            lambda: take_snapshot(process, "run", TakeSnapshot(tag="late")),  # noqa: B023
            lambda: lifecycle.delete_run(process, "run", None, dry_run=False),  # noqa: B023
        ):
            with pytest.raises(NotFound, match="no run 'run': it was deleted at 20"):
                attempt()
        assert [run.name for run in list_runs(process).runs] == ["other"]
    wait_for(lambda: left_of(context.store, 1) == 0, WAIT, "all its rows to go")

    add(context, 30, pool="new")
    assert open_run(context, pool="new").draws == 0
    fresh = select(second, 4)  # a process that had the old one open
    assert all(key.startswith("new-") for key in fresh.draws.prompt)
    assert not set(fresh.draws.draw_id) & {*batch.draws.draw_id, *late.draws.draw_id}
    for process in (context, second):
        with pytest.raises(NotFound, match="4 of 4 draw ids are not of this run"):
            report_groups(process, late)
        assert (
            predict_difficulty(process, PredictDifficulty(run="run", keys=["new-1"])).model_version
            == 0
        )
    assert report_groups(context, fresh).stored == 4
    settle(second)
    assert actions(context, run="run")[:3] == ["run-created", "run-deleted", "run-created"]


def test_a_run_of_the_same_name_made_elsewhere_is_the_one_that_is_meant(
    context: Context, second: Context
) -> None:
    """Deleted and made anew between two looks of a process that has the old one open."""
    add(context, 30)
    add(context, 30, pool="new")
    for turn in range(3):
        open_run(context, pool=("pool", "new")[turn % 2])
        select(second, 3, sequence=0)
        old = second.desk("run").state.id
        with second._opening["run"]:  # the other process's follower cannot open it either
            lifecycle.delete_run(context, "run", None, dry_run=False)
            open_run(context, pool=("new", "pool")[turn % 2])
        batch = select(second, 3, sequence=0)  # which the old one has answered, too
        assert not batch.replayed
        assert {key.partition("-")[0] for key in batch.draws.prompt} == {("new", "pool")[turn % 2]}
        assert second.desk("run").state.id != old
        lifecycle.delete_run(second, "run", None, dry_run=False)


def test_keys_of_a_run_that_was_deleted_with_its_pools(context: Context, second: Context) -> None:
    """Between two looks of a process that has the run open: its pool cannot be there any more."""
    add(context, 30)
    open_run(context)
    state = second.desk("run").state
    lifecycle.delete_run(context, "run", None, dry_run=False)
    lifecycle.delete_pool(context, "pool", None, dry_run=False)
    with pytest.raises(RunGone):
        rows_of(second, state, Keys(["pool-3"], None))
    with pytest.raises(NotFound, match="no run 'run': it was deleted at 20"):
        predict_difficulty(second, PredictDifficulty(run="run", keys=["pool-3"]))
    with pytest.raises(NotFound, match="no run 'run': it was deleted at 20"):
        select(second, 3, candidates=["pool-3"])


def test_a_run_is_not_deleted_while_another_started_from_it(context: Context) -> None:
    add(context, 30)
    open_run(context, name="first")
    report_groups(context, select(context, 20, run="first"))
    settle(context, "first")
    open_run(context, name="second", warm_start_from="first")
    lifecycle.archive_run(context, "second", None)
    for dry_run in (True, False):
        with pytest.raises(Conflict, match="run 'second' started from run 'first'") as refusal:
            lifecycle.delete_run(context, "first", None, dry_run=dry_run)
        assert [fault.field for fault in refusal.value.faults] == ["run"]
    lifecycle.delete_run(context, "second", None, dry_run=False)
    lifecycle.delete_run(context, "first", None, dry_run=False)
    assert list_runs(context).runs == []


def test_a_pool_is_deleted_only_when_no_run_needs_it(context: Context, second: Context) -> None:
    add(context, 30)
    add(context, 5, pool="other")
    open_run(context)
    open_run(context, name="archived", pools=[{"pool": "other"}, {"pool": "pool"}])
    lifecycle.archive_run(context, "archived", None)
    with pytest.raises(Conflict, match=r"runs 'archived', 'run' draws? from pool 'pool'"):
        lifecycle.delete_pool(context, "pool", None, dry_run=True)
    lifecycle.delete_run(context, "run", None, dry_run=False)
    with pytest.raises(Conflict, match="run 'archived' draws from pool 'other'"):
        lifecycle.delete_pool(second, "other", None, dry_run=False)
    lifecycle.delete_run(second, "archived", None, dry_run=False)
    assert lifecycle.delete_pool(context, "pool", "alice", dry_run=False).prompts == 30
    with pytest.raises(NotFound, match="no pool 'pool': it was deleted at 20"):
        describe_pool(second, "pool")
    add(second, 10, first=100)  # a new pool of the same name, with other prompts
    open_run(context)
    assert describe_run(second, "run").prompts == 10
    assert {int(key.partition("-")[2]) for key in select(context, 10).draws.prompt} == set(
        range(100, 110)
    )


def test_a_run_is_deleted_while_a_worker_learns_it(context: Context, second: Context) -> None:
    add(context, 200)
    open_run(context)
    for _ in range(4):
        report_groups(second, select(second, 32))  # somebody begins to learn
    run_id = context.desk("run").state.id
    lifecycle.delete_run(second, "run", None, dry_run=False)
    wait_for(lambda: left_of(context.store, run_id) == 0, WAIT, "all its rows to go")
    time.sleep(0.3)  # whatever was being learned would be published now
    assert left_of(context.store, run_id) == 0
    for process in (context, second):
        assert process.opened("run") is None
        assert process.alive
    open_run(second)
    report_groups(context, select(context, 8))
    settle(second)


def test_a_run_is_deleted_while_it_is_drawn_from(context: Context, second: Context) -> None:
    """Each select is either answered or told that the run is gone.

    None fails otherwise and none is left behind.
    """
    add(context, 60)
    open_run(context)
    ends: list[str] = []

    def draw(process: Context) -> None:
        try:
            while True:
                select(process, 4)
        except NotFound as gone:
            ends.append(gone.detail)

    drawing = [threading.Thread(target=draw, args=(process,)) for process in (context, second) * 2]
    for thread in drawing:
        thread.start()
    time.sleep(0.2)
    run_id = context.desk("run").state.id
    lifecycle.delete_run(context, "run", None, dry_run=False)
    for thread in drawing:
        thread.join(WAIT)
    assert len(ends) == 4
    wait_for(lambda: left_of(context.store, run_id) == 0, WAIT, "all its rows to go")


@pytest.mark.parametrize("end", ["archived", "deleted"])
def test_a_pool_is_put_away_while_an_import_runs_into_it(
    context: Context, second: Context, end: str
) -> None:
    add(context, 3)
    put = {"archived": lifecycle.archive_pool, "deleted": lifecycle.delete_pool}[end]
    more: dict[str, Any] = {"dry_run": False} if end == "deleted" else {}

    def chunks() -> Iterator[PromptChunk]:
        for start in range(10, 40, 10):
            keys = [f"pool-{number}" for number in range(start, start + 10)]
            yield PromptChunk(start, keys=keys, vectors=vectors(keys))
            if start == 20:
                put(second, "pool", None, **more)

    with pytest.raises((PoolNotOpen, NotFound), match=end):
        add_prompts(context, "pool", chunks())
    if end == "archived":
        lifecycle.reopen_pool(context, "pool", None)
        assert describe_pool(context, "pool").prompts == 3
    else:
        create_pool(
            context, CreatePool(name="pool", embedding=Embedding(kind="given", dimension=6))
        )
        assert describe_pool(context, "pool").prompts == 0
    assert add(context, 10, first=10).added == 10  # nothing is in the way


def test_a_deletion_that_was_cut_off_is_finished_by_the_next_process(
    context: Context, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(context, 20)
    open_run(context)
    for _ in range(30):
        report_groups(context, select(context, 10))
    settle(context)
    monkeypatch.setattr(context.sweeper, "wake", lambda: None)
    lifecycle.delete_run(context, "run", None, dry_run=False)
    left = iter((True, True, False))
    sweep(context.store, lambda _: next(left))  # killed after the third slice
    assert left_of(context.store, 1) > 0
    open_run(context)  # the name is free meanwhile
    with opened_context(database_url) as restarted:
        wait_for(lambda: left_of(restarted.store, 1) == 0, WAIT, "the rest to go")
        assert left_of(restarted.store, 2) > 0
    lifecycle.delete_run(context, "run", None, dry_run=False)
    lifecycle.delete_pool(context, "pool", None, dry_run=False)  # its run is not all gone yet
    sweep(context.store, on)
    with context.store.read() as unit:
        for table in metadata.sorted_tables:
            if table.name not in ("events", "workers", "alembic_version"):
                assert (
                    unit.connection.execute(query(func.count()).select_from(table)).scalar_one()
                    == 0
                ), table.name


def test_others_go_on_while_much_is_deleted(context: Context) -> None:
    """100,000 outcomes go, and a select of another run never waits for long."""
    add(context, 50)
    open_run(context)
    open_run(context, name="calm")
    select(context, 50)
    lines = [OutcomeRecord(None, row % 50, -1, 1.0, 2, None, 0, None) for row in range(20_000)]
    for number in range(5):
        with context.store.write() as unit:
            head = unit.runs.lock(1)
            assert head.log_position == 20_000 * number
            unit.runs.advance(
                1, log_position=unit.log.append(1, head.log_position, lines), trained_through=10**6
            )
    lifecycle.delete_run(context, "run", None, dry_run=False)
    took = []
    while waiting(context.store):
        started = time.perf_counter()
        select(context, 8, run="calm")
        took.append(time.perf_counter() - started)
        time.sleep(0.02)  # as a trainer does
    assert left_of(context.store, 1) == 0
    assert len(took) > 3
    # one statement over all of it would take longer, on a loaded machine much
    assert np.quantile(took, 0.99) < 1.0


def test_a_slice_is_short_and_others_come_in_between(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause after a slice is as long as the slice: whoever waits for the database gets it."""
    from tests.contracts.samples import append_outcomes, make_run, outcome

    run = make_run(store)
    append_outcomes(store, run, [outcome(None) for _ in range(5_000)])
    lifecycle.remove_run(store, "run", None, dry_run=False)
    ticks = itertools.count()
    monkeypatch.setattr(sweeping, "time", SimpleNamespace(monotonic=lambda: next(ticks) * 0.5))
    pauses: list[float] = []

    def rest(seconds: float) -> bool:
        pauses.append(seconds)
        return True

    sweep(store, rest)
    assert len(pauses) > 5
    assert set(pauses) == {0.5}


# ---- events --------------------------------------------------------------------------------------


def test_every_change_leaves_an_event_with_the_name_of_the_key(context: Context) -> None:
    create_pool(
        context, CreatePool(name="pool", embedding=Embedding(kind="given", dimension=6)), "carol"
    )
    keys = [f"pool-{number}" for number in range(10)]
    add_prompts(context, "pool", [PromptChunk(0, keys=keys, vectors=vectors(keys))], by="carol")
    open_run(context)
    change_run(context, "run", ChangeRun.model_validate({"selection": {"cooldown": 3}}), "dave")
    # nothing new
    change_run(context, "run", ChangeRun.model_validate({"selection": {"cooldown": 3}}), "dave")
    take_snapshot(context, "run", TakeSnapshot(tag="here"), "erin")
    take_snapshot(context, "run", TakeSnapshot(tag="here"), "erin")
    select(context, 2)
    restore_run(context, "run", Restore(tag="here"), None, "frank")
    restore_run(context, "run", Restore(tag="here"), None, "frank")
    told = list_events(context.store, before=None, limit=200).events
    assert [(event.action, event.run or event.pool, event.key) for event in reversed(told)] == [
        ("pool-created", "pool", "carol"),
        ("prompts-added", "pool", "carol"),
        ("run-created", "run", None),
        ("run-changed", "run", "dave"),
        ("snapshot-taken", "run", "erin"),
        ("run-restored", "run", "frank"),
    ]
    details = {event.action: event.detail for event in told}
    assert details["prompts-added"]["added"] == 10
    assert details["run-changed"] == {"selection.cooldown": "auto → 3"}
    assert details["run-restored"]["draws"] == 2


def test_events_of_what_never_was_are_not_there(context: Context) -> None:
    for page in (run_events, pool_events):
        with pytest.raises(NotFound, match="there is no"):
            page(context.store, "nobody", before=None, limit=10)
    assert list_events(context.store, before=None, limit=10).events == []

"""Processes that share nothing but the database.

Replicas follow the worker, and one worker at a time learns a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import torch
from promptgps_client.wire import ChangeRun, PredictDifficulty
from promptgps_service.flow.context import Context
from promptgps_service.flow.metrics import run_metrics
from promptgps_service.flow.open_run import change_run, describe_run
from promptgps_service.flow.predict import predict_difficulty
from promptgps_service.flow.steps import MOST_SELECTIONS
from promptgps_service.flow.trainer import Learning

from tests.databases import opened_context
from tests.flow.driving import (
    WAIT,
    add,
    log_length,
    open_run,
    report,
    report_groups,
    select,
    settle,
    step,
)
from tests.server import wait_for

SERVING = Learning(enabled=False, groups=1, seconds=0.0)
EAGER = Learning(enabled=True, groups=1, seconds=0.0)
LAZY = Learning(enabled=True, groups=10_000, seconds=3600.0)


@pytest.fixture
def replica(database_url: str) -> Iterator[Context]:
    """A process that only serves, beside the ``context`` that learns."""
    with opened_context(database_url, learning=SERVING) as opened:
        yield opened


def served(context: Context) -> tuple[int, int]:
    table = context.desk("run").state.table
    assert table is not None
    return table.model_version, table.trained_through


def follows(replica: Context, worker: Context) -> bool:
    one = replica.desk("run").state
    other = worker.desk("run").state
    return served(replica) == served(worker) and one.log_position == other.log_position


def test_a_replica_serves_what_the_worker_has_published(context: Context, replica: Context) -> None:
    add(context, 60)
    open_run(context)
    assert served(replica) == (0, 0)
    for _ in range(3):
        step(context, 16)
    settle(context)
    wait_for(lambda: follows(replica, context), WAIT, "the replica to follow")
    one = context.desk("run").state.table
    other = replica.desk("run").state.table
    assert one is not None
    assert other is not None
    assert torch.equal(one.posterior.mean, other.posterior.mean)
    assert torch.equal(one.posterior.std, other.posterior.std)
    assert not replica.leases.holds(1)


def test_a_wait_on_a_replica_has_the_worker_learn_at_once(database_url: str) -> None:
    with (
        opened_context(database_url, learning=LAZY) as worker,
        opened_context(database_url, learning=SERVING) as near,
    ):
        add(near, 60)
        open_run(near)
        for number in range(4):
            batch = select(near, 8, sequence=number, wait_seconds=WAIT)
            assert batch.trained_through == 3 * number, batch.warnings
            report(near, draw_id=batch.draws.draw_id[:3], successes=[1, 2, 3], trials=[8] * 3)
        assert worker.opened("run") is not None


def test_outcomes_reported_to_one_replica_are_waited_for_on_another(
    context: Context, database_url: str
) -> None:
    with ExitStack() as stack:
        replicas = [
            stack.enter_context(opened_context(database_url, learning=SERVING)) for _ in range(2)
        ]
        add(context, 60)
        open_run(context)
        for number in range(6):
            batch = select(replicas[number % 2], 8, sequence=number, wait_seconds=WAIT)
            assert batch.trained_through == 8 * number
            report_groups(replicas[(number + 1) % 2], batch)


def test_a_run_that_nobody_has_opened_is_learned_by_the_worker(
    context: Context, replica: Context
) -> None:
    add(replica, 30)
    open_run(replica)
    report_groups(replica, select(replica, 8))
    assert replica.desk("run").state.wait_learned(8, WAIT)
    assert context.leases.holds(1)


def test_changed_settings_hold_in_every_process(context: Context, replica: Context) -> None:
    add(context, 30)
    open_run(context)
    replica.desk("run")
    change_run(
        context,
        "run",
        ChangeRun.model_validate({"rollouts_per_prompt": 3, "selection": {"utility": "band"}}),
    )
    assert select(replica, 2).draws.rollouts == [3, 3]
    assert replica.desk("run").state.settings.selection.utility == "band"


def test_another_predictor_asked_for_through_a_replica_learns_the_log_anew(
    context: Context, replica: Context
) -> None:
    add(context, 30)
    open_run(context)
    for _ in range(2):
        step(context, 10)
    settle(context)
    change_run(replica, "run", ChangeRun.model_validate({"selection": {"predictor": "beta"}}))
    assert replica.desk("run").state.wait_learned(20, WAIT)
    state = replica.desk("run").state
    expected = ((state.successes + 1) / (state.trials + 2)).tolist()
    keys = [f"pool-{number}" for number in range(30)]
    for process in (replica, context):
        found = predict_difficulty(process, PredictDifficulty(run="run", keys=keys)).success_mean
        assert found == pytest.approx(expected, abs=1e-9)
    with replica.store.read() as unit:
        record = unit.runs.get("run")
    assert (record.trained_through, record.behind) == (20, False)


# ---- leases --------------------------------------------------------------------------------------


def test_of_two_workers_one_learns_and_nothing_twice(database_url: str) -> None:
    with ExitStack() as stack:
        workers = [
            stack.enter_context(opened_context(database_url, learning=EAGER)) for _ in range(2)
        ]
        add(workers[0], 80)
        open_run(workers[0])
        for number in range(10):
            report_groups(workers[number % 2], select(workers[(number + 1) % 2], 4))
        for worker in workers:
            worker.desk("run").trainer.wake(40)
            assert worker.desk("run").state.wait_learned(40, WAIT)
        assert sorted(worker.leases.holds(1) for worker in workers) == [False, True]
        assert log_length(workers[0]) == 40
        series = run_metrics(workers[0], "run").series
        assert sum(series["rollouts"]) == 40 * 8
        assert series["model_version"] == [
            float(version) for version in range(1, len(series["rollouts"]) + 1)
        ]


def test_a_worker_that_leaves_gives_its_runs_back(database_url: str) -> None:
    with opened_context(database_url, learning=EAGER, lease_seconds=3600.0) as first:
        add(first, 30)
        open_run(first)
        report_groups(first, select(first, 8))
        settle(first)
        assert first.leases.holds(1)
    with opened_context(database_url, learning=EAGER) as second:
        report_groups(second, select(second, 8))
        assert settle(second).trained_through == 16
        assert second.leases.holds(1)


def test_a_worker_without_a_sign_of_life_is_replaced(database_url: str) -> None:
    with opened_context(database_url, learning=EAGER) as dead:
        add(dead, 30)
        open_run(dead)
        report_groups(dead, select(dead, 8))
        settle(dead)
        for ticker in dead._tickers.values():  # as after kill -9: nothing is given back
            ticker.stop()
        with opened_context(database_url, learning=EAGER, lease_seconds=0.5) as heir:
            report_groups(heir, select(heir, 8))
            assert heir.desk("run").state.wait_learned(16, WAIT)
            assert heir.leases.holds(1)
            assert dead.leases.holds(1), "it does not know yet"
            version = served(heir)[0]

            report_groups(dead, select(dead, 8))  # it learns on, and publishes nothing
            assert heir.desk("run").state.wait_learned(24, WAIT)
            wait_for(
                lambda: not dead.leases.holds(1),
                WAIT,
                "the late worker to learn that it was replaced",
            )
            series = run_metrics(heir, "run").series
            assert sum(series["rollouts"]) == 24 * 8
            assert series["model_version"] == [
                float(number) for number in range(1, len(series["rollouts"]) + 1)
            ]
            assert served(heir)[0] > version
            dead.desk("run").trainer.update()
            assert served(dead) == served(heir)


def test_a_worker_that_finds_every_run_in_the_hands_of_a_dead_one_takes_them_over(
    database_url: str,
) -> None:
    with ExitStack() as stack:
        replica = stack.enter_context(opened_context(database_url, learning=SERVING))
        dead = stack.enter_context(opened_context(database_url, learning=EAGER))
        add(dead, 30)
        open_run(dead)
        assert dead.leases.hold(1)
        for ticker in dead._tickers.values():  # as after kill -9: nothing is given back
            ticker.stop()
        report_groups(replica, select(replica, 8))
        heir = stack.enter_context(opened_context(database_url, learning=EAGER, lease_seconds=0.5))
        assert replica.desk("run").state.wait_learned(8, WAIT)
        assert heir.leases.holds(1)


def test_a_look_costs_what_has_changed_and_not_what_there_is(context: Context) -> None:
    add(context, 4)
    names = [f"run-{number}" for number in range(40)]
    for name in names:
        open_run(context, name=name)
    seen: set[str] = set()
    since = 0

    def look() -> list[str]:
        nonlocal since
        with context.store.read() as unit:
            changed, since = unit.runs.touched(since)
        seen.update(record.name for record in changed)
        return [record.name for record in changed]

    wait_for(lambda: look() == [], WAIT, "the runs to be still")
    assert seen == set(names)
    select(context, 1, run="run-7")
    assert look() == ["run-7"]


def test_a_worker_that_is_far_behind_publishes_on_its_way(database_url: str) -> None:
    with opened_context(
        database_url, learning=Learning(enabled=False, groups=32, seconds=0.0)
    ) as context:
        add(context, 40)
        open_run(context)
        for _ in range(MOST_SELECTIONS * 2 + 10):
            report_groups(context, select(context, 1))
    with opened_context(database_url) as context:
        context.desk("run")
        wait_for(
            lambda: describe_run(context, "run").trained_through == MOST_SELECTIONS * 2 + 10,
            60.0,
            "the worker",
        )
        reached = run_metrics(context, "run").series["trained_through"]
    assert sorted(set(reached)) == [MOST_SELECTIONS, MOST_SELECTIONS * 2, MOST_SELECTIONS * 2 + 10]

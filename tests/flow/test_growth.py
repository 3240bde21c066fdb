"""A pool that grows while runs draw from it, and runs over several pools."""

from __future__ import annotations

import threading

import pytest
from promptgps_client.wire import PredictDifficulty
from promptgps_service.errors import Invalid, NotFound, Unavailable
from promptgps_service.flow.context import Context
from promptgps_service.flow.open_run import describe_run
from promptgps_service.flow.predict import predict_difficulty
from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError

from tests.databases import opened_context
from tests.flow.driving import add, open_run, report, report_groups, select, settle, step


def test_new_prompts_can_be_drawn_and_old_selections_are_unchanged(context: Context) -> None:
    add(context, 20)
    open_run(context)
    old = [step(context, 8, sequence=number) for number in range(2)]
    add(context, 20, first=20)
    batch = select(context, 38, sequence=2)
    assert len({key for key in batch.draws.prompt if int(key.split("-")[1]) >= 20}) >= 18
    for number, before in enumerate(old):
        assert select(context, 8, sequence=number).draws == before.draws
    assert describe_run(context, "run").prompts == 40
    report_groups(context, batch)
    assert settle(context).trained_through == 16 + 38


def test_new_prompts_are_predicted_and_reported_by_key_at_once(context: Context) -> None:
    add(context, 10)
    open_run(context)
    add(context, 10, first=10)
    assert (
        len(
            predict_difficulty(context, PredictDifficulty(run="run", keys=["pool-15"])).success_mean
        )
        == 1
    )
    assert report(context, prompt=["pool-15"], successes=[1], trials=[2]).stored == 1


def test_growth_in_many_small_steps_while_learning(context: Context) -> None:
    add(context, 12)
    open_run(context)
    for number in range(12, 30, 3):
        step(context, 4, policy_version=number)
        add(context, 3, first=number)
    batch = select(context, 30, wait_seconds=30.0)
    assert len(set(batch.draws.prompt)) == 30
    assert settle(context).trained_through == 24


def test_two_processes_see_the_same_growth(context: Context, database_url: str) -> None:
    add(context, 10)
    open_run(context)
    with opened_context(database_url) as other:
        select(other, 1)
        add(context, 10, first=10)
        assert len(set(select(context, 19, sequence=7).draws.prompt)) == 19
        add(other, 10, first=20)
        assert len(set(select(other, 30, sequence=8).draws.prompt)) == 30
        assert select(context, 30, sequence=8).draws == select(other, 30, sequence=8).draws
        with context.store.read() as unit:
            segments = unit.runs.segments(unit.runs.get("run").id)
    assert [(segment.offset, segment.count) for segment in segments] == [
        (0, 10),
        (10, 10),
        (20, 10),
    ]


def test_growth_that_could_not_be_stored_is_taken_again(
    context: Context, database_url: str
) -> None:
    add(context, 10)
    open_run(context)
    select(context, 2, sequence=0)
    add(context, 10, first=10)
    committing = []
    caller = threading.get_ident()

    def fail_once(
        connection: Connection,
    ) -> None:  # the database goes away at the moment of the commit
        mine = threading.get_ident() == caller  # a worker's signs of life are written all the time
        if mine and connection.get_execution_options().get("promptgps_write") and not committing:
            committing.append(connection)
            raise OperationalError("COMMIT", {}, Exception("the connection was closed"))

    event.listen(context.store.engine, "commit", fail_once)
    with pytest.raises(Unavailable):
        select(context, 20, sequence=1)
    batch = select(context, 20, sequence=9)
    assert len(set(batch.draws.prompt)) == 20
    with opened_context(
        database_url
    ) as after:  # what was drawn can be told by whoever reads the database
        assert select(after, 20, sequence=9).draws == batch.draws


def test_a_run_over_two_pools_draws_from_both_and_names_prompts_of_both(context: Context) -> None:
    add(context, 10, pool="a")
    add(context, 10, pool="b")
    open_run(context, pools=[{"pool": "a"}, {"pool": "b"}])
    batch = select(context, 20)
    assert set(batch.draws.prompt) == {f"{pool}-{n}" for pool in "ab" for n in range(10)}
    add(context, 5, pool="a", first=10)
    add(context, 5, pool="b", first=10)
    report_groups(context, batch)
    settle(context)
    grown = select(context, 30)
    assert set(grown.draws.prompt) == {f"{pool}-{n}" for pool in "ab" for n in range(15)}
    report(context, prompt=["b-14", "a-14"], successes=[1, 2], trials=[2, 2])
    state = context.desk("run").state
    assert (float(state.successes[29]), float(state.successes[24])) == (1.0, 2.0)


def test_pools_that_do_not_fit_together_are_refused(context: Context) -> None:
    add(context, 4)
    with pytest.raises(NotFound):
        open_run(context, pools=[{"pool": "pool"}, {"pool": "nowhere"}])
    add(context, 0, pool="empty")
    with pytest.raises(Invalid, match="empty"):
        open_run(context, pools=[{"pool": "pool"}, {"pool": "empty"}])

"""A pool grows while a run is open: new prompts are known by key at once, to every process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from promptgps_client.wire import (
    AllocateBudget,
    Calibration,
    PredictDifficulty,
    Restore,
    Run,
    SendSubset,
    TakeSnapshot,
)
from promptgps_service.errors import NotFound
from promptgps_service.flow.allocate import allocate_budget
from promptgps_service.flow.context import Context
from promptgps_service.flow.open_run import describe_run
from promptgps_service.flow.predict import predict_difficulty
from promptgps_service.flow.restore import restore_run
from promptgps_service.flow.snapshot import take_snapshot
from promptgps_service.flow.subsets import send_subset
from promptgps_service.flow.trainer import Learning
from sqlalchemy import Connection, event

from tests.databases import opened_context
from tests.flow.driving import add, open_run, report, select, settle, step

SERVING = Learning(enabled=False, groups=32, seconds=0.2)


def predict(context: Context, *keys: str) -> list[float]:
    return predict_difficulty(context, PredictDifficulty(run="run", keys=list(keys))).success_mean


def budget(context: Context, key: str) -> None:
    asked = Calibration(keys=[key], successes=[1], trials=[2])
    allocate_budget(
        context, AllocateBudget(run="run", keys=[key, "pool-0"], total=4, calibration=asked)
    )


# Every request that names a prompt by key.
ASKED: dict[str, Callable[[Context, str], Any]] = {
    "predict": predict,
    "allocate": budget,
    "outcomes": lambda context, key: report(context, prompt=[key], successes=[1], trials=[2]),
    "candidates": lambda context, key: select(context, 1, candidates=[key]),
    "exclude": lambda context, key: select(context, 1, exclude=[key]),
    "subset": lambda context, key: send_subset(context, "run", SendSubset(keys=[key])),
}


def learned(context: Context) -> Run:
    """The run, once the model has learned from whatever any process has reported."""
    context.catch_up(context.desk("run").state)
    return settle(context)


@pytest.fixture
def run(context: Context) -> Context:
    """A process with a run over ten prompts."""
    add(context, 10)
    open_run(context)
    return context


@pytest.mark.parametrize("form", ASKED)
def test_a_new_key_is_known_in_every_process_whoever_is_asked_first(
    run: Context, database_url: str, form: str
) -> None:
    with opened_context(database_url, learning=SERVING) as other:
        other.desk("run")
        add(run, 5, first=10)
        ASKED[form](other, "pool-12")
        ASKED[form](run, "pool-14")
        add(other, 5, first=15)
        ASKED[form](run, "pool-19")
        assert describe_run(run, "run").prompts == 20
        assert run.desk("run").state.rows == 20


@pytest.mark.parametrize("form", [form for form in ASKED if form != "subset"])
def test_an_unknown_key_costs_no_write_though_the_pool_has_grown(run: Context, form: str) -> None:
    learned(run)
    add(run, 5, first=10)
    with pytest.raises(NotFound), writes(run) as written:
        ASKED[form](run, "nowhere")
    assert written == []


@contextmanager
def writes(context: Context) -> Iterator[list[str]]:
    """Statements that change a run or its rows."""
    written: list[str] = []

    def note(_connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(("INSERT INTO run", "UPDATE runs")):
            written.append(statement)

    event.listen(context.store.engine, "before_cursor_execute", note)
    try:
        yield written
    finally:
        event.remove(context.store.engine, "before_cursor_execute", note)


def test_what_is_reported_of_new_prompts_is_learned_and_predicted(
    run: Context, database_url: str
) -> None:
    with opened_context(database_url, learning=SERVING) as other:
        for number in range(3):
            step(run, 4, sequence=number)
        add(run, 10, first=10)
        keys = [f"pool-{number}" for number in range(10, 20)]
        before = predict(other, *keys)
        report(other, prompt=keys * 4, successes=[8] * 40, trials=[8] * 40)
        reported = learned(run)
        assert (reported.trained_through, reported.prompts) == (52, 20)
        assert all(after > first for after, first in zip(predict(run, *keys), before, strict=True))
        other.desk("run").trainer.update()
        assert predict(other, *keys) == pytest.approx(predict(run, *keys), rel=1e-6)


def test_a_learner_with_fewer_rows_than_the_log_learns_from_it(
    run: Context, database_url: str
) -> None:
    step(run, 4)
    learned(run)
    with opened_context(database_url, learning=SERVING) as other:
        for first in (10, 15):  # the learner hears of the rows by the log alone
            add(other, 5, first=first)
            report(other, prompt=[f"pool-{first + 4}"], successes=[2], trials=[2])
        assert learned(run).trained_through == 6
    assert len(predict(run, "pool-19")) == 1


def test_growth_goes_together_with_a_restore(run: Context, database_url: str) -> None:
    with opened_context(database_url, learning=SERVING) as other:
        step(run, 4, sequence=0)
        learned(run)
        take_snapshot(run, "run", TakeSnapshot(tag="t"))
        add(run, 5, first=10)
        report(other, prompt=["pool-12"], successes=[2], trials=[2])
        learned(run)
        restore_run(run, "run", Restore(tag="t"), None)
        # the rows stay, what was said of them is superseded
        assert run.desk("run").state.rows == 15
        other.desk("run").trainer.update()  # it would follow by itself a moment later
        assert predict(other, "pool-12") == pytest.approx(predict(run, "pool-12"))
        add(other, 5, first=15)
        report(other, prompt=["pool-12", "pool-17"], successes=[1, 1], trials=[2, 2])
        assert learned(run).trained_through == 6
        assert len(predict(other, "pool-17")) == 1
        assert len(set(select(other, 16, sequence=1).draws.prompt)) == 16


@pytest.mark.parametrize("shares", [{"quota": 0.5}, {"weight": 1.0}])
def test_growth_of_several_pools_keeps_their_shares(
    context: Context, shares: dict[str, float]
) -> None:
    for pool in ("a", "b"):
        add(context, 12, pool=pool)
    open_run(context, pools=[{"pool": "a"} | shares, {"pool": "b"} | shares])
    select(context, 4)
    for number in range(12, 24, 4):
        add(context, 4, pool="b", first=number)
        add(context, 2, pool="a", first=number)
        report(
            context, prompt=[f"b-{number + 3}", f"a-{number + 1}"], successes=[1, 2], trials=[2, 2]
        )
        drawn = select(context, 8)
        assert drawn.draws.pool is not None
        assert sorted(drawn.draws.pool) == ["a"] * 4 + ["b"] * 4
    assert settle(context).trained_through == 6
    state = context.desk("run").state
    assert int(state.trials.sum()) == 12

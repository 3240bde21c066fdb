"""Metrics: bounded, thinned, by name; and what is not answered is not read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from promptgps_client.wire import MAX_METRICS_STEPS, RunMetrics
from promptgps_service.errors import Invalid, NotFound
from promptgps_service.flow.context import Context
from promptgps_service.flow.metrics import run_metrics
from promptgps_service.store.tables import steps
from sqlalchemy import event, insert

from tests.flow.driving import add, open_run, settle, step


def fill(context: Context, count: int, *, gap_after: int = 0) -> None:
    """Steps of so many versions, from 1 on, some versions being no step's."""
    add(context, 10)
    open_run(context)
    with context.store.write() as unit:
        run_id = unit.runs.get("run").id
        rows: list[dict[str, Any]] = [
            {
                "run_id": run_id,
                "version": number + (3 if gap_after and number > gap_after else 0),
                "trained_through": 10 * number,
                "created_at": "",
                "metrics": {
                    "clock": float(number),
                    "log_loss": 0.5,
                    "uniform_brier": None,
                    "beta.log_loss": 0.6,
                }
                | ({"late": 1.0} if number > count // 2 else {}),
            }
            for number in range(1, count + 1)
        ]
        unit.connection.execute(insert(steps), rows)


def clocks(found: RunMetrics) -> list[float | None]:
    return found.series["clock"]


@contextmanager
def rows_read(context: Context) -> Iterator[list[int]]:
    """How many rows with metrics the database has answered, query by query."""
    counted: list[int] = []

    def after(_connection: Any, cursor: Any, statement: str, *_rest: Any) -> None:
        if "steps.metrics" in statement.split("FROM")[0]:
            counted.append(cursor.rowcount)

    event.listen(context.store.engine, "after_cursor_execute", after)
    try:
        yield counted
    finally:
        event.remove(context.store.engine, "after_cursor_execute", after)


def test_an_answer_is_bounded_and_says_where_to_go_on(context: Context) -> None:
    total = MAX_METRICS_STEPS + 300
    fill(context, total, gap_after=100)
    newest = run_metrics(context, "run")
    assert (newest.steps, newest.next) == (MAX_METRICS_STEPS, None)
    assert clocks(newest)[-1] == total

    course: list[float | None] = []
    since: int | None = 0
    pages = 0
    while since is not None:
        page = run_metrics(context, "run", since=since)
        assert {len(values) for values in page.series.values()} == {page.steps}
        assert page.steps <= MAX_METRICS_STEPS
        course += clocks(page)
        pages = pages + 1
        since = page.next
    assert course == [float(number) for number in range(1, total + 1)]
    assert pages == 2


def test_every_kth_step_over_all_pages(context: Context) -> None:
    fill(context, 23, gap_after=7)
    assert clocks(run_metrics(context, "run", every=5)) == [1, 6, 11, 16, 21]
    assert clocks(run_metrics(context, "run", since=10, every=5)) == [8, 13, 18, 23]
    assert clocks(run_metrics(context, "run", since=13)) == list(range(10, 24))
    beyond = run_metrics(context, "run", since=1_000)
    assert (beyond.steps, beyond.next, clocks(beyond)) == (0, None, [])


def test_what_is_not_answered_is_not_read(context: Context) -> None:
    fill(context, 400)
    if (
        context.store.engine.dialect.name == "sqlite"
    ):  # which tells no number of rows: what is read breaks
        with context.store.write() as unit:
            unit.connection.exec_driver_sql(
                "UPDATE steps SET metrics = '{' WHERE version % 100 > 0 AND version < 390"
            )
    with rows_read(context) as counted:
        assert clocks(run_metrics(context, "run", since=100, every=100)) == [100, 200, 300, 400]
        assert clocks(run_metrics(context, "run", since=390)) == list(range(390, 401))
    assert sum(counted) <= 4 + 11 + 2  # and the newest step each time, for the names


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        ("clock", ["clock"]),
        ("log_loss", ["log_loss"]),
        ("log_loss, beta.", ["log_loss", "beta.log_loss"]),
        ("uniform_,clock,", ["clock", "uniform_brier"]),
        ("late", ["late"]),
        ("model_version", []),
        ("", []),
    ],
)
def test_series_go_by_name_or_by_its_beginning(
    context: Context, series: str, expected: list[str]
) -> None:
    fill(context, 8)
    found = run_metrics(context, "run", series=series)
    assert list(found.series) == ["model_version", "trained_through", *expected]
    early = run_metrics(context, "run", series=series, since=0, every=100)
    assert list(early.series) == list(found.series)
    assert early.steps == 1


def test_an_unknown_series_is_refused_with_those_near_it(context: Context) -> None:
    fill(context, 3)
    with pytest.raises(Invalid) as refused:
        run_metrics(context, "run", series="clock,logloss,nothing_like_it")
    faults = refused.value.faults
    assert [fault.field for fault in faults] == ["series", "series"]
    assert "'logloss'" in faults[0].detail
    assert "log_loss" in faults[0].detail
    assert "uniform_brier" in faults[1].detail
    with pytest.raises(NotFound):
        run_metrics(context, "nobody", series="clock")


def test_a_run_that_has_learned_nothing_has_no_series_to_mistake(context: Context) -> None:
    add(context, 10)
    open_run(context)
    found = run_metrics(context, "run", series="log_loss")
    assert (found.steps, found.next) == (0, None)
    step(context, 4)
    settle(context)
    assert run_metrics(context, "run", series="log_loss").series["log_loss"]

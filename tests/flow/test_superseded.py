"""What is reported late of draws that a restore has superseded."""

from __future__ import annotations

from typing import Any

import pytest
from promptgps_service.errors import NotFound
from promptgps_service.flow.context import Context
from promptgps_service.flow.snapshot import list_snapshots

from tests.flow.driving import add, log_length, open_run, report, select, settle
from tests.flow.test_snapshots import drive, restore, snapshot, stored


def test_outcomes_of_superseded_draws_are_kept_and_not_learned_from(context: Context) -> None:
    add(context, 40)
    open_run(context)
    drive(context, range(1))
    settle(context)
    snapshot(context, "one")
    late = select(context, 8, sequence=1)
    restore(context, "one")
    again = select(context, 8, sequence=1)
    assert late.draws.prompt == again.draws.prompt
    both = [*late.draws.draw_id[:3], *again.draws.draw_id[:2]]
    for expected in ((2, 0, [], 3), (0, 2, [], 3)):
        answer = report(context, draw_id=both, successes=[8] * 5, trials=[8] * 5)
        assert (answer.stored, answer.duplicates, answer.conflicts, answer.superseded) == expected
        assert answer.log_position == 10
    assert list_snapshots(context, "run").restores[0].superseded.outcomes == 3
    assert float(context.desk("run").state.trials.sum()) == 8 * 10
    single = report(
        context, draw_id=late.draws.draw_id[3:4] * 2, rollout_index=[0, 7], reward=[1.0, 0.0]
    )
    assert (single.stored, single.superseded) == (0, 2)
    assert stored(context, "SELECT count(*), max(superseded_in) FROM superseded_outcomes") == [
        (5, 1)
    ]


def test_a_draw_is_of_the_epoch_in_which_it_was_issued(context: Context) -> None:
    add(context, 40)
    open_run(context)
    snapshot(context, "start")
    ids = []
    for _ in range(3):
        ids.append(select(context, 4).draws.draw_id)
        restore(context, "start")
    standing = select(context, 4).draws.draw_id
    assert [names[0] for names in (*ids, standing)] == ["d1-0", "d1.1-0", "d1.2-0", "d1.3-0"]
    answer = report(
        context, draw_id=[*ids[2], *standing, *ids[0]], successes=[1] * 12, trials=[8] * 12
    )
    assert (answer.stored, answer.superseded, answer.log_position) == (4, 8, 4)
    counts = (
        "SELECT superseded_in, count(*) FROM superseded_outcomes"
        " GROUP BY superseded_in ORDER BY superseded_in"
    )
    assert stored(context, counts) == [(1, 4), (3, 4)]


@pytest.mark.parametrize(
    "unknown", ["d1.9-0", "d1.1-77", "d1-4", "d2-0", "d1.0-0", "d1.1-", "d1.01-0"]
)
def test_ids_that_nobody_was_given_are_refused(context: Context, unknown: str) -> None:
    add(context, 40)
    open_run(context)
    snapshot(context, "start")
    superseded = select(context, 4).draws.draw_id
    restore(context, "start")
    standing = select(context, 4).draws.draw_id
    with pytest.raises(NotFound) as refused:
        report(
            context,
            draw_id=[standing[0], superseded[0], unknown],
            successes=[1] * 3,
            trials=[8] * 3,
        )
    assert [(fault.field, fault.row) for fault in refused.value.faults] == [("draw_id", 2)]
    assert log_length(context) == 0
    assert stored(context, "SELECT count(*) FROM superseded_outcomes") == [(0,)]


def test_outcomes_by_prompt_are_news_again(context: Context) -> None:
    add(context, 40)
    open_run(context)
    before: dict[str, Any] = {"prompt": ["pool-1"], "successes": [1], "trials": [4]}
    after: dict[str, Any] = {"prompt": ["pool-2", "pool-3"], "successes": [1, 2], "trials": [4, 4]}
    report(context, key="before", **before)
    snapshot(context, "here")
    report(context, key="after", **after)
    restore(context, "here")
    again = report(context, key="before", **before)
    assert (again.stored, again.duplicates, again.log_position) == (0, 1, 1)
    for expected in ((2, 0), (0, 2)):
        answer = report(context, key="after", **after)
        assert (answer.stored, answer.duplicates, answer.log_position) == (*expected, 3)

"""Outcomes: once each, late or not, in whole or by rollouts; a refused report leaves nothing."""

from __future__ import annotations

from typing import Any

import pytest
from promptgps_client.wire import Batch
from promptgps_service.errors import Conflict, Invalid, NotFound
from promptgps_service.flow.context import Context

from tests.flow.driving import add, log_length, open_run, report, report_groups, select, settle


@pytest.fixture
def batch(context: Context) -> Batch:
    add(context, 30)
    open_run(context)
    return select(context, 4)


def counts(context: Context, key: str, run: str = "run") -> tuple[float, float]:
    """Successes and trials of a prompt (number n of the pool stands in row n)."""
    row = int(key.split("-")[1])
    state = context.desk(run).state
    return float(state.successes[row]), float(state.trials[row])


def pending(context: Context, key: str) -> int:
    return int(context.desk("run").state.traffic.open[int(key.split("-")[1])])


def test_groups_are_stored_once(context: Context, batch: Batch) -> None:
    first = report_groups(context, batch)
    assert (first.stored, first.duplicates, first.conflicts, first.log_position) == (4, 0, [], 4)
    again = report_groups(context, batch)
    assert (again.stored, again.duplicates, again.conflicts, again.log_position) == (0, 4, [], 4)
    assert log_length(context) == 4


def test_rollouts_are_stored_once_each(context: Context, batch: Batch) -> None:
    draw = batch.draws.draw_id[0]
    part = report(context, draw_id=[draw] * 3, rollout_index=[0, 1, 7], reward=[1.0, 0.0, 1.0])
    assert (part.stored, part.duplicates, part.log_position) == (3, 0, 3)
    whole = report(
        context, draw_id=[draw] * 4, rollout_index=[7, 1, 2, 0], reward=[1.0, 0.0, 1.0, 1.0]
    )
    assert (whole.stored, whole.duplicates, whole.conflicts) == (1, 3, [])
    assert counts(context, batch.draws.prompt[0]) == (3.0, 4.0)


def test_a_repetition_within_a_report_is_a_duplicate_and_a_contradiction_a_conflict(
    context: Context, batch: Batch
) -> None:
    draw = batch.draws.draw_id[0]
    answer = report(context, draw_id=[draw] * 3, rollout_index=[0, 0, 0], reward=[1.0, 1.0, 0.0])
    assert (answer.stored, answer.duplicates, answer.conflicts) == (1, 1, [2])


def test_a_contradiction_changes_nothing_and_the_rest_is_stored(
    context: Context, batch: Batch
) -> None:
    ids = batch.draws.draw_id
    report(context, draw_id=ids[:2], successes=[3, 4], trials=[8, 8])
    answer = report(context, draw_id=ids, successes=[3, 5, 6, 7], trials=[8, 8, 8, 8])
    assert (answer.stored, answer.duplicates, answer.conflicts, answer.log_position) == (
        2,
        1,
        [1],
        4,
    )
    assert counts(context, batch.draws.prompt[1]) == (4.0, 8.0)


def test_a_rollout_of_a_group_that_was_reported_whole_is_known(
    context: Context, batch: Batch
) -> None:
    one, two = batch.draws.draw_id[:2]
    report(context, draw_id=[one], successes=[3], trials=[8])
    report(context, draw_id=[two], rollout_index=[0], reward=[1.0])
    assert report(context, draw_id=[one], rollout_index=[0], reward=[1.0]).duplicates == 1
    assert report(context, draw_id=[two], successes=[3], trials=[8]).stored == 1
    assert [counts(context, key) for key in batch.draws.prompt[:2]] == [(3.0, 8.0), (3.0, 8.0)]
    assert log_length(context) == 3


def test_the_policy_version_is_no_part_of_what_an_outcome_says(
    context: Context, batch: Batch
) -> None:
    ids = batch.draws.draw_id[:1]
    report(context, draw_id=ids, successes=[3], trials=[8], policy_version=1)
    assert report(context, draw_id=ids, successes=[3], trials=[8], policy_version=2).duplicates == 1


def test_late_outcomes_are_taken(context: Context, batch: Batch) -> None:
    for _ in range(10):
        report_groups(context, select(context, 2))
    assert report_groups(context, batch).stored == 4
    assert settle(context).trained_through == 24


@pytest.mark.parametrize("status", ["error", "timeout", "cancelled"])
def test_a_failed_rollout_closes_the_draw_and_is_no_evidence(
    context: Context, batch: Batch, status: str
) -> None:
    key = batch.draws.prompt[0]
    assert pending(context, key) == 1
    answer = report(
        context, draw_id=batch.draws.draw_id[:1], rollout_index=[0], reward=[None], status=[status]
    )
    assert answer.stored == 1
    assert pending(context, key) == 0
    assert counts(context, key) == (0.0, 0.0)
    assert settle(context).trained_through == 1  # the model has read it, and learned nothing


def test_a_truncated_rollout_is_evidence(context: Context, batch: Batch) -> None:
    report(
        context,
        draw_id=batch.draws.draw_id[:1] * 2,
        rollout_index=[0, 1],
        reward=[0.0, 1.0],
        status=["truncated", "truncated"],
    )
    assert counts(context, batch.draws.prompt[0]) == (1.0, 2.0)


def test_the_first_of_many_rollouts_ends_the_waiting_and_the_others_change_nothing_there(
    context: Context, batch: Batch
) -> None:
    for index in range(3):
        report(context, draw_id=batch.draws.draw_id[:1], rollout_index=[index], reward=[1.0])
        assert pending(context, batch.draws.prompt[0]) == 0
    assert pending(context, batch.draws.prompt[1]) == 1


def test_outcomes_from_elsewhere_go_by_key_and_count_as_often_as_they_come(
    context: Context, batch: Batch
) -> None:
    for position in (2, 4):
        answer = report(
            context,
            prompt=["pool-29", "pool-29"],
            successes=[1, 2],
            trials=[4, 4],
            policy_version=[0, 7],
        )
        assert (answer.stored, answer.log_position) == (2, position)
    assert counts(context, "pool-29") == (6.0, 16.0)
    assert pending(context, batch.draws.prompt[0]) == 1


def test_an_idempotency_key_makes_a_report_by_key_count_once(
    context: Context, batch: Batch
) -> None:
    columns: dict[str, Any] = {
        "prompt": ["pool-1", "pool-2"],
        "successes": [1, 2],
        "trials": [4, 4],
    }
    first = report(context, key="a", **columns)
    again = report(context, key="a", **columns)
    assert (first.stored, first.duplicates) == (2, 0)
    assert (again.stored, again.duplicates, again.log_position) == (0, 2, 2)
    with pytest.raises(Conflict):
        report(context, key="a", prompt=["pool-1"], successes=[1], trials=[4])
    assert report(context, key="b", **columns).stored == 2
    assert log_length(context) == 4


def test_draws_and_prompts_that_are_not_of_the_run_are_named_by_row(
    context: Context, batch: Batch
) -> None:
    open_run(context, name="other")
    theirs = select(context, 1, run="other").draws.draw_id[0]
    mine = batch.draws.draw_id[0]
    ids = [mine, theirs, "d0", "", mine.replace("-0", "-4"), "d99999999999999999999-1"]
    with pytest.raises(NotFound) as refused:
        report(context, draw_id=[draw or "-" for draw in ids], successes=[1] * 6, trials=[1] * 6)
    assert [(fault.field, fault.row) for fault in refused.value.faults] == [
        ("draw_id", row) for row in range(1, 6)
    ]
    with pytest.raises(NotFound) as unknown:
        report(context, prompt=["pool-1", "nobody"], successes=[1, 1], trials=[1, 1])
    assert [(fault.field, fault.row) for fault in unknown.value.faults] == [("prompt", 1)]
    assert log_length(context) == 0
    assert pending(context, batch.draws.prompt[0]) == 1


def test_a_row_that_the_run_does_not_allow_refuses_the_report(
    context: Context, batch: Batch
) -> None:
    ids = batch.draws.draw_id
    with pytest.raises(Invalid) as refused:
        report(context, draw_id=ids[:2], rollout_index=[0, 8], reward=[1.0, 1.0])
    assert (refused.value.faults[0].field, refused.value.faults[0].row) == ("rollout_index", 1)
    with pytest.raises(Invalid) as fraction:
        report(context, draw_id=ids[:2], rollout_index=[0, 1], reward=[1.0, 0.5])
    assert (fraction.value.faults[0].field, fraction.value.faults[0].row) == ("reward", 1)
    with pytest.raises(Invalid) as half:
        report(context, draw_id=ids[:2], successes=[1, 2.5], trials=[8, 8])
    assert (half.value.faults[0].field, half.value.faults[0].row) == ("successes", 1)
    assert log_length(context) == 0
    assert report_groups(context, batch).stored == 4


@pytest.mark.parametrize(
    ("mapping", "rewards", "expected"),
    [
        ({"kind": "binary"}, [0.0, 1.0], [0.0, 1.0]),
        ({"kind": "threshold", "threshold": 0.5}, [0.49, 0.5, 7.0, -3.0], [0.0, 1.0, 1.0, 0.0]),
        (
            {"kind": "affine", "low": -1.0, "high": 3.0},
            [-1.0, 0.0, 2.0, 3.0, 9.0, -9.0],
            [0, 0.25, 0.75, 1, 1, 0],
        ),
    ],
)
def test_rewards_become_successes_and_are_kept_as_they_came(
    context: Context,
    batch: Batch,
    mapping: dict[str, Any],
    rewards: list[float],
    expected: list[float],
) -> None:
    open_run(context, name="mapped", reward=mapping)
    draw = select(context, 1, run="mapped")
    report(
        context,
        run="mapped",
        draw_id=draw.draws.draw_id * len(rewards),
        rollout_index=list(range(len(rewards))),
        reward=rewards,
    )
    state = context.desk("mapped").state
    with context.store.read() as unit:
        lines = unit.log.of_draws(state.id, [0])
    assert [line.reward for line in sorted(lines, key=lambda line: line.rollout)] == rewards
    assert [line.successes for line in sorted(lines, key=lambda line: line.rollout)] == expected
    assert counts(context, draw.draws.prompt[0], "mapped") == (sum(expected), len(rewards))


def test_only_a_run_with_an_affine_reward_takes_fractions_of_successes(
    context: Context, batch: Batch
) -> None:
    open_run(context, name="mapped", reward={"kind": "affine", "low": 0.0, "high": 1.0})
    ids = select(context, 1, run="mapped").draws.draw_id
    assert report(context, run="mapped", draw_id=ids, successes=[2.5], trials=[8]).stored == 1


def test_an_outcome_without_trials_closes_the_draw_and_is_no_evidence(
    context: Context, batch: Batch
) -> None:
    report(context, draw_id=batch.draws.draw_id[:1], successes=[0], trials=[0])
    assert pending(context, batch.draws.prompt[0]) == 0
    assert counts(context, batch.draws.prompt[0]) == (0.0, 0.0)
    assert settle(context).trained_through == 1

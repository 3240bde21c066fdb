"""Binary rewards: two values, 0 and 1 or −1 and 1, as the first failure shows.

Up to rounding, kept as they came.
"""

from __future__ import annotations

from typing import Any

import pytest
from promptgps_client.wire import ChangeRun, CreateRun, Reward
from promptgps_service.errors import Conflict, Invalid
from promptgps_service.flow.context import Context
from promptgps_service.flow.open_run import change_run, create_run, describe_run
from pydantic import ValidationError

from tests.databases import opened_context
from tests.flow.driving import WAIT, add, log_length, open_run, report, select, settle
from tests.flow.test_snapshots import restore, snapshot, stored

BF16_BELOW_ONE = 0.99609375


@pytest.fixture(autouse=True)
def run(context: Context) -> None:
    add(context, 40)
    open_run(context)


def rollouts(context: Context, rewards: list[float | None], **changes: Any) -> Any:
    """Report rewards of the rollouts of a new draw."""
    draw = select(context, 1).draws.draw_id
    columns = {
        "draw_id": draw * len(rewards),
        "rollout_index": list(range(len(rewards))),
        "reward": rewards,
    }
    return report(context, **columns | changes)


def values(context: Context) -> list[float] | None:
    return describe_run(context, "run").reward.values


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        ([[1.0, 0.0]], [0.0, 1.0]),
        ([[1.0], [-1.0, 1.0]], [-1.0, 1.0]),
        ([[1.0, 1.0]], None),
        ([[0.99999994, -0.99999994]], [-1.0, 1.0]),
        ([[1.00000012, 1e-8]], [0.0, 1.0]),
        ([[BF16_BELOW_ONE, -BF16_BELOW_ONE, 1.0078125]], [-1.0, 1.0]),
        ([[-0.0]], [0.0, 1.0]),
    ],
)
def test_the_first_failure_decides_and_everybody_knows(
    context: Context, database_url: str, reports: list[list[float]], expected: list[float] | None
) -> None:
    with opened_context(database_url) as replica:
        assert values(replica) is None
        for rewards in reports:
            rollouts(context, list(rewards))
        assert values(context) == values(replica) == expected
    with opened_context(database_url) as later:
        assert values(later) == expected
    everything = [reward for rewards in reports for reward in rewards]
    kept = [
        reward for (reward,) in stored(context, "SELECT reward FROM outcomes ORDER BY position")
    ]
    assert kept == everything
    state = context.desk("run").state
    assert float(state.successes.sum()) == sum(reward > 0.5 for reward in everything)
    assert settle(context).trained_through == len(everything)


@pytest.mark.parametrize(("first", "second"), [(0.0, -1.0), (-1.0, 0.0)])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_afterwards_the_other_value_is_refused(
    context: Context, database_url: str, first: float, second: float, elsewhere: bool
) -> None:
    rollouts(context, [first, 1.0])
    with opened_context(database_url) as replica, pytest.raises(Invalid) as refused:
        rollouts(replica if elsewhere else context, [1.0, second, second])
    faults = refused.value.faults
    assert [(fault.field, fault.row) for fault in faults] == [("reward", 1), ("reward", 2)]
    assert repr(second) in faults[0].detail
    assert f"{first:.0f}" in faults[0].detail
    assert "threshold" in faults[0].detail
    assert log_length(context) == 2


def test_both_failures_in_one_report_are_refused_with_both_rows(context: Context) -> None:
    with pytest.raises(Invalid) as refused:
        rollouts(context, [1.0, -1.0, 1.0, 0.0, 0.0, -1.0])
    assert [fault.row for fault in refused.value.faults] == [1, 3, 4]
    assert "row 1 has -1.0 and row 3 has 0.0" in refused.value.detail
    assert values(context) is None
    assert log_length(context) == 0


def test_every_wrong_row_is_named_with_its_whole_value(context: Context) -> None:
    draw = select(context, 1).draws.draw_id
    with pytest.raises(Invalid) as refused:
        report(
            context,
            draw_id=draw * 6,
            rollout_index=[0, 9, 2, 3, 8, 5],
            reward=[1.0, 1.0, 0.30000000000000004, None, 0.0, 0.9892578125],
            status=["ok", "ok", "ok", "error", "ok", "ok"],
        )
    told = {(fault.field, fault.row): fault.detail for fault in refused.value.faults}
    assert list(told) == [("rollout_index", 1), ("reward", 2), ("rollout_index", 4), ("reward", 5)]
    assert "0.30000000000000004" in told["reward", 2]
    assert "0.9892578125" in told["reward", 5]
    assert "PATCH" in told["reward", 2], "nothing is stored yet"
    assert "4 of 6 rows" in refused.value.detail
    assert log_length(context) == 0


def test_what_says_nothing_and_what_is_no_news_decides_nothing(context: Context) -> None:
    rollouts(context, [-1.0, 0.0], status=["error", "timeout"])
    assert values(context) is None
    batch = select(context, 1)
    report(context, draw_id=batch.draws.draw_id, rollout_index=[0], reward=[1.0])
    answer = report(context, draw_id=batch.draws.draw_id, rollout_index=[0], reward=[-1.0])
    assert answer.conflicts == [0]
    assert values(context) is None


def test_a_decision_goes_back_with_the_run(context: Context) -> None:
    snapshot(context, "start")
    late = select(context, 1).draws.draw_id
    rollouts(context, [0.0, 1.0])
    snapshot(context, "decided")
    restore(context, "start")
    assert values(context) is None
    assert report(context, draw_id=late, rollout_index=[0], reward=[0.0]).superseded == 1
    assert values(context) is None, "what is superseded shows nothing of the run as it is"
    rollouts(context, [-1.0, 1.0])
    assert values(context) == [-1.0, 1.0]


def test_a_decision_costs_a_learner_nothing(context: Context) -> None:
    """It is no new revision of the settings, for which what is being learned would be dropped."""
    before = context.desk("run").state.revision
    rollouts(context, [-1.0, 1.0])
    with context.store.read() as unit:
        assert unit.runs.get("run").revision == before
    found = settle(context)
    assert (found.model_version, found.trained_through) == (1, 2)
    change_run(context, "run", ChangeRun(rollouts_per_prompt=4))
    assert values(context) == [-1.0, 1.0]


def test_a_log_of_version_0_1_0_has_zeros_and_ones(context: Context) -> None:
    rollouts(context, [0.0, 1.0])
    with context.store.write() as unit:
        record = unit.runs.lock(unit.runs.get("run").id)
        reward = {
            name: value for name, value in record.settings["reward"].items() if name != "values"
        }
        unit.runs.set_settings(record.id, record.settings | {"reward": reward})
    assert values(context) is None
    with pytest.raises(Invalid) as refused:
        rollouts(context, [-1.0, 1.0])
    assert [fault.row for fault in refused.value.faults] == [0]
    rollouts(context, [0.0])
    assert values(context) == [0.0, 1.0]


def test_values_can_be_given(context: Context) -> None:
    open_run(context, name="given", reward={"kind": "binary", "values": [-1, 1]})
    draw = select(context, 1, run="given").draws.draw_id
    with pytest.raises(Invalid):
        report(context, run="given", draw_id=draw, rollout_index=[0], reward=[0.0])
    assert report(context, run="given", draw_id=draw, rollout_index=[0], reward=[-1.0]).stored == 1
    for wrong in (
        {"values": [1, 0]},
        {"values": [0, 2]},
        {"kind": "threshold", "threshold": 1.0, "values": [0, 1]},
    ):
        with pytest.raises(ValidationError, match="values"):
            Reward.model_validate(wrong)


# ---- another reward, while nothing is stored ---------------------------------------------------


def test_the_reward_can_be_changed_while_nothing_is_stored(
    context: Context, database_url: str
) -> None:
    affine = Reward(kind="affine", low=-1.0, high=3.0)
    with opened_context(database_url) as replica:
        replica.desk("run")
        assert change_run(context, "run", ChangeRun(reward=affine)).reward == affine
        batch = select(replica, 1, wait_seconds=WAIT)
        report(replica, draw_id=batch.draws.draw_id * 2, rollout_index=[0, 1], reward=[0.0, 3.0])
        assert float(replica.desk("run").state.successes.sum()) == 1.25
        softness = replica.desk("run").state.softness()
    assert softness is not None
    assert change_run(context, "run", ChangeRun(reward=affine)).reward == affine, (
        "no change is no conflict"
    )
    with pytest.raises(Conflict) as refused:
        change_run(context, "run", ChangeRun(reward=Reward(kind="threshold", threshold=0.5)))
    assert refused.value.faults[0].field == "reward"
    assert "2 outcomes" in refused.value.detail
    context.catch_up(context.desk("run").state)
    again = context.desk("run").state.softness()
    assert again is not None
    assert again.tolist() == softness.tolist()


def test_a_reward_that_was_changed_goes_back_with_the_run(context: Context) -> None:
    snapshot(context, "binary")
    change_run(context, "run", ChangeRun(reward=Reward(kind="affine", low=0.0, high=1.0)))
    rollouts(context, [0.5])
    restore(context, "binary")
    assert describe_run(context, "run").reward == Reward()
    with pytest.raises(Invalid):
        rollouts(context, [0.5])
    assert context.desk("run").state.softness() is None


def test_the_run_is_what_is_asked_for_whatever_its_reports_have_shown(context: Context) -> None:
    rollouts(context, [-1.0, 1.0])
    asked: dict[str, Any] = {"name": "run", "pool": "pool", "seed": 11}
    for reward in ({}, {"reward": Reward()}, {"reward": Reward(values=[-1.0, 1.0])}):
        found, new = create_run(context, CreateRun(**asked | reward))
        assert (found.reward.values, new) == ([-1.0, 1.0], False)
    with pytest.raises(Conflict):
        create_run(context, CreateRun(**asked, reward=Reward(values=[0.0, 1.0])))


# ---- tolerances of the others ------------------------------------------------------------------


def test_groups_are_whole_up_to_rounding(context: Context) -> None:
    ids = select(context, 5).draws.draw_id
    report(
        context, draw_id=ids, successes=[2.9999998, 8.000001, -1e-9, 5.03125, 1.0], trials=[8] * 5
    )
    kept = stored(context, "SELECT successes FROM outcomes ORDER BY position")
    assert [successes for (successes,) in kept] == [3.0, 8.0, 0.0, 5.0, 1.0]
    again = report(context, draw_id=ids, successes=[3, 8, 0, 5, 1], trials=[8] * 5)
    assert again.duplicates == 5
    more = select(context, 3).draws.draw_id
    with pytest.raises(Invalid) as refused:
        report(context, draw_id=more, successes=[0.95, 1.0, 2.5], trials=[8] * 3)
    assert [(fault.field, fault.row) for fault in refused.value.faults] == [
        ("successes", 0),
        ("successes", 2),
    ]
    assert "0.95" in refused.value.faults[0].detail


def test_rewards_far_outside_their_range_are_cut_with_a_warning(context: Context) -> None:
    change_run(context, "run", ChangeRun(reward=Reward(kind="affine", low=-1.0, high=1.0)))
    assert rollouts(context, [-1.00000012, 1.0078125, 0.0]).warnings == []
    (warning,) = rollouts(
        context, [1.5, 0.0, -7.0, None], status=["ok", "ok", "ok", "error"]
    ).warnings
    assert "1.5 in row 0" in warning
    assert "-7.0 in row 2" in warning
    assert "[-1.0, 1.0]" in warning


def test_a_threshold_holds_up_to_rounding_of_float32(context: Context) -> None:
    change_run(context, "run", ChangeRun(reward=Reward(kind="threshold", threshold=1.0)))
    rollouts(context, [0.99999994, 0.999, 1.0])
    assert stored(context, "SELECT successes FROM outcomes ORDER BY position") == [
        (1.0,),
        (0.0,),
        (1.0,),
    ]


def test_a_rollout_sent_again_after_rounding_is_the_same(context: Context) -> None:
    change_run(context, "run", ChangeRun(reward=Reward(kind="affine", low=0.0, high=100.0)))
    draw = select(context, 1).draws.draw_id
    exact = [33.3, 66.6, 99.9]
    rounded = [33.25, 66.5, 100.0]  # to bfloat16
    for rewards, expected in ((exact, (3, 0)), (rounded, (0, 3))):
        answer = report(context, draw_id=draw * 3, rollout_index=[0, 1, 2], reward=rewards)
        assert (answer.stored, answer.duplicates, answer.conflicts) == (*expected, [])
    assert report(context, draw_id=draw, rollout_index=[0], reward=[35.0]).conflicts == [0]

"""A run that is asked for again is compared with what it is now.

A refusal says what can be done.
"""

from __future__ import annotations

from typing import Any

import pytest
from promptgps_client.wire import ChangeRun, CreateRun, Run, Selection
from promptgps_service.errors import Conflict
from promptgps_service.flow.context import Context
from promptgps_service.flow.open_run import change_run, create_run, describe_run
from promptgps_service.store.tables import runs
from sqlalchemy import update

from tests.databases import opened_context
from tests.flow.driving import add, open_run, report, select
from tests.flow.test_snapshots import restore, snapshot


@pytest.fixture(autouse=True)
def pools(context: Context) -> None:
    for pool in ("pool", "other"):
        add(context, 20, pool=pool)


def ask(context: Context, **asked: Any) -> tuple[Run, bool]:
    return create_run(context, CreateRun.model_validate({"name": "run", "pool": "pool"} | asked))


def conflict(context: Context, **asked: Any) -> Conflict:
    before = describe_run(context, "run").model_dump(exclude={"progress"})  # which tells an age
    with pytest.raises(Conflict) as refused:
        ask(context, **asked)
    assert describe_run(context, "run").model_dump(exclude={"progress"}) == before
    return refused.value


@pytest.mark.parametrize(
    ("change", "asked", "field"),
    [
        ({"rollouts_per_prompt": 16}, {"rollouts_per_prompt": 16}, "rollouts_per_prompt"),
        ({"selection": Selection(bonus=0.3)}, {"selection": {"bonus": 0.3}}, "selection.bonus"),
        (
            {"selection": Selection(retire_above=0.9)},
            {"selection": {"retire_above": 0.9}},
            "selection.retire_above",
        ),
    ],
)
def test_it_is_compared_with_what_the_run_is_after_a_patch(
    context: Context, database_url: str, change: dict[str, Any], asked: dict[str, Any], field: str
) -> None:
    ask(context)
    change_run(context, "run", ChangeRun(**change))
    with opened_context(database_url) as restarted:
        for process in (context, restarted):
            found, new = ask(process, **asked)
            assert (found, new) == (describe_run(process, "run"), False)
            refused = conflict(process)
            assert [fault.field for fault in refused.faults] == [field]
            assert "re-tuned since" in refused.detail
            assert "GET /runs/run" in refused.detail
    back = {"rollouts_per_prompt": 8, "selection": {"strategy": "promptgps"}}
    change_run(context, "run", ChangeRun.model_validate(back))
    assert not ask(context)[1]


def test_it_is_compared_with_what_the_run_is_after_a_restore(context: Context) -> None:
    ask(context)
    select(context, 2)
    snapshot(context, "before")
    change_run(context, "run", ChangeRun(rollouts_per_prompt=16))
    restore(context, "before")
    assert not ask(context, rollouts_per_prompt=8)[1]
    assert conflict(context, rollouts_per_prompt=16).faults[0].field == "rollouts_per_prompt"


@pytest.mark.parametrize(
    ("asked", "field", "here", "there", "changeable"),
    [
        ({"rollouts_per_prompt": 4}, "rollouts_per_prompt", "8", "4", True),
        ({"seed": 9}, "seed", "0", "9", False),
        ({"pool": "other"}, "pools", "pool", "other", False),
        ({"reward": {"kind": "threshold", "threshold": 0.1}}, "reward", "binary", "0.1", True),
        ({"selection": {"utility": "variance"}}, "selection.utility", "mixed", "variance", True),
        (
            {"selection": {"strategy": "uniform"}},
            "selection.strategy",
            "promptgps",
            "uniform",
            True,
        ),
    ],
)
def test_a_refusal_names_both_values_and_only_what_can_be_changed(
    context: Context, asked: dict[str, Any], field: str, here: str, there: str, changeable: bool
) -> None:
    ask(context)
    refused = conflict(context, **asked)
    told = {fault.field: fault.detail for fault in refused.faults}
    assert here in told[field]
    assert there in told[field]
    assert ("PATCH" in refused.detail) == changeable
    assert ("another name" in refused.detail) == (not changeable)


def test_a_reward_cannot_be_changed_once_outcomes_are_stored(context: Context) -> None:
    ask(context)
    draw = select(context, 1).draws.draw_id
    report(context, draw_id=draw, successes=[1], trials=[8])
    refused = conflict(
        context, reward={"kind": "threshold", "threshold": 0.1}, rollouts_per_prompt=4
    )
    assert {fault.field for fault in refused.faults} == {"reward", "rollouts_per_prompt"}
    assert "another name" in refused.detail
    assert "PATCH" not in refused.detail


def test_the_same_pools_in_another_order_and_unit_are_the_same(context: Context) -> None:
    def of(*shares: dict[str, Any]) -> dict[str, Any]:
        return {"pool": None, "pools": list(shares)}

    ask(context, **of({"pool": "pool", "weight": 1.0}, {"pool": "other", "weight": 3.0}))
    assert not ask(
        context, **of({"pool": "other", "weight": 6.0}, {"pool": "pool", "weight": 2.0})
    )[1]
    assert not ask(context, **of({"pool": "other", "weight": 3.0}, {"pool": "pool"}))[1]
    for other in (
        of({"pool": "pool"}, {"pool": "other"}),
        of({"pool": "pool", "weight": 3.0}, {"pool": "other", "weight": 1.0}),
        of({"pool": "pool", "quota": 0.25}, {"pool": "other", "quota": 0.75}),
        {"pool": "pool"},
    ):
        assert [fault.field for fault in conflict(context, **other).faults] == ["pools"]


def test_one_pool_is_the_same_however_it_is_named(context: Context) -> None:
    ask(context)
    assert not ask(context, pool=None, pools=[{"pool": "pool", "weight": 2.0}])[1]


def test_a_preset_spelled_out_is_the_preset(context: Context) -> None:
    open_run(context, selection={"strategy": "uniform"})
    spelled = describe_run(context, "run").selection.model_dump()
    assert not ask(context, seed=11, selection=spelled)[1]
    named = {**spelled, "strategy": "promptgps"}
    assert not ask(context, seed=11, selection=named)[1], (
        "the name of a strategy beside equal settings is only a name"
    )
    other = {**named, "cooldown": 3}
    fields = {fault.field for fault in conflict(context, seed=11, selection=other).faults}
    assert fields == {"selection.strategy", "selection.cooldown"}


def test_a_default_that_has_moved_since_is_no_difference(context: Context) -> None:
    """As if the service that opened the run had had another default."""
    ask(context, seed=3)
    with context.store.write() as unit:
        record = unit.runs.lock(unit.runs.get("run").id)
        selection = record.settings["selection"] | {"bonus": 0.25}
        opened = record.request | {"selection": selection, "rollouts_per_prompt": 5}
        unit.runs.set_settings(
            record.id, record.settings | {"selection": selection, "rollouts_per_prompt": 5}
        )
        unit.connection.execute(update(runs).values(request=opened))
    assert not ask(context, seed=3)[1]
    assert conflict(context, seed=3, selection={"bonus": 1.0}).faults[0].field == "selection.bonus"
    assert conflict(context, seed=3, rollouts_per_prompt=8).faults[0].field == "rollouts_per_prompt"
    assert (
        conflict(context, seed=3, selection={"strategy": "mopps"}).faults[0].field
        == "selection.strategy"
    )
    assert not ask(context, seed=3, rollouts_per_prompt=5, selection={"bonus": 0.25})[1]


def test_what_was_opened_by_choice_and_left_out_now_is_a_difference(context: Context) -> None:
    ask(context, selection={"bonus": 0.25})
    refused = conflict(context)
    assert [fault.field for fault in refused.faults] == ["selection.bonus"]
    assert "re-tuned" not in refused.detail

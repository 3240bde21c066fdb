"""A batch is known by (run, sequence).

Other words for the same question get the same draws, and a warning.
"""

from __future__ import annotations

from typing import Any

import pytest
from promptgps_client.wire import Batch, ChangeRun
from promptgps_service.errors import Conflict
from promptgps_service.flow.context import Context
from promptgps_service.flow.open_run import change_run

from tests.databases import opened_context
from tests.flow.driving import add, open_run, select

ASKED = {"batch_size": 4, "sequence": 5, "policy_version": 3}
KEYS = ["pool-1", "pool-2", "pool-3", "pool-4"]
# Of version 0.1.0, of these requests to the run `run`, with policy version 3.
BEFORE = {
    "9d4602110db86da67b1d4401a75608fb": ASKED,
    "b319bb2e448134d4dba34cc9ce7379d8": ASKED | {"candidates": KEYS, "rollouts": 4},
}


@pytest.fixture(autouse=True)
def run(context: Context) -> None:
    add(context, 60)
    open_run(context)


def same_draws(again: Batch, first: Batch) -> None:
    assert again.replayed
    assert again.draws.model_dump(exclude={"text"}) == first.draws.model_dump(exclude={"text"})


@pytest.mark.parametrize(
    ("other", "warned"),
    [
        ({"policy_version": 4}, "policy_version 3, not 4"),
        ({"policy_version": None}, None),
        ({"wait_seconds": 0.5}, None),
        ({"include_text": True}, None),
        ({"subset": "0" * 32}, "no subset"),
    ],
)
def test_other_words_for_a_batch_get_its_draws(
    context: Context, database_url: str, other: dict[str, Any], warned: str | None
) -> None:
    first = select(context, **ASKED)
    with opened_context(database_url) as rank:
        for process in (context, rank):
            again = select(process, **ASKED | other)
            same_draws(again, first)
            more = again.warnings[len(first.warnings) :]
            assert len(more) == (warned is not None)
            assert all(str(warned) in warning for warning in more)
    assert select(context, **ASKED).warnings == first.warnings, (
        "the warning is of who asked, not of the batch"
    )


def test_a_batch_drawn_without_a_version_says_so(context: Context) -> None:
    first = select(context, 4, sequence=0)
    again = select(context, 4, sequence=0, policy_version=7)
    same_draws(again, first)
    assert "no policy_version" in again.warnings[-1]


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"batch_size": 9}, {"sequence", "batch_size"}),
        ({"rollouts": 2}, {"sequence", "rollouts"}),
        (
            {"batch_size": 9, "rollouts": 2, "policy_version": 9},
            {"sequence", "batch_size", "rollouts"},
        ),
        ({"exclude": ["pool-1"]}, {"sequence"}),
        ({"candidates": KEYS}, {"sequence"}),
    ],
)
def test_another_question_is_a_conflict_that_names_what_differs(
    context: Context, other: dict[str, Any], named: set[str]
) -> None:
    first = select(context, **ASKED)
    with pytest.raises(Conflict) as refused:
        select(context, **ASKED | other)
    assert {fault.field for fault in refused.value.faults} == named
    for value in ("4", "9") if "batch_size" in other else ():
        assert value in refused.value.detail
    same_draws(select(context, **ASKED), first)


def test_what_a_run_is_set_to_since_is_no_part_of_the_question(context: Context) -> None:
    first = select(context, **ASKED)
    change_run(context, "run", ChangeRun(rollouts_per_prompt=3))
    same_draws(select(context, **ASKED), first)
    assert first.draws.rollouts == [8] * 4


@pytest.mark.parametrize("digest", BEFORE)
def test_batches_of_version_0_1_0_are_known_again(context: Context, digest: str) -> None:
    asked = BEFORE[digest]
    first = select(context, **asked)
    with context.store.write() as unit:
        unit.connection.exec_driver_sql(f"UPDATE selections SET request = '{digest}'")
    same_draws(select(context, **asked), first)
    later = select(context, **asked | {"policy_version": 8})
    same_draws(later, first)
    assert "policy_version 3, not 8" in later.warnings[-1]
    for other in ({"batch_size": 5}, {"exclude": ["pool-1"]}, {"candidates": KEYS[1:]}):
        with pytest.raises(Conflict):
            select(context, **asked | other)

"""The next batch: idempotent by sequence, never with what the caller forbids.

It is never short without a word.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from promptgps_client.wire import Batch
from promptgps_service.errors import Conflict, Invalid, NotFound
from promptgps_service.flow.context import Context
from promptgps_service.flow.open_run import describe_run

from tests.databases import opened_context
from tests.flow.driving import add, open_run, report, report_groups, select


@pytest.fixture(autouse=True)
def run(context: Context) -> None:
    add(context, 60)
    open_run(context)


def as_replay(batch: Batch) -> Batch:
    return batch.model_copy(update={"replayed": True})


def test_a_batch_has_distinct_prompts_with_draw_ids_of_their_own(context: Context) -> None:
    batches = [select(context, 10) for _ in range(3)]
    assert [batch.sequence for batch in batches] == [0, 1, 2]
    assert not any(batch.replayed for batch in batches)
    ids = [draw for batch in batches for draw in batch.draws.draw_id]
    assert len(set(ids)) == 30
    assert all(len(set(batch.draws.prompt)) == 10 for batch in batches)
    found = describe_run(context, "run")
    assert (found.selections, found.draws, found.log_position) == (3, 30, 0)


def test_the_same_sequence_gives_the_same_draws_whatever_happened_since(context: Context) -> None:
    first = select(context, 10, sequence=5, policy_version=3)
    report_groups(context, first)
    select(context, 10, sequence=6)
    assert select(context, 10, sequence=5, policy_version=3) == as_replay(first)
    assert describe_run(context, "run").draws == 20


def test_how_the_answer_is_rendered_is_no_part_of_the_question(context: Context) -> None:
    first = select(context, 4, sequence=0)
    again = select(context, 4, sequence=0, include_text=True, wait_seconds=0.5)
    assert again.replayed
    assert again.draws.draw_id == first.draws.draw_id
    assert again.draws.text == [f"Text of {key}" for key in first.draws.prompt]
    assert first.draws.text is None


@pytest.mark.parametrize(
    "other",
    [{"batch_size": 9}, {"rollouts": 2}, {"exclude": ["pool-1"]}, {"candidates": ["pool-1"]}],
)
def test_the_same_sequence_with_another_request_is_a_conflict(
    context: Context, other: dict[str, object]
) -> None:
    first = select(context, 10, sequence=0)
    with pytest.raises(Conflict) as refused:
        select(context, **{"batch_size": 10, "sequence": 0} | other)
    assert refused.value.faults[0].field == "sequence"
    assert select(context, 10, sequence=0) == as_replay(first)


def test_numbering_goes_on_after_the_highest_sequence(context: Context) -> None:
    assert [select(context, 1, sequence=sequence).sequence for sequence in (10, 4, None, None)] == [
        10,
        4,
        11,
        12,
    ]


def test_ranks_that_ask_at_once_get_one_selection(context: Context, database_url: str) -> None:
    with opened_context(database_url) as other, ThreadPoolExecutor(8) as threads:
        processes = [context, other] * 4
        for sequence in range(4):
            answers = list(
                threads.map(lambda process, s=sequence: select(process, 6, sequence=s), processes)
            )
            assert len({tuple(answer.draws.draw_id) for answer in answers}) == 1
            assert len({tuple(answer.draws.prompt) for answer in answers}) == 1
            assert sum(not answer.replayed for answer in answers) == 1
    assert describe_run(context, "run").draws == 24


def test_trainers_that_draw_at_once_share_no_draw(context: Context, database_url: str) -> None:
    with opened_context(database_url) as other, ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda process: select(process, 5), [context, other] * 4))
    assert sorted(answer.sequence for answer in answers) == list(range(8))
    assert len({draw for answer in answers for draw in answer.draws.draw_id}) == 40
    assert len({key for answer in answers for key in answer.draws.prompt}) == 40  # all are pending


def test_an_unanswered_draw_keeps_its_prompt_back_and_an_outcome_frees_it(context: Context) -> None:
    open_run(context, name="fast", selection={"cooldown": 0})
    first = select(context, 30, run="fast")
    second = select(context, 30, run="fast")
    assert set(first.draws.prompt).isdisjoint(second.draws.prompt)
    assert select(context, 1, run="fast").warnings[0].startswith("1 prompts were pending")
    report(context, run="fast", draw_id=first.draws.draw_id[:4], successes=[4] * 4, trials=[8] * 4)
    freed = select(context, 3, run="fast")
    assert freed.warnings == []
    assert set(freed.draws.prompt) <= set(first.draws.prompt[:4])


def test_pending_ends_after_its_steps(context: Context) -> None:
    open_run(context, name="fast", selection={"cooldown": 0, "pending_steps": 2})
    first = select(context, 60, run="fast", policy_version=10)
    assert select(context, 5, run="fast", policy_version=12).warnings != []
    assert [
        w for w in select(context, 5, run="fast", policy_version=13).warnings if "pending" in w
    ] == []
    assert len(first.draws.prompt) == 60


def test_the_cooldown_is_counted_in_policy_versions_where_they_are_given(context: Context) -> None:
    open_run(context, name="cool", selection={"cooldown": 3})
    drawn: dict[str, int] = {}
    for version in range(0, 30, 2):
        batch = select(context, 8, run="cool", policy_version=version)
        report_groups(context, batch)
        assert [warning for warning in batch.warnings if "cooling" in warning] == []
        for key in batch.draws.prompt:
            assert version - drawn.get(key, -100) > 3
            drawn[key] = version


def test_candidates_and_exclusions_bound_the_choice(context: Context) -> None:
    mine = [f"pool-{number}" for number in range(20)]
    batch = select(context, 12, candidates=mine, exclude=["pool-3", "pool-50"])
    assert set(batch.draws.prompt) <= set(mine) - {"pool-3"}
    with pytest.raises(Invalid) as refused:
        select(context, 20, candidates=mine, exclude=["pool-3"])
    assert refused.value.faults[0].field == "batch_size"
    assert "19" in refused.value.detail


def test_unknown_candidates_are_named_by_row_and_nothing_is_drawn(context: Context) -> None:
    with pytest.raises(NotFound) as refused:
        select(context, 1, candidates=["pool-1", "nobody"])
    assert [(fault.field, fault.row) for fault in refused.value.faults] == [("candidates", 1)]
    with pytest.raises(NotFound):
        select(context, 1, exclude=["nobody"])
    assert describe_run(context, "run").draws == 0


def test_a_batch_larger_than_the_pool_is_refused_and_one_as_large_is_not(context: Context) -> None:
    with pytest.raises(Invalid):
        select(context, 61, sequence=0)
    # the refused request has not used the sequence
    assert len(select(context, 60, sequence=0).draws.prompt) == 60


def test_an_unknown_run_is_not_found(context: Context) -> None:
    with pytest.raises(NotFound):
        select(context, 1, run="nobody")


def test_rollouts_of_a_batch_overrule_those_of_the_run(context: Context) -> None:
    assert select(context, 2).draws.rollouts == [8, 8]
    assert select(context, 2, rollouts=3).draws.rollouts == [3, 3]


def test_draws_one_by_one_do_not_come_back_before_a_quarter_of_the_pool(context: Context) -> None:
    drawn = []
    for _ in range(60):
        batch = select(context, 1)
        report_groups(context, batch)
        drawn += batch.draws.prompt
    places: dict[str, list[int]] = {}
    for place, key in enumerate(drawn):
        places.setdefault(key, []).append(place)
    gaps = [late - early for visits in places.values() for early, late in pairwise(visits)]
    assert min(gaps, default=99) > 60 // 4

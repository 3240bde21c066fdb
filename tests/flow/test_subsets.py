"""Subsets: sent once, the same for everybody who sends the same, named with each batch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from promptgps_client.wire import Restore, SendSubset, Subset, TakeSnapshot
from promptgps_service.errors import Invalid, NotFound
from promptgps_service.flow.context import Context
from promptgps_service.flow.masks import KEPT
from promptgps_service.flow.restore import restore_run
from promptgps_service.flow.snapshot import take_snapshot
from promptgps_service.flow.subsets import send_subset

from tests.databases import opened_context
from tests.flow.driving import add, open_run, select, settle, step

KEYS = [f"pool-{number}" for number in range(5, 15)]


@pytest.fixture
def run(context: Context) -> Context:
    """A process with a run over forty prompts."""
    add(context, 40)
    open_run(context)
    return context


def send(context: Context, *keys: str) -> Subset:
    return send_subset(context, "run", SendSubset(keys=list(keys)))


def test_draws_are_of_the_subset_alone_step_after_step(run: Context) -> None:
    sent = send(run, *KEYS)
    assert (sent.prompts, sent.whole, sent.unknown, sent.unknown_keys) == (10, False, 0, [])
    for number in range(6):
        batch = step(run, 5, sequence=number, subset=sent.subset)
        assert set(batch.draws.prompt) <= set(KEYS)
        assert len(set(batch.draws.prompt)) == 5
    assert len(set(select(run, 10, subset=sent.subset).draws.prompt)) == 10


def test_the_cooldown_leaves_enough_of_a_small_subset(context: Context) -> None:
    add(context, 200)
    open_run(context)
    sent = send(context, *KEYS, *(f"pool-{number}" for number in range(50, 60)))
    for number in range(8):
        assert not step(context, 5, sequence=number, subset=sent.subset).warnings


def test_the_same_prompts_are_the_same_subset_in_any_order_and_process(
    run: Context, database_url: str
) -> None:
    with opened_context(database_url) as other, ThreadPoolExecutor(8) as threads:
        processes = [run, other] * 8
        orders = [KEYS, KEYS[::-1], KEYS + KEYS[:3], [*KEYS, "nowhere"]] * 4
        sent = list(
            threads.map(lambda each: send(each[0], *each[1]), zip(processes, orders, strict=True))
        )
        assert len({subset.subset for subset in sent}) == 1
        assert set(select(other, 10, subset=sent[0].subset).draws.prompt) == set(KEYS)
        assert send(other, *KEYS[1:]).subset != sent[0].subset
    with run.store.read() as unit:
        assert unit.subsets.find(run.desk("run").state.id, sent[0].subset) is not None


def test_unknown_keys_are_counted_and_the_first_named(run: Context) -> None:
    unknown = [f"nowhere-{number}" for number in range(30)]
    sent = send(run, "pool-1", *unknown, "pool-2")
    assert (sent.prompts, sent.unknown, sent.unknown_keys) == (2, 30, unknown[:20])
    with pytest.raises(Invalid, match="none of the 30 keys") as refused:
        send(run, *unknown)
    assert refused.value.faults[0].field == "keys"


def test_a_subset_of_all_prompts_says_so(run: Context) -> None:
    keys = [f"pool-{number}" for number in range(40)]
    assert send(run, *keys).whole
    add(run, 1, first=40)
    assert not send(run, *keys).whole


def test_a_subset_is_no_part_of_the_question(run: Context) -> None:
    one = send(run, *KEYS[:5]).subset
    other = send(run, *KEYS[5:]).subset
    first = select(run, 3, sequence=0, subset=one)
    for asked in ({"subset": other}, {}, {"subset": "0" * 32}):
        again = select(run, 3, sequence=0, **asked)
        assert (again.replayed, again.draws) == (True, first.draws)


def test_an_unknown_subset_is_to_be_sent_again(run: Context) -> None:
    with pytest.raises(NotFound, match="send") as refused:
        select(run, 3, subset="0" * 32)
    assert refused.value.faults[0].field == "subset"


def test_candidates_and_exclusions_go_by_the_subset_too(run: Context) -> None:
    sent = send(run, *KEYS).subset
    batch = select(
        run, 2, subset=sent, candidates=["pool-4", "pool-5", "pool-6", "pool-7"], exclude=["pool-6"]
    )
    assert set(batch.draws.prompt) == {"pool-5", "pool-7"}
    with pytest.raises(Invalid, match=f"batch_size 11 .* 10 prompts .*{sent}"):
        select(run, 11, subset=sent)
    with pytest.raises(Invalid, match=f"the 1 prompts .*{sent}, among the candidates"):
        select(run, 2, subset=sent, candidates=["pool-4", "pool-5"])


def test_growth_is_outside_of_a_subset_that_was_sent_before(run: Context) -> None:
    sent = send(run, *KEYS).subset
    select(run, 2, subset=sent)
    add(run, 5, first=40)
    assert set(select(run, 10, subset=sent).draws.prompt) == set(KEYS)
    wider = send(run, *KEYS, "pool-44")
    assert set(select(run, 11, subset=wider.subset).draws.prompt) == {*KEYS, "pool-44"}


def test_a_subset_outlives_restarts_and_restores(run: Context, database_url: str) -> None:
    sent = send(run, *KEYS).subset
    step(run, 3, sequence=0, subset=sent)
    settle(run)
    take_snapshot(run, "run", TakeSnapshot(tag="t"))
    first = step(run, 3, sequence=1, subset=sent)
    settle(run)
    restore_run(run, "run", Restore(tag="t"), None)
    again = select(run, 3, sequence=1, subset=sent)
    assert (again.replayed, again.draws.prompt) == (False, first.draws.prompt)
    with opened_context(database_url) as after:
        assert set(select(after, 10, subset=sent).draws.prompt) == set(KEYS)


def test_many_subsets_of_one_run_take_turns(run: Context) -> None:
    sent = [
        send(run, *KEYS[number % 5 : number % 5 + 4], f"pool-{number}").subset
        for number in range(2 * KEPT)
    ]
    for number, subset in enumerate(sent * 2):
        drawn = set(select(run, 2, subset=subset).draws.prompt)
        own = number % (2 * KEPT)
        assert drawn <= {*KEYS[own % 5 : own % 5 + 4], f"pool-{own}"}


def test_quotas_hold_inside_a_subset(context: Context) -> None:
    add(context, 20, domains=["x", "y"] * 10)
    open_run(context, selection={"domain_quotas": {"x": 0.5, "y": 0.5}})
    sent = send(context, *(f"pool-{number}" for number in range(8)))
    batch = select(context, 4, subset=sent.subset)
    assert sorted(int(key.split("-")[1]) % 2 for key in batch.draws.prompt) == [0, 0, 1, 1]
    assert all(int(key.split("-")[1]) < 8 for key in batch.draws.prompt)

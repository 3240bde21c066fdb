"""Evidence: what said nothing gives way, parts add up, only a contradiction is a conflict.

In any order, and twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from promptgps_client.wire import Batch
from promptgps_service.flow.context import Context
from promptgps_service.flow.evidence import sort_out
from promptgps_service.flow.run_state import RunState
from promptgps_service.store.records import ERROR, GROUP, OK, TIMEOUT, OutcomeRecord

from tests.databases import opened_context
from tests.flow.driving import add, log_length, open_run, report, select, settle
from tests.flow.test_snapshots import restore, snapshot, stored

Said = tuple[int, float, int]  # rollout or GROUP, successes, trials


# ---- the rules by themselves -------------------------------------------------------------------


def lines(said: Sequence[Said], draw: int = 0) -> list[OutcomeRecord]:
    return [
        OutcomeRecord(
            draw,
            5,
            rollout,
            successes,
            trials,
            successes if rollout != GROUP else None,
            OK if trials or rollout == GROUP else ERROR,
            None,
        )
        for rollout, successes, trials in said
    ]


def told(reports: Sequence[Sequence[Said]], n: int) -> list[OutcomeRecord]:
    """What a log has of a draw of n rollouts after some reports, one after the other."""
    log: list[OutcomeRecord] = []
    for said in reports:
        log += sort_out(log, [(row, line, n) for row, line in enumerate(lines(said))]).fresh
    return log


def counts(log: Sequence[OutcomeRecord]) -> tuple[float, int]:
    return sum(line.successes for line in log), sum(line.trials for line in log)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([(0, 0, 0)], [(0, 1, 1)], (1, 1)),
        ([(GROUP, 0, 0)], [(GROUP, 3, 8)], (3, 8)),
        ([(GROUP, 0, 0)], [(0, 1, 1), (1, 0, 1)], (1, 2)),
        ([(0, 0, 0), (1, 0, 0)], [(GROUP, 3, 8)], (3, 8)),
        ([(GROUP, 2, 4)], [(GROUP, 1, 4)], (3, 8)),
        ([(GROUP, 2, 4)], [(GROUP, 3, 8)], (3, 8)),
        ([(GROUP, 2, 4)], [(GROUP, 3, 6)], (3, 6)),
        ([(GROUP, 2, 3)], [(GROUP, 0, 2), (GROUP, 1, 3)], (3, 8)),
        ([(GROUP, 2, 4)], [(7, 1, 1)], (3, 5)),
        ([(0, 1, 1), (1, 0, 0)], [(GROUP, 4, 8)], (4, 8)),
        ([(0, 1, 1), (1, 0, 1)], [(GROUP, 4, 6)], (5, 8)),
        ([(GROUP, 9, 16)], [(GROUP, 12, 24)], (12, 24)),
    ],
)
def test_what_comes_later_is_added(
    before: list[Said], after: list[Said], expected: tuple[float, int]
) -> None:
    log = told([before, after], 8)
    assert counts(log) == expected
    assert len({(line.rollout, line.part) for line in log}) == len(log)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([(0, 1, 1)], (0, 0, 0)),
        ([(0, 0, 0)], (0, 0, 0)),
        ([(0, 1, 1)], (GROUP, 0, 0)),
        ([(GROUP, 3, 8)], (GROUP, 0, 0)),
        ([(GROUP, 3, 8)], (2, 0, 0)),
        ([(GROUP, 3, 8)], (GROUP, 3, 8)),
        ([(GROUP, 2, 4), (GROUP, 1, 3)], (GROUP, 2, 4)),
        ([(GROUP, 3, 8)], (GROUP, 2, 4)),
        ([(GROUP, 3, 8)], (6, 1, 1)),
        ([(0, 1, 1), (1, 0, 1)], (GROUP, 1, 2)),
        ([(GROUP, 0, 0)], (GROUP, 0, 0)),
        ([(GROUP, 9, 16)], (GROUP, 9, 16)),
    ],
)
def test_what_says_nothing_new_is_a_duplicate(before: list[Said], after: Said) -> None:
    known = told([before], 8)
    found = sort_out(known, [(3, lines([after])[0], 8)])
    assert (found.fresh, found.duplicates, found.conflicts) == ([], 1, [])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([(0, 1, 1)], (0, 0, 1)),
        ([(GROUP, 3, 8)], (GROUP, 4, 8)),
        ([(GROUP, 4, 6)], (GROUP, 0, 4)),
        ([(GROUP, 5, 6)], (GROUP, 4, 8)),
        ([(GROUP, 0, 8)], (0, 1, 1)),
        ([(GROUP, 8, 8)], (0, 0, 1)),
        ([(GROUP, 9, 16)], (GROUP, 8, 16)),
        ([(index, 1, 1) for index in range(8)], (GROUP, 7, 8)),
    ],
)
def test_a_contradiction_is_a_conflict_and_changes_nothing(before: list[Said], after: Said) -> None:
    known = told([before], 8)
    found = sort_out(known, [(3, lines([after])[0], 8)])
    assert (found.fresh, found.duplicates, found.conflicts) == ([], 0, [3])


@st.composite
def honest_rollouts(draw: st.DrawFn) -> tuple[int, list[Said], tuple[float, int]]:
    """Single rollouts, some first reported as failed, and the whole group where there is one."""
    n = draw(st.integers(1, 6))
    values = st.floats(0, 1) if draw(st.booleans()) else st.integers(0, 1).map(float)
    rewards = draw(st.lists(st.none() | values, min_size=n, max_size=n))
    real: list[Said] = [(at, reward, 1) for at, reward in enumerate(rewards) if reward is not None]
    failed: list[Said] = [
        (at, 0.0, 0) for at in range(n) if rewards[at] is None or draw(st.booleans())
    ]
    total = sum(reward for _, reward, _ in real), len(real)
    whole: list[Said] = [(GROUP, *total)] if total[1] == n and draw(st.booleans()) else []
    nothing: list[Said] = [(GROUP, 0.0, 0)] if draw(st.booleans()) else []
    return n, real + failed + whole + nothing, total


@st.composite
def honest_parts(draw: st.DrawFn) -> tuple[int, list[Said], tuple[float, int]]:
    """Different parts of a group, and the whole of it or not."""
    n = draw(st.integers(2, 12))
    rewards = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
    edges = sorted(draw(st.sets(st.integers(1, n - 1), max_size=3)) | {0, n})
    parts = {
        (float(sum(rewards[first:stop])), stop - first) for first, stop in itertools.pairwise(edges)
    }
    told_parts: list[Said] = [(GROUP, won, of) for won, of in parts]
    total = sum(won for won, _ in parts), sum(of for _, of in parts)
    if draw(st.booleans()):
        total = float(sum(rewards)), n
        told_parts.append((GROUP, *total))
    nothing: list[Said] = [(GROUP, 0.0, 0), (0, 0.0, 0)] if draw(st.booleans()) else []
    return n, told_parts + nothing, total


@st.composite
def honest_mixtures(draw: st.DrawFn) -> tuple[int, list[Said], tuple[float, int]]:
    """Some rollouts one by one, and more others as a group."""
    n = draw(st.integers(3, 9))
    rewards = draw(st.lists(st.integers(0, 1).map(float), min_size=n, max_size=n))
    alone = draw(st.integers(0, (n - 1) // 2))
    said: list[Said] = [(at, rewards[at], 1) for at in range(alone)]
    said += [(at, 0.0, 0) for at in range(alone) if draw(st.booleans())]
    said.append((GROUP, sum(rewards[alone:]), n - alone))
    return n, said, (sum(rewards), n)


@given(st.one_of(honest_rollouts(), honest_parts(), honest_mixtures()), st.data())
def test_any_order_and_repetition_of_honest_reports_ends_with_the_same_counts(
    honest: tuple[int, list[Said], tuple[float, int]], data: st.DataObject
) -> None:
    n, said, total = honest
    often = said + data.draw(st.lists(st.sampled_from(said), max_size=6) if said else st.just([]))
    mixed = data.draw(st.permutations(often))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(mixed)), max_size=4)))
    edges = [0, *cuts, len(mixed)]
    log = told([mixed[a:b] for a, b in itertools.pairwise(edges)], n)
    assert counts(log) == (pytest.approx(total[0], abs=1e-9), total[1])
    assert len({(line.rollout, line.part) for line in log}) == len(log)
    again = sort_out(log, [(row, line, n) for row, line in enumerate(lines(mixed))])
    assert (again.fresh, again.conflicts) == ([], [])


# ---- through the service -----------------------------------------------------------------------


@pytest.fixture
def batch(context: Context) -> Batch:
    add(context, 30)
    open_run(context)
    return select(context, 4)


def of_prompt(context: Context, key: str) -> tuple[float, float]:
    row = int(key.split("-")[1])
    state = context.desk("run").state
    return float(state.successes[row]), float(state.trials[row])


def picture(state: RunState) -> list[list[float]]:
    """All that a run's state has read of the log."""
    softness = state.softness()
    return [
        state.issued.reported.view.tolist(),
        state.successes.tolist(),
        state.trials.tolist(),
        state.traffic.open.tolist(),
        [] if softness is None else softness.tolist(),
        [state.log_position],
    ]


@pytest.mark.parametrize("status", ["error", "timeout", "cancelled"])
def test_a_rollout_that_failed_is_told_anew(context: Context, batch: Batch, status: str) -> None:
    draw = batch.draws.draw_id[0]
    key = batch.draws.prompt[0]
    failed = {"draw_id": [draw], "rollout_index": [2], "reward": [None], "status": [status]}
    real = {"draw_id": [draw], "rollout_index": [2], "reward": [1.0]}
    for sent, expected in (
        (failed, (1, 0)),
        (failed, (0, 1)),
        (real, (1, 0)),
        (real, (0, 1)),
        (failed, (0, 1)),
    ):
        answer = report(context, **sent)
        assert (answer.stored, answer.duplicates, answer.conflicts) == (*expected, [])
    assert of_prompt(context, key) == (1.0, 1.0)
    assert context.desk("run").state.issued.reported.view[0] == 1
    assert settle(context).trained_through == log_length(context) == 2


def test_a_group_comes_in_parts_and_as_a_whole(context: Context, batch: Batch) -> None:
    draw = batch.draws.draw_id[0]
    key = batch.draws.prompt[0]
    for successes, trials, counted in (
        (0, 0, (0, 0)),
        (2, 3, (2, 3)),
        (1, 2, (3, 5)),
        (2, 3, (3, 5)),
        (5, 8, (5, 8)),
    ):
        answer = report(context, draw_id=[draw], successes=[successes], trials=[trials])
        assert answer.conflicts == []
        assert of_prompt(context, key) == counted
    assert report(context, draw_id=[draw], successes=[4], trials=[8]).conflicts == [0]
    assert settle(context).trained_through == log_length(context) == 4


@pytest.mark.parametrize(
    "reward", [{"kind": "binary"}, {"kind": "affine", "low": 0.0, "high": 1.0}]
)
def test_the_state_read_from_the_log_is_the_one_kept_in_place(
    context: Context, database_url: str, reward: dict[str, object]
) -> None:
    add(context, 30)
    open_run(context, reward=reward)
    ids = select(context, 6).draws.draw_id
    luck = np.random.default_rng(3)
    for _ in range(40):
        index = luck.integers(0, len(ids), 5)
        named = [ids[at] for at in index]
        if luck.random() < 0.5:
            status = luck.choice(["ok", "error", "timeout", "truncated"], 5).tolist()
            rewards = luck.integers(0, 2, 5).astype(float).tolist()
            report(
                context,
                draw_id=named,
                rollout_index=luck.integers(0, 8, 5).tolist(),
                reward=rewards,
                status=status,
            )
        else:
            trials = luck.choice([0, 2, 3, 8, 12], 5)
            report(
                context,
                draw_id=named,
                successes=luck.binomial(trials, 0.5).tolist(),
                trials=trials.tolist(),
            )
    assert settle(context).trained_through == log_length(context)
    with opened_context(database_url) as again:
        assert picture(again.desk("run").state) == picture(context.desk("run").state)


def test_late_reports_of_superseded_draws_follow_the_same_rules(context: Context) -> None:
    add(context, 30)
    open_run(context)
    snapshot(context, "start")
    draw = select(context, 2).draws.draw_id
    report(context, draw_id=[draw[0]], rollout_index=[0], reward=[None], status=["timeout"])
    restore(context, "start")
    kept = (
        "SELECT draw, sum(successes), sum(trials), count(*) FROM superseded_outcomes"
        " GROUP BY draw ORDER BY draw"
    )
    for _ in range(2):
        answer = report(
            context,
            draw_id=[draw[0]] * 3,
            rollout_index=[0, 0, 1],
            reward=[1.0, None, 0.0],
            status=["ok", "error", "ok"],
        )
        assert (answer.stored, answer.superseded) == (0, 3)
        report(context, draw_id=[draw[1]] * 3, successes=[0, 2, 5], trials=[0, 4, 8])
        assert stored(context, kept) == [(0, 1.0, 2, 3), (1, 5.0, 8, 3)]
    assert log_length(context) == 0


def test_a_timeout_that_is_repeated_among_others_is_named_in_no_conflict(
    context: Context, batch: Batch
) -> None:
    draw = batch.draws.draw_id[0]
    answer = report(
        context,
        draw_id=[draw] * 5,
        rollout_index=[0, 0, 0, 1, 0],
        reward=[None, None, 1.0, 0.0, 0.0],
        status=["timeout", "error", "ok", "ok", "ok"],
    )
    assert (answer.stored, answer.duplicates, answer.conflicts) == (3, 1, [4])
    with context.store.read() as unit:
        known = unit.log.of_draws(context.desk("run").state.id, [0])
    assert sorted((line.rollout, line.part, line.status) for line in known) == [
        (0, 0, TIMEOUT),
        (0, 1, OK),
        (1, 0, OK),
    ]

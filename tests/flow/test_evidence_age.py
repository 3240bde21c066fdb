"""Late outcomes: taken, and worth less the older the policy that made them, however they came."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from promptgps_client.wire import PredictDifficulty
from promptgps_service.flow.context import Context
from promptgps_service.flow.predict import predict_difficulty
from promptgps_service.flow.run_state import RunState
from promptgps_service.flow.steps import Step, split_steps
from promptgps_service.flow.timeline import OLDEST, Timeline
from promptgps_service.store.records import GROUP, LogSlice

from tests.databases import opened_context
from tests.flow.driving import add, open_run, report, select, settle, step

STEPS = 8


def trained(context: Context, **settings: object) -> None:
    """A run that has learned eight steps, of policies 0 to 7, with prompt-59 never tried."""
    open_run(context, **settings)
    for version in range(STEPS):
        step(
            context,
            16,
            run=settings.get("name", "run"),
            policy_version=version,
            exclude=["pool-59"],
        )
    settle(context, str(settings.get("name", "run")))


def predicted(context: Context, run: str = "run") -> float:
    return predict_difficulty(context, PredictDifficulty(run=run, keys=["pool-59"])).success_mean[0]


def told_late(context: Context, version: int, run: str = "run") -> float:
    """Prediction of the prompt never tried, once it was solved by a policy of that version."""
    report(context, run=run, prompt=["pool-59"], successes=[8], trials=[8], policy_version=version)
    settle(context, run)
    return predicted(context, run)


@pytest.fixture(autouse=True)
def pool(context: Context) -> None:
    add(context, 60)


def test_the_older_the_policy_of_an_outcome_the_less_it_says(context: Context) -> None:
    versions = (STEPS - 1, STEPS // 2, 0)
    for version in versions:
        trained(context, name=f"run-{version}")
    before = {predicted(context, f"run-{version}") for version in versions}
    assert max(before) - min(before) < 1e-9  # the runs are the same so far
    after = [told_late(context, version, f"run-{version}") for version in versions]
    assert after[0] > after[1] > after[2] > min(before)


def test_an_outcome_of_the_newest_policy_or_of_a_newer_one_counts_in_full(context: Context) -> None:
    for name in ("newest", "newer"):
        trained(context, name=name)
    assert told_late(context, STEPS - 1, "newest") == told_late(context, STEPS + 5, "newer")


def test_what_was_late_before_a_restart_is_late_after_it(
    context: Context, database_url: str
) -> None:
    for name in ("one", "two"):
        trained(context, name=name)
    expected = told_late(context, 2, "one")
    with opened_context(database_url) as again:
        assert told_late(again, 2, "two") == pytest.approx(expected, abs=1e-12)


def test_a_draw_whose_outcome_has_no_version_is_as_old_as_its_selection(context: Context) -> None:
    moves = []
    for name, late in (("in-time", False), ("late", True)):
        open_run(context, name=name)
        old = select(context, 1, run=name, policy_version=0, candidates=["pool-59"])
        for version in range(STEPS):
            step(context, 16, run=name, policy_version=version, exclude=["pool-59"])
        settle(context, name)
        if not late:
            old = select(context, 1, run=name, policy_version=STEPS, candidates=["pool-59"])
        before = predicted(context, name)
        report(context, run=name, draw_id=old.draws.draw_id, successes=[8], trials=[8])
        settle(context, name)
        moves.append(predicted(context, name) - before)
    assert moves[0] > moves[1] > 0


# ---- lines to visits, without a database ---------------------------------------------------------


def lines(*told: tuple[int, float, float, int]) -> LogSlice:
    """Groups reported by prompt: (row, successes, trials, policy version)."""
    row, won, trials, version = (np.array(column) for column in zip(*told, strict=True))
    none = np.full(row.size, -1)
    return LogSlice(
        head=row.size,
        draw=none,
        row=row,
        rollout=np.full(row.size, GROUP),
        successes=won.astype(float),
        trials=trials.astype(float),
        status=np.zeros(row.size, np.int64),
        policy_version=version,
        part=np.zeros(row.size, np.int64),
    )


@pytest.fixture
def state(context: Context) -> RunState:
    open_run(context)
    return context.desk("run").state


def only(steps: Iterator[Step]) -> Step:
    (one,) = steps
    return one


def test_lines_of_one_age_are_added_up(state: RunState) -> None:
    timeline = Timeline([0, 1, 2, 3])
    visits = only(
        split_steps(lines((5, 3, 8, 2), (4, 1, 8, 3), (5, 2, 4, 2)), state, 9, timeline)
    ).visits
    assert visits.rows.tolist() == [4, 5]
    assert (visits.successes.tolist(), visits.trials.tolist()) == ([1, 5], [8, 12])
    assert visits.age.tolist() == [0, 1]


def test_lines_of_several_ages_are_merged_at_the_youngest_by_what_they_still_say(
    state: RunState,
) -> None:
    timeline = Timeline(range(20))
    fresh = (5, 8, 8, 19)
    old = (5, 0, 8, 3)
    visits = only(split_steps(lines(fresh, old), state, 9, timeline)).visits
    assert visits.age.tolist() == [0]
    assert float(visits.successes) == 8  # the fresh line whole
    # the old one at n / (1 + n age 0.03 / 4) trials, 16 steps late
    assert float(visits.trials) - 8 == pytest.approx(8 / (1 + 8 * 16 * 0.03 / 4))


def test_the_first_time_that_steps_are_learned_none_of_them_is_late(state: RunState) -> None:
    """A trainer that draws one by one.

    Or a process that reads the whole log after a change of predictor.
    """
    timeline = Timeline()
    told = lines(
        *(
            (row, 1, 2, version)
            for version in range(6)
            for row in range(10 * version, 10 * version + 10)
        )
    )
    steps = list(split_steps(told, state, 25, timeline))
    assert [len(one.visits) for one in steps] == [30, 30]
    assert not any(bool(one.visits.age.any()) for one in steps)
    # Both steps are newer than version 1: two steps late, not four versions.
    assert only(split_steps(lines((59, 1, 2, 1)), state, 25, timeline)).visits.age.tolist() == [2]


@given(
    st.lists(st.integers(0, 40), max_size=300),
    st.lists(st.integers(0, 50), min_size=1, max_size=20),
)
def test_an_age_is_the_number_of_newer_steps_learned(
    learned: list[int], versions: list[int]
) -> None:
    timeline = Timeline()
    for version in learned:
        timeline.add(version)
    kept = learned[-(OLDEST - 1) :]
    expected = [sum(newer > version for newer in kept) for version in versions]
    for one in (timeline, Timeline.load(timeline.dump())):
        assert one.ages(np.array(versions)).tolist() == expected
    assert max(expected) < OLDEST

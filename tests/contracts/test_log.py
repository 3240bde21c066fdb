"""The outcome log: gapless, ordered, append only, each rollout once."""

from __future__ import annotations

import math

import pytest
from promptgps_service.store.records import ERROR, TRUNCATED
from promptgps_service.store.unit import Store
from sqlalchemy.exc import IntegrityError

from tests.contracts.samples import append_outcomes, make_run, outcome


def test_positions_are_gapless_from_one_on(store: Store) -> None:
    run = make_run(store)
    heads = [
        append_outcomes(store, run, [outcome(draw) for draw in part])
        for part in ([0, 1, 2], [], [3], [4, 5])
    ]
    assert heads == [3, 3, 4, 6]
    with store.read() as unit:
        assert unit.runs.get("run").log_position == 6
        for position in range(7):
            part = unit.log.after(run.id, position)
            assert part.head == 6
            assert part.draw.tolist() == [0, 1, 2, 3, 4, 5][position:]


def test_every_field_of_a_line_comes_back(store: Store) -> None:
    run = make_run(store)
    lines = [
        outcome(
            2**40, 4095, row=2**31 - 1, successes=1 / 3, trials=1, reward=-math.pi, status=TRUNCATED
        ),
        outcome(None, -1, successes=4096.0, trials=4096, policy_version=2**53 - 1),
        outcome(7, 0, successes=0.0, trials=0, reward=None, status=ERROR, policy_version=0),
    ]
    append_outcomes(store, run, lines)
    with store.read() as unit:
        assert unit.log.of_draws(run.id, [2**40]) == lines[:1]
        assert unit.log.of_draws(run.id, [7]) == lines[2:]
        part = unit.log.after(run.id, 0)
    assert part.draw.tolist() == [2**40, -1, 7]
    assert part.row.tolist() == [2**31 - 1, 5, 5]
    assert part.rollout.tolist() == [4095, -1, 0]
    assert part.successes.tolist() == [1 / 3, 4096.0, 0.0]
    assert part.trials.tolist() == [1.0, 4096.0, 0.0]
    assert part.status.tolist() == [TRUNCATED, 0, ERROR]
    assert part.policy_version.tolist() == [-1, 2**53 - 1, 0]


def test_a_rollout_of_a_draw_is_stored_once(store: Store) -> None:
    run = make_run(store)
    other = make_run(store, "other")
    append_outcomes(store, run, [outcome(0, 0), outcome(0, 1), outcome(1, 0)])
    append_outcomes(store, other, [outcome(0, 0)])
    with pytest.raises(IntegrityError):
        append_outcomes(store, run, [outcome(2, 0), outcome(0, 1)])
    with store.read() as unit:
        assert unit.runs.get("run").log_position == 3
        assert unit.log.after(run.id, 0).draw.tolist() == [0, 0, 1]


def test_data_from_elsewhere_may_repeat_itself(store: Store) -> None:
    run = make_run(store)
    assert append_outcomes(store, run, [outcome(None), outcome(None)]) == 2


def test_a_position_is_never_written_twice(store: Store) -> None:
    run = make_run(store)
    append_outcomes(store, run, [outcome(0)])
    with pytest.raises(IntegrityError), store.write() as unit:
        unit.log.append(run.id, 0, [outcome(1)])


def test_the_log_of_one_run_is_not_that_of_another(store: Store) -> None:
    run = make_run(store)
    other = make_run(store, "other")
    append_outcomes(store, run, [outcome(0), outcome(1)])
    assert append_outcomes(store, other, [outcome(5)]) == 1
    with store.read() as unit:
        assert unit.log.after(other.id, 0).draw.tolist() == [5]
        assert unit.log.of_draws(other.id, [0, 1]) == []


def test_draws_are_looked_up_by_the_tens_of_thousands(store: Store) -> None:
    run = make_run(store)
    append_outcomes(store, run, [outcome(draw) for draw in range(9_000)])
    with store.read() as unit:
        assert len(unit.log.of_draws(run.id, list(range(1_000, 60_000)))) == 8_000

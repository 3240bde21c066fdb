"""Runs: heads, segments, receipts."""

from __future__ import annotations

import pytest
from promptgps_service.errors import NotFound
from promptgps_service.store.records import Segment
from promptgps_service.store.unit import Store

from tests.contracts.samples import make_pool, make_run


def test_a_new_run_has_an_empty_log_and_its_settings(store: Store) -> None:
    made = make_run(store)
    with store.read() as unit:
        assert unit.runs.get("run") == made == unit.runs.find("run")
    assert (made.log_position, made.draws, made.selections) == (0, 0, 0)
    assert (made.request, made.settings) == ({"name": "run"}, {"seed": 7})


def test_runs_are_listed_by_name_and_an_unknown_one_is_not_found(store: Store) -> None:
    for name in ("b", "c", "a"):
        make_run(store, name)
    with store.read() as unit:
        assert [run.name for run in unit.runs.all()] == ["a", "b", "c"]
        assert unit.runs.find("d") is None
        with pytest.raises(NotFound, match="'d'"):
            unit.runs.get("d")


def test_heads_move_apart_from_each_other_and_from_other_runs(store: Store) -> None:
    run = make_run(store)
    other = make_run(store, "other")
    with store.write() as unit:
        unit.runs.advance(run.id, log_position=2**40)
        unit.runs.advance(run.id, draws=9, selections=2)
    with store.read() as unit:
        moved = unit.runs.get("run")
        assert (moved.log_position, moved.draws, moved.selections) == (2**40, 9, 2)
        assert unit.runs.get("other") == other


def test_settings_are_replaced_and_the_request_is_not(store: Store) -> None:
    run = make_run(store)
    with store.write() as unit:
        unit.runs.set_settings(run.id, {"seed": 8, "deep": {"list": [1, None, "ü"]}})
    with store.read() as unit:
        changed = unit.runs.get("run")
    assert changed.settings == {"seed": 8, "deep": {"list": [1, None, "ü"]}}
    assert changed.request == run.request


def test_segments_come_in_the_order_of_rows_from_a_row_on(store: Store) -> None:
    pool = make_pool(store, prompts=5)
    other = make_pool(store, "other", prompts=2)
    run = make_run(store)
    segments = [Segment(0, pool.id, 0, 3), Segment(3, other.id, 0, 2), Segment(5, pool.id, 3, 2)]
    with store.write() as unit:
        for segment in reversed(segments):
            unit.runs.add_segment(run.id, segment)
    with store.read() as unit:
        assert unit.runs.segments(run.id) == segments
        assert unit.runs.segments(run.id, after=3) == segments[1:]
        assert unit.runs.segments(run.id, after=7) == []


def test_a_receipt_is_kept_per_run_and_key(store: Store) -> None:
    run = make_run(store)
    other = make_run(store, "other")
    with store.write() as unit:
        unit.runs.keep_receipt(run.id, "key", "digest", {"stored": 3, "conflicts": [1, 2]}, 3)
    with store.read() as unit:
        assert unit.runs.receipt(run.id, "key") == ("digest", {"stored": 3, "conflicts": [1, 2]})
        assert unit.runs.receipt(run.id, "another") is None
        assert unit.runs.receipt(other.id, "key") is None

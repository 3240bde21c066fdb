"""Selections: what was issued comes back bit for bit, once per sequence and ordinal."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from promptgps_service.store.records import SelectionRecord
from promptgps_service.store.unit import Store
from sqlalchemy.exc import IntegrityError

from tests.contracts.samples import make_run, selection


def assert_equal(found: SelectionRecord | None, expected: SelectionRecord) -> None:
    assert found is not None
    for field in fields(SelectionRecord):
        mine = getattr(found, field.name)
        theirs = getattr(expected, field.name)
        if isinstance(theirs, np.ndarray):
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs)
        else:
            assert mine == theirs, field.name


@pytest.mark.parametrize("size", [0, 1, 3, 16_384])
def test_a_selection_comes_back_as_it_was(store: Store, size: int) -> None:
    run = make_run(store)
    written = selection(size=size, policy_version=2**53 - 1)
    with store.write() as unit:
        unit.selections.add(run.id, written)
    with store.read() as unit:
        assert_equal(unit.selections.find(run.id, 0), written)
        assert unit.selections.find(run.id, 1) is None
        assert unit.selections.find(run.id + 1, 0) is None


def test_selections_come_in_the_order_of_issue_from_an_ordinal_on(store: Store) -> None:
    run = make_run(store)
    written = [
        replace(selection(sequence), ordinal=ordinal)
        for ordinal, sequence in enumerate((70, 3, 12))
    ]
    with store.write() as unit:
        for record in reversed(written):
            unit.selections.add(run.id, record)
    with store.read() as unit:
        assert [record.sequence for record in unit.selections.since(run.id, 0)] == [70, 3, 12]
        assert [record.sequence for record in unit.selections.since(run.id, 2)] == [12]
        assert unit.selections.since(run.id, 3) == []


def test_the_next_sequence_is_one_past_the_highest(store: Store) -> None:
    run = make_run(store)
    with store.write() as unit:
        assert unit.selections.next_sequence(run.id) == 0
        unit.selections.add(run.id, replace(selection(41), ordinal=0))
        unit.selections.add(run.id, replace(selection(7), ordinal=1))
        assert unit.selections.next_sequence(run.id) == 42


@pytest.mark.parametrize(
    "twin", [selection(0, ordinal=1), selection(1, ordinal=0)], ids=["sequence", "ordinal"]
)
def test_neither_a_sequence_nor_an_ordinal_is_used_twice(
    store: Store, twin: SelectionRecord
) -> None:
    run = make_run(store)
    other = make_run(store, "other")
    with store.write() as unit:
        unit.selections.add(run.id, selection(0))
        unit.selections.add(other.id, twin)
    with pytest.raises(IntegrityError), store.write() as unit:
        unit.selections.add(run.id, twin)
    with store.read() as unit:
        assert len(unit.selections.since(run.id, 0)) == 1

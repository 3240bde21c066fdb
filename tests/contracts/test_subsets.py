"""Subsets of runs: kept as they are, known by what is in them."""

from __future__ import annotations

import numpy as np
from promptgps_service.store.subsets import subset_id
from promptgps_service.store.unit import Store

from tests.contracts.samples import make_run
from tests.databases import opened_store

ROWS = np.array([0, 3, 2**31 - 1])


def test_a_subset_is_there_for_another_process_and_for_its_run_alone(
    store: Store, database_url: str
) -> None:
    run = make_run(store)
    other = make_run(store, "other")
    with store.write() as unit:
        unit.subsets.add(run.id, subset_id(ROWS), ROWS)
    with opened_store(database_url) as process, process.read() as unit:
        found = unit.subsets.find(run.id, subset_id(ROWS))
        assert found is not None
        assert found.tolist() == ROWS.tolist()
        assert unit.subsets.find(other.id, subset_id(ROWS)) is None
        assert unit.subsets.find(run.id, subset_id(ROWS[:2])) is None


def test_a_subset_that_is_there_stays_and_the_unit_of_work_goes_on(store: Store) -> None:
    run = make_run(store)
    for more in (ROWS, ROWS[1:]):
        with store.write() as unit:
            unit.subsets.add(run.id, "same", ROWS)
            unit.subsets.add(run.id, subset_id(more), more)
    with store.read() as unit:
        assert all(
            unit.subsets.find(run.id, subset_id(rows)) is not None for rows in (ROWS, ROWS[1:])
        )


def test_an_id_depends_on_the_rows_alone() -> None:
    assert subset_id(ROWS) == subset_id(ROWS.astype(np.int32))
    assert (
        len(
            {
                subset_id(rows)
                for rows in (ROWS, ROWS[:2], ROWS[1:], ROWS + 0 * 1 - np.array([0, 0, 1]))
            }
        )
        == 4
    )
    assert len(subset_id(ROWS)) == 32

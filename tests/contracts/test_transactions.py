"""A unit of work is stored whole or leaves no trace, and many writers of one run take turns."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from promptgps_service.store.records import Segment, VersionRecord
from promptgps_service.store.tables import metadata
from promptgps_service.store.unit import Store, Unit
from promptgps_service.store.writing import take_room
from sqlalchemy import func, select

from tests.contracts.samples import (
    append_outcomes,
    chunk,
    key,
    make_pool,
    make_run,
    outcome,
    selection,
)
from tests.databases import opened_store

THREADS = 8
ROUNDS = 12


class Refused(Exception):
    """What a use case raises in the middle of its work."""


def counts(store: Store) -> dict[str, int]:
    with store.read() as unit:
        return {
            table.name: unit.connection.execute(
                select(func.count()).select_from(table)
            ).scalar_one()
            for table in metadata.sorted_tables
        }


def touch_everything(unit: Unit, pool_id: int, run_id: int) -> None:
    made = unit.pools.create("another", {}, 1)
    unit.pools.begin_import(made, "token")
    unit.pools.stage(made.id, "token", 0, chunk(0, 2))
    unit.pools.stage_aliases(made.id, "token", 0, {"another name": 1})
    unit.pools.finish_import(made.id, "token", 2, aliases=1)
    unit.pools.set_frame(pool_id, 77)
    unit.runs.set_settings(run_id, {"changed": True})
    unit.runs.add_segment(run_id, Segment(0, pool_id, 0, 1))
    unit.subsets.add(run_id, "subset", np.array([0]))
    unit.runs.keep_receipt(run_id, "key", "digest", {}, 0)
    put_back = unit.runs.create("another", {}, {})
    start = unit.snapshots.add(put_back, "start")
    for run in (put_back.id, run_id):
        unit.selections.add(run, selection())
        unit.runs.advance(
            run, log_position=unit.log.append(run, 0, [outcome()]), draws=3, selections=1
        )
        unit.versions.add(run, VersionRecord(1, 1, "beta", b"state"))
        unit.versions.add_step(run, 1, 1, {})
    unit.snapshots.supersede_after(put_back, start)
    unit.leases.join("worker")
    unit.leases.take(run_id, "worker")
    unit.keys.add(key())
    unit.events.add("run-created", run="another", subject_id=run_id)
    take_room(unit.connection)


def test_an_error_in_the_block_leaves_no_trace(store: Store) -> None:
    pool = make_pool(store, prompts=3)
    run = make_run(store)
    before = counts(store)

    def work() -> None:
        with store.write() as unit:
            touch_everything(unit, pool.id, run.id)
            raise Refused

    with pytest.raises(Refused):
        work()
    assert counts(store) == before
    with store.read() as unit:
        assert unit.runs.all() == [run]
        assert unit.pools.all() == [pool]


def test_what_is_written_is_there_for_another_process(store: Store, database_url: str) -> None:
    pool = make_pool(store, prompts=3)
    run = make_run(store)
    before = counts(store)
    with store.write() as unit:
        touch_everything(unit, pool.id, run.id)
    with opened_store(database_url) as other:
        after = counts(other)
    assert {name for name, count in after.items() if count > before[name]} == set(before)


def test_nobody_sees_half_of_a_unit_of_work(store: Store, database_url: str) -> None:
    run = make_run(store)
    with opened_store(database_url) as other, store.write() as unit:
        unit.runs.advance(run.id, log_position=unit.log.append(run.id, 0, [outcome()]))
        with other.read() as reader:  # and it does not wait for the writer
            assert reader.runs.get("run").log_position == 0
            assert reader.log.after(run.id, 0).head == 0


def test_a_reader_sees_one_state_of_the_database_to_its_end(
    store: Store, database_url: str
) -> None:
    # Else a process that opens a run while another serves it
    # reads outcomes of draws that it has not read.
    run = make_run(store)
    with opened_store(database_url) as other, store.read() as reader:
        before = reader.runs.get("run")
        with other.write() as unit:
            unit.selections.add(run.id, selection())
            unit.runs.advance(
                run.id, log_position=unit.log.append(run.id, 0, [outcome()]), draws=3, selections=1
            )
        assert reader.selections.since(run.id, 0) == []
        assert reader.log.after(run.id, 0).head == 0
        assert reader.runs.get("run") == before
    with store.read() as reader:
        assert reader.log.after(run.id, 0).head == 1


def test_outcomes_of_many_threads_are_gapless_and_none_is_lost(
    store: Store, database_url: str
) -> None:
    run = make_run(store)
    other = make_run(store, "other")

    def work(thread: int, own: Store) -> list[int]:
        heads = []
        for turn in range(ROUNDS):
            first = (thread * ROUNDS + turn) * 3
            heads.append(
                append_outcomes(own, run, [outcome(draw) for draw in range(first, first + 3)])
            )
            append_outcomes(own, other, [outcome(first)])
        return heads

    with opened_store(database_url) as second, ThreadPoolExecutor(THREADS) as threads:
        stores = [store, second]
        jobs = [threads.submit(work, thread, stores[thread % 2]) for thread in range(THREADS)]
        heads = [head for job in jobs for head in job.result()]
    total = 3 * THREADS * ROUNDS
    assert sorted(heads) == list(range(3, total + 1, 3))
    with store.read() as unit:
        part = unit.log.after(run.id, 0)
        assert part.head == unit.runs.get("run").log_position == total
        assert sorted(part.draw.tolist()) == list(range(total))
        assert unit.runs.get("other").log_position == THREADS * ROUNDS
    for start in range(0, total, 3):  # each report stands together
        assert [b - a for a, b in pairwise(part.draw[start : start + 3].tolist())] == [1, 1]


def test_selections_of_many_threads_have_sequences_ordinals_and_draws_of_their_own(
    store: Store, database_url: str
) -> None:
    run = make_run(store)

    def work(own: Store) -> None:
        for _ in range(ROUNDS):
            with own.write() as unit:
                head = unit.runs.lock(run.id)
                sequence = unit.selections.next_sequence(run.id)
                unit.selections.add(
                    run.id,
                    selection(sequence, ordinal=head.selections, first_draw=head.draws, size=2),
                )
                unit.runs.advance(run.id, draws=head.draws + 2, selections=head.selections + 1)

    with opened_store(database_url) as second, ThreadPoolExecutor(THREADS) as threads:
        for job in [threads.submit(work, own) for own in (store, second) * (THREADS // 2)]:
            job.result()
    issued = THREADS * ROUNDS
    with store.read() as unit:
        found = unit.selections.since(run.id, 0)
        head = unit.runs.get("run")
    assert (
        [record.sequence for record in found]
        == [record.ordinal for record in found]
        == list(range(issued))
    )
    assert [record.first_draw for record in found] == list(range(0, 2 * issued, 2))
    assert (head.draws, head.selections) == (2 * issued, issued)

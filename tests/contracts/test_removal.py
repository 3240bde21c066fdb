"""Deleted runs and pools: out of sight at once, gone slice by slice.

Their ids never come again.
"""

from __future__ import annotations

import pytest
from promptgps_service.errors import NotFound, RunGone
from promptgps_service.store.migrate import downgrade
from promptgps_service.store.records import RunRecord, Segment, VersionRecord
from promptgps_service.store.tables import metadata
from promptgps_service.store.unit import Store
from sqlalchemy import func, select, text

from tests.contracts.samples import append_outcomes, chunk, make_pool, make_run, outcome, selection
from tests.databases import opened_store

OF_RUN = [table for table in metadata.sorted_tables if "run_id" in table.c]
OF_POOL = [table for table in metadata.sorted_tables if "pool_id" in table.c]


def full_run(store: Store, name: str = "run") -> RunRecord:
    """A run with rows in every table of runs."""
    pool = make_pool(store, f"{name}-pool", prompts=3)
    run = make_run(store, name)
    with store.write() as unit:
        start = unit.snapshots.add(unit.runs.get(name), "start")
    append_outcomes(store, run, [outcome(draw) for draw in range(2_500)])
    with store.write() as unit:
        unit.runs.add_segment(run.id, Segment(0, pool.id, 0, 3))
        unit.runs.keep_receipt(run.id, "key", "digest", {}, 0)
        unit.selections.add(run.id, selection())
        unit.versions.add(run.id, VersionRecord(1, 1, "beta", b"state"))
        unit.versions.add_step(run.id, 1, 1, {})
        unit.snapshots.supersede_after(unit.runs.get(name), start)
        unit.selections.add(run.id, selection())
        unit.versions.add(run.id, VersionRecord(1, 1, "beta", b"state"))
        unit.versions.add_step(run.id, 1, 1, {})
        unit.leases.join(f"worker of {name}")
        unit.leases.take(run.id, f"worker of {name}")
        unit.connection.execute(
            metadata.tables["run_subsets"].insert(),
            {"run_id": run.id, "id": "0" * 32, "size": 1, "rows": b"\0" * 4, "created_at": "now"},
        )
    append_outcomes(store, run, [outcome(draw) for draw in range(2_500, 4_000)])
    return run


def rows(store: Store, run_id: int) -> dict[str, int]:
    with store.read() as unit:
        return {
            table.name: unit.connection.execute(
                select(func.count()).select_from(table).where(table.c.run_id == run_id)
            ).scalar_one()
            for table in OF_RUN
        }


def delete_run(store: Store, name: str) -> int:
    with store.write() as unit:
        run = unit.runs.hold_for_deletion(unit.runs.get(name).id)
        unit.runs.hide(run.id)
        unit.events.add("run-deleted", run=name, subject_id=run.id)
    return run.id


def sweep(store: Store, kind: str, owner: int) -> int:
    """Take everything away; answers in how many slices."""
    for number in range(10_000):
        with store.write() as unit:
            if not unit.removal.slice(kind, owner):
                return number
    raise AssertionError("it does not end")


def test_every_table_of_a_run_is_filled_here(store: Store) -> None:
    assert all(rows(store, full_run(store).id).values())


def test_a_deleted_run_is_out_of_sight_at_once_and_gone_after_some_slices(store: Store) -> None:
    run = full_run(store)
    other = full_run(store, "other")
    kept = rows(store, other.id)
    assert delete_run(store, "run") == run.id
    with store.read() as unit:
        assert [each.name for each in unit.runs.all()] == ["other"]
        assert [each.name for each in unit.runs.touched(0)[0]] == ["other"]
        assert unit.runs.find("run") is unit.runs.find(f"~{run.id}") is None
        assert unit.runs.pools() == [("other", "other-pool")]
        assert unit.removal.waiting("runs") == [run.id]
        with pytest.raises(NotFound, match="it was deleted at 20"):
            unit.runs.get("run")
        for reach in (unit.runs.lock, unit.runs.by_id, unit.runs.hold_for_deletion):
            with pytest.raises(RunGone):
                reach(run.id)
        assert unit.runs.over_pool(1) == []
    # its name is free while its rows still go
    assert make_run(store, "run").id not in (run.id, other.id)
    assert sweep(store, "runs", run.id) > 5
    assert not any(rows(store, run.id).values())
    assert rows(store, other.id) == kept
    with store.read() as unit:
        assert unit.removal.waiting("runs") == []
    assert sweep(store, "runs", run.id) == 0


def test_two_processes_that_sweep_at_once_do_it_together(store: Store, database_url: str) -> None:
    run = full_run(store)
    delete_run(store, "run")
    more = True
    with opened_store(database_url) as second:
        while more:
            for each in (store, second):
                with each.write() as unit:
                    more = unit.removal.slice("runs", run.id)
    assert not any(rows(store, run.id).values())


def test_ids_of_runs_and_pools_never_come_again(store: Store) -> None:
    run_ids = set()
    pool_ids = set()
    for number in range(4):
        pool = make_pool(store, "pool", prompts=2)
        run = make_run(store, "run")
        assert run.id not in run_ids
        assert pool.id not in pool_ids
        run_ids.add(run.id)
        pool_ids.add(pool.id)
        sweep(store, "runs", delete_run(store, "run"))
        with store.write() as unit:
            unit.pools.hide(unit.pools.hold_for_deletion(pool.id).id)
            unit.events.add("pool-deleted", pool="pool", subject_id=pool.id)
        if number % 2:
            sweep(store, "pools", pool.id)
        with pytest.raises(NotFound, match="it was deleted at 20"), store.read() as unit:
            unit.pools.get("pool")


def test_a_deleted_pool_takes_its_prompts_along_and_leaves_others_alone(store: Store) -> None:
    pool = make_pool(store, prompts=5)
    other = make_pool(store, "other", prompts=4)
    with store.write() as unit:
        alias = {"pool_id": pool.id, "ordinal": 0, "key": "alias", "position": 1}
        unit.connection.execute(metadata.tables["prompt_aliases"].insert(), alias)
        unit.pools.hide(unit.pools.hold_for_deletion(pool.id).id)
    with store.read() as unit:
        assert [each.name for each in unit.pools.all()] == ["other"]
    assert sweep(store, "pools", pool.id) > 0
    with store.read() as unit:
        for table in OF_POOL:
            of_pool = select(func.count()).select_from(table).where(table.c.pool_id == pool.id)
            assert unit.connection.execute(of_pool).scalar_one() == 0
        assert len(unit.pools.keys_at(other.id, range(4), text=False)) == 4


def test_what_is_hidden_does_not_come_to_light_in_an_older_schema(store: Store) -> None:
    run = full_run(store)
    _ = full_run(store, "other")
    delete_run(store, "run")
    with store.write() as unit:
        unit.pools.hide(unit.pools.get("run-pool").id)
    downgrade(store.engine, "0004")
    with store.engine.connect() as connection:
        names = [
            connection.execute(text(f"SELECT name FROM {kind}")).scalars().all()
            for kind in ("runs", "pools")
        ]
        left = connection.execute(
            text("SELECT count(*) FROM outcomes WHERE run_id = :run"), {"run": run.id}
        )
        assert (names, left.scalar_one()) == ([["other"], ["other-pool"]], 0)


def test_a_deletion_waits_for_whoever_refers_to_the_pool_and_then_sees_it(
    store: Store, database_url: str
) -> None:
    """A run is opened over a pool at the moment in which it is deleted: one of them comes first."""
    pool = make_pool(store, prompts=2)
    run = make_run(store)
    with opened_store(database_url) as other:
        with store.write() as unit:
            found = unit.pools.get("pool", keep=True)
            unit.runs.add_segment(run.id, Segment(0, found.id, 0, 2))
        with other.write() as unit:
            unit.pools.hold_for_deletion(pool.id)
            assert [each.name for each in unit.runs.over_pool(pool.id)] == ["run"]


def test_an_import_ends_where_its_pool_was_archived_or_deleted(store: Store) -> None:
    pool = make_pool(store)
    with store.write() as unit:
        unit.pools.begin_import(pool, "token")
        unit.pools.hide(unit.pools.hold_for_deletion(pool.id).id)
    with pytest.raises(NotFound, match="deleted while prompts were added"), store.write() as unit:
        unit.pools.stage(pool.id, "token", 0, chunk(0, 2))
    with store.write() as unit:
        unit.pools.abandon_import(pool.id, "token")

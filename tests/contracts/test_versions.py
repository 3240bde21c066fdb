"""Model versions: the newest two are kept, the metrics of all."""

from __future__ import annotations

from promptgps_service.store.records import VersionRecord
from promptgps_service.store.unit import Store
from sqlalchemy import text

from tests.contracts.samples import make_run

STATE = bytes(range(256)) * 3


def test_without_a_version_there_is_nothing(store: Store) -> None:
    run = make_run(store)
    with store.read() as unit:
        assert unit.versions.latest(run.id) is None
        assert unit.versions.metrics(run.id) == []


def test_the_newest_version_comes_back_byte_for_byte(store: Store) -> None:
    run = make_run(store)
    other = make_run(store, "other")
    with store.write() as unit:
        unit.versions.add(run.id, VersionRecord(1, 10, "beta", b"old"))
        unit.versions.add(run.id, VersionRecord(4, 2**40, "hierarchical", STATE))
        unit.versions.add(other.id, VersionRecord(9, 1, "beta", b""))
    with store.read() as unit:
        assert unit.versions.latest(run.id) == VersionRecord(4, 2**40, "hierarchical", STATE)


def test_only_the_newest_two_versions_are_kept(store: Store) -> None:
    run = make_run(store)
    other = make_run(store, "other")
    with store.write() as unit:
        unit.versions.add(other.id, VersionRecord(1, 1, "beta", STATE))
        for version in range(1, 6):
            assert unit.versions.add(run.id, VersionRecord(version, version, "beta", STATE))
            unit.versions.drop_old(run.id, version)
    with store.read() as unit:
        kept = unit.connection.execute(
            text("SELECT run_id, version FROM model_versions ORDER BY run_id, version")
        )
        assert [tuple(row) for row in kept] == [(run.id, 4), (run.id, 5), (other.id, 1)]


def test_a_version_of_a_snapshot_is_kept_as_long_as_that_stands(store: Store) -> None:
    run = make_run(store)
    kept = []
    with store.write() as unit:
        for version in range(1, 7):
            unit.versions.add(run.id, VersionRecord(version, version, "beta", STATE))
            unit.runs.advance(run.id, model_version=version)
            if version in (2, 3):
                unit.snapshots.add(unit.runs.lock(run.id), f"at-{version}")
            unit.versions.drop_old(run.id, version)
        kept.append(
            unit.connection.execute(
                text("SELECT version FROM model_versions ORDER BY version")
            ).all()
        )
        unit.connection.execute(text("UPDATE snapshots SET superseded_in = 1 WHERE tag = 'at-3'"))
        unit.versions.drop_old(run.id, 6)
        kept.append(
            unit.connection.execute(
                text("SELECT version FROM model_versions ORDER BY version")
            ).all()
        )
    assert [[version for (version,) in rows] for rows in kept] == [[2, 3, 5, 6], [2, 5, 6]]


def test_a_number_stands_for_one_version(store: Store) -> None:
    run = make_run(store)
    with store.write() as unit:
        assert unit.versions.add(run.id, VersionRecord(1, 1, "beta", STATE))
        assert not unit.versions.add(run.id, VersionRecord(1, 2, "beta", b"late"))
    with store.read() as unit:
        assert unit.versions.latest(run.id) == VersionRecord(1, 1, "beta", STATE)


def test_the_metrics_of_every_step_are_kept_in_order(store: Store) -> None:
    run = make_run(store)
    with store.write() as unit:
        for version in (2, 1, 3):
            unit.versions.add_step(
                run.id, version, 10 * version, {"log_loss": version / 7, "spearman": None}
            )
        unit.versions.add(run.id, VersionRecord(30, 30, "beta", STATE))
    with store.read() as unit:
        assert unit.versions.metrics(run.id) == [
            (version, 10 * version, {"log_loss": version / 7, "spearman": None})
            for version in (1, 2, 3)
        ]

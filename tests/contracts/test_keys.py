"""API keys: one of a name, gone at once when revoked, and never the key itself."""

from __future__ import annotations

from dataclasses import replace

from promptgps_service.store.records import Segment
from promptgps_service.store.unit import Store

from tests.contracts.samples import key, make_pool, make_run


def test_what_goes_in_comes_out_by_name(store: Store) -> None:
    late = key("a", expires_at="2027-01-01T00:00:00.000+00:00", runs=[], read_only=False)
    with store.write() as unit:
        assert unit.keys.all() == []
        assert unit.keys.add(key("b"))
        assert unit.keys.add(late)
    with store.read() as unit:
        assert unit.keys.all() == [late, key("b")]


def test_a_name_is_taken_until_its_key_is_revoked(store: Store) -> None:
    other = replace(key(), id="0" * 12)
    with store.write() as unit:
        assert unit.keys.add(key())
        assert not unit.keys.add(other)
        assert unit.keys.revoke("key")
        assert not unit.keys.revoke("key")
        (revoked,) = unit.keys.all()
        assert revoked.revoked_at is not None
        assert replace(revoked, revoked_at=None) == key()
        assert unit.keys.add(other)
    with store.read() as unit:
        assert unit.keys.all() == [other]


def test_a_revoked_key_stays_known_until_all_are_forgotten(store: Store) -> None:
    with store.write() as unit:
        unit.keys.add(key("first"))
        unit.keys.add(key("second"))
        unit.keys.revoke("first")
    with store.read() as unit:
        assert [record.name for record in unit.keys.all()] == ["first", "second"]
    with store.write() as unit:
        unit.keys.forget_all()
    with store.read() as unit:
        assert unit.keys.all() == []


def test_use_is_noted_for_the_keys_that_were_used(store: Store) -> None:
    first = key("first")
    second = key("second")
    with store.write() as unit:
        unit.keys.add(first)
        unit.keys.add(second)
        unit.keys.mark_used([second.id, "gone"], "2026-02-11T08")
    with store.read() as unit:
        assert unit.keys.all() == [first, replace(second, last_used="2026-02-11T08")]


def test_runs_are_told_with_the_pools_they_draw_from(store: Store) -> None:
    pool = make_pool(store, "pool", prompts=4)
    other = make_pool(store, "other", prompts=2)
    run = make_run(store)
    with store.write() as unit:
        assert unit.runs.pools() == []
        unit.runs.add_segment(run.id, Segment(0, pool.id, 0, 2))
        unit.runs.add_segment(run.id, Segment(2, other.id, 0, 2))
        unit.runs.add_segment(run.id, Segment(4, pool.id, 2, 2))
        assert unit.runs.pools() == [("run", "other"), ("run", "pool")]

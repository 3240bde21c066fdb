"""Events: in order, page by page, by run or by pool, and what was deleted by its id."""

from __future__ import annotations

from promptgps_service.store.unit import Store

from tests.databases import opened_store


def test_events_come_back_newest_first_and_page_by_page(store: Store) -> None:
    with store.write() as unit:
        for number in range(7):
            unit.events.add(
                "run-changed", run=f"run-{number % 2}", key="alice", detail={"number": number}
            )
        unit.events.add("pool-created", pool="pool")
    with store.read() as unit:
        every = unit.events.page()
        assert [event.id for event in every] == sorted((event.id for event in every), reverse=True)
        assert [event.detail.get("number") for event in every] == [None, 6, 5, 4, 3, 2, 1, 0]
        odd = unit.events.page(run="run-1", limit=2)
        assert [event.detail["number"] for event in odd] == [5, 3]
        assert [
            event.detail["number"] for event in unit.events.page(run="run-1", before=odd[-1].id)
        ] == [1]
        (pool,) = unit.events.page(pool="pool")
        assert (pool.action, pool.run, pool.key) == ("pool-created", None, None)
        assert unit.events.page(pool="nobody") == []


def test_what_came_since_an_event_is_of_one_kind_and_in_order(
    store: Store, database_url: str
) -> None:
    with store.write() as unit:
        assert unit.events.newest_id() == 0
        unit.events.add("run-deleted", run="a", subject_id=7)
        unit.events.add("run-created", run="b")
    with opened_store(database_url) as other, other.write() as unit:
        unit.events.add("run-deleted", run="b", subject_id=8)
    with store.read() as unit:
        first, second = unit.events.since(0, "run-deleted")
        assert (first.subject_id, second.subject_id) == (7, 8)
        assert unit.events.since(first.id, "run-deleted") == [second]
        assert unit.events.newest_id() == second.id
        assert unit.events.newest_id("run-created") == first.id + 1
        assert unit.events.latest("run-deleted", run="a") == first
        assert unit.events.latest("run-deleted", run="c") is None
        assert [unit.events.was_deleted("run-deleted", number) for number in (7, 8, 9)] == [
            True,
            True,
            False,
        ]
        assert unit.events.highest_deleted("run-deleted") == 8
        assert unit.events.highest_deleted("pool-deleted") == 0


def test_long_words_are_cut(store: Store) -> None:
    with store.write() as unit:
        unit.events.add("run-faulty", run="a", detail={"fault": "x" * 100_000, "rows": 3})
    with store.read() as unit:
        (event,) = unit.events.page()
    assert len(str(event.detail["fault"])) == 1_000
    assert event.detail["rows"] == 3

"""Pools: an import is seen whole or not at all, by one importer at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from promptgps_service.errors import Busy, NotFound
from promptgps_service.store.records import Known
from promptgps_service.store.unit import Store

from tests.contracts.samples import DIMENSION, append, chunk, make_pool


def committed(store: Store, name: str = "pool") -> int:
    with store.read() as unit:
        return unit.pools.get(name).prompts


def test_a_new_pool_is_empty_and_keeps_what_it_was_made_with(store: Store) -> None:
    made = make_pool(store)
    with store.read() as unit:
        found = unit.pools.get("pool")
        assert unit.pools.by_id(made.id) == found
    assert found == made
    assert (found.prompts, found.frame_rows, found.dimension) == (0, 0, DIMENSION)
    assert found.embedding == {"kind": "given", "dimension": DIMENSION}


def test_pools_are_listed_by_name(store: Store) -> None:
    for name in ("b", "a", "c"):
        make_pool(store, name)
    with store.read() as unit:
        assert [pool.name for pool in unit.pools.all()] == ["a", "b", "c"]


def test_an_unknown_pool_is_not_found(store: Store) -> None:
    with store.read() as unit:
        assert unit.pools.find("nowhere") is None
        with pytest.raises(NotFound, match="nowhere"):
            unit.pools.get("nowhere")


def test_staged_prompts_are_invisible_until_the_import_is_finished(store: Store) -> None:
    pool = make_pool(store, prompts=2)
    with store.write() as unit:
        assert unit.pools.begin_import(pool, "importer") == 2
    for start in (2, 5):
        with store.write() as unit:
            unit.pools.stage(pool.id, "importer", start, chunk(start, 3))
        assert committed(store) == 2
        with store.read() as unit:
            assert unit.pools.positions(unit.pools.get("pool"), ["key-1", "key-2"]) == {"key-1": 1}
    with store.write() as unit:
        unit.pools.finish_import(pool.id, "importer", 8)
    assert committed(store) == 8
    with store.read() as unit:
        found = unit.pools.positions(unit.pools.get("pool"), [f"key-{n}" for n in range(9)])
        assert found == {f"key-{n}": n for n in range(8)}


def test_an_abandoned_import_leaves_nothing(store: Store) -> None:
    pool = make_pool(store, prompts=2)
    with store.write() as unit:
        unit.pools.begin_import(pool, "importer")
        unit.pools.stage(pool.id, "importer", 2, chunk(2, 3))
    with store.write() as unit:
        unit.pools.abandon_import(pool.id, "importer")
    with store.read() as unit:
        assert unit.pools.known_keys(pool.id, ["key-2", "key-3"]) == {}
        assert unit.pools.arrays(pool, 0, 100).identity.size == 2
    append(store, pool, chunk(2, 4))  # the same prompts can come again, and the token is free
    assert committed(store) == 6


def test_a_second_import_is_refused_while_the_first_is_under_way(store: Store) -> None:
    pool = make_pool(store)
    with store.write() as unit:
        unit.pools.begin_import(pool, "first")
    with pytest.raises(Busy) as refused, store.write() as unit:
        unit.pools.begin_import(pool, "second")
    assert refused.value.retry_after > 0
    with store.write() as unit:  # the first one goes on
        unit.pools.stage(pool.id, "first", 0, chunk(0, 2))
        unit.pools.finish_import(pool.id, "first", 2)
    assert committed(store) == 2


def test_an_import_into_one_pool_does_not_hold_up_another(store: Store) -> None:
    one = make_pool(store, "one")
    other = make_pool(store, "other")
    with store.write() as unit:
        unit.pools.begin_import(one, "first")
        assert unit.pools.begin_import(other, "second") == 0


def test_a_dead_import_is_taken_over_and_can_write_no_more(store: Store) -> None:
    pool = make_pool(store, prompts=1)
    with store.write() as unit:
        unit.pools.begin_import(pool, "dead")
        unit.pools.stage(pool.id, "dead", 1, chunk(1, 3))
    with store.write() as unit:
        assert unit.pools.begin_import(pool, "heir", dead=unit.pools.importing(pool.id)) == 1
    with store.read() as unit:
        assert unit.pools.known_keys(pool.id, ["key-1"]) == {}
    with pytest.raises(Busy), store.write() as unit:
        unit.pools.stage(pool.id, "dead", 4, chunk(4, 1))
    with pytest.raises(Busy), store.write() as unit:
        unit.pools.finish_import(pool.id, "dead", 4)
    with store.write() as unit:
        # it gives up, and does not touch what is the heir's
        unit.pools.abandon_import(pool.id, "dead")
    with store.write() as unit:
        unit.pools.stage(pool.id, "heir", 1, chunk(1, 2))
        unit.pools.finish_import(pool.id, "heir", 3)
    assert committed(store) == 3


def test_an_import_that_has_shown_a_sign_of_life_since_is_not_taken_over(store: Store) -> None:
    pool = make_pool(store)
    with store.write() as unit:
        assert unit.pools.importing(pool.id) is None
        unit.pools.begin_import(pool, "slow")
        seen = unit.pools.importing(pool.id)
    with store.write() as unit:
        unit.pools.stage(pool.id, "slow", 0, chunk(0, 1))
        assert unit.pools.importing(pool.id) != seen
    with pytest.raises(Busy), store.write() as unit:
        unit.pools.begin_import(pool, "impatient", dead=seen)


def test_lookups_answer_for_what_is_there_and_only_for_that(store: Store) -> None:
    pool = make_pool(store, prompts=5)
    other = make_pool(store, "other", prompts=2)
    digests = chunk(0, 8).digests
    with store.read() as unit:
        assert unit.pools.known_keys(pool.id, ["key-3", "nothing"]) == {
            "key-3": Known(3, digests[3])
        }
        assert unit.pools.known_digests(pool.id, digests) == {
            digest: n for n, digest in enumerate(digests[:5])
        }
        assert unit.pools.known_digests(other.id, digests) == {
            digest: n for n, digest in enumerate(digests[:2])
        }
        assert unit.pools.keys_at(pool.id, [4, 0, 77], text=True) == {
            0: ("key-0", "text 0"),
            4: ("key-4", "text 4"),
        }
        assert unit.pools.keys_at(pool.id, [1], text=False) == {1: ("key-1", None)}


def test_lookups_take_more_keys_than_a_query_has_parameters(store: Store) -> None:
    pool = make_pool(store, prompts=9_000)
    keys = [f"key-{number}" for number in range(40_000)]
    with store.read() as unit:
        for asked in (
            keys,
            keys[5_000:9_500],
            keys[8_990:] + keys[:8_300],
        ):  # one by one, or all the pool's at once
            found = unit.pools.positions(pool, asked)
            assert found == {
                key: int(key.split("-")[1]) for key in asked if int(key.split("-")[1]) < 9_000
            }
        assert len(unit.pools.known_digests(pool.id, chunk(0, 40_000).digests)) == 9_000


def test_domains_come_in_the_order_of_positions(store: Store) -> None:
    pool = make_pool(store)
    append(store, pool, chunk(0, 2, domain="maths"))
    append(store, pool, chunk(2, 2))
    append(store, pool, chunk(4, 1, domain="code"))
    with store.read() as unit:
        assert unit.pools.domains(pool.id, 1, 4) == ["maths", None, None, "code"]


@pytest.mark.parametrize(("start", "stop"), [(0, 7), (1, 2), (2, 6), (3, 3), (6, 7)])
def test_vectors_are_cut_from_any_chunks(store: Store, start: int, stop: int) -> None:
    pool = make_pool(store)
    for first, count in ((0, 3), (3, 1), (4, 3)):
        append(store, pool, chunk(first, count))
    whole = chunk(0, 7)
    with store.read() as unit:
        read = unit.pools.arrays(pool, start, stop)
    assert read.identity.tolist() == [
        int.from_bytes(digest[:8], "little", signed=True) for digest in whole.digests[start:stop]
    ]
    np.testing.assert_array_equal(read.embedding, whole.embedding[start:stop])
    assert read.embedding.dtype == np.float16
    if stop > start:
        np.testing.assert_array_equal(read.surface, whole.surface[start:stop])


def test_an_empty_chunk_is_no_chunk(store: Store) -> None:
    pool = make_pool(store, prompts=1)
    append(store, pool, chunk(1, 0))
    append(store, pool, chunk(1, 1))
    assert committed(store) == 2


def test_the_frame_is_set_once_said(store: Store) -> None:
    pool = make_pool(store, prompts=4)
    with store.write() as unit:
        unit.pools.set_frame(pool.id, 4)
    with store.read() as unit:
        assert unit.pools.get("pool").frame_rows == 4


def aliases(store: Store, *keys: str) -> dict[str, int]:
    with store.read() as unit:
        return unit.pools.positions(unit.pools.get("pool"), keys)


def test_aliases_are_seen_with_their_import_or_not_at_all(store: Store) -> None:
    pool = make_pool(store, prompts=2)
    with store.write() as unit:
        unit.pools.begin_import(pool, "importer")
        unit.pools.stage(pool.id, "importer", 2, chunk(2, 1))
        unit.pools.stage_aliases(pool.id, "importer", 0, {"of-old": 0, "of-new": 2})
        assert unit.pools.known_keys(pool.id, ["of-old"]) == {
            "of-old": Known(0, chunk(0, 1).digests[0])
        }
    assert aliases(store, "key-1", "of-old", "of-new") == {"key-1": 1}
    with store.write() as unit:
        unit.pools.finish_import(pool.id, "importer", 3, aliases=2)
    assert aliases(store, "key-1", "of-old", "of-new", "else") == {
        "key-1": 1,
        "of-old": 0,
        "of-new": 2,
    }
    append(store, pool, chunk(3, 1))  # an import without aliases leaves them
    assert aliases(store, "of-old") == {"of-old": 0}


@pytest.mark.parametrize("end", ["abandoned", "taken over"])
def test_aliases_of_an_import_that_came_to_nothing_are_gone(store: Store, end: str) -> None:
    pool = make_pool(store, prompts=2)
    with store.write() as unit:
        unit.pools.begin_import(pool, "first")
        unit.pools.stage_aliases(pool.id, "first", 0, {"kept": 1})
        unit.pools.finish_import(pool.id, "first", 2, aliases=1)
    with store.write() as unit:
        unit.pools.begin_import(pool, "dead")
        unit.pools.stage_aliases(pool.id, "dead", 1, {"lost": 0})
    with store.write() as unit:
        if end == "abandoned":
            unit.pools.abandon_import(pool.id, "dead")
        else:
            unit.pools.begin_import(pool, "heir", dead=unit.pools.importing(pool.id))
    with pytest.raises(Busy), store.write() as unit:
        unit.pools.stage_aliases(pool.id, "dead", 1, {"lost": 0})
    with store.write() as unit:
        assert unit.pools.known_keys(pool.id, ["lost", "kept"]).keys() == {"kept"}
        if end == "abandoned":
            unit.pools.begin_import(pool, "heir")
        unit.pools.stage_aliases(pool.id, "heir", 1, {"lost": 1})  # the name is free again
        unit.pools.finish_import(pool.id, "heir", 2, aliases=2)
    assert aliases(store, "lost", "kept") == {"lost": 1, "kept": 1}


def test_of_prompts_with_one_content_the_first_is_known_by_it(store: Store) -> None:
    pool = make_pool(store)
    same = replace(chunk(0, 3), digests=[b"d" * 16] * 3, identities=[b"d" * 8, b"1" * 8, b"2" * 8])
    append(store, pool, same)
    with store.read() as unit:
        assert unit.pools.known_digests(pool.id, [b"d" * 16, b"e" * 16]) == {b"d" * 16: 0}
        identity = unit.pools.arrays(unit.pools.get("pool"), 0, 3).identity
    assert identity.astype("<i8").tobytes() == b"d" * 8 + b"1" * 8 + b"2" * 8


@pytest.mark.parametrize("widths", [(0, 2), (2, 0), (2, 0, 2), (0, 0), (0, 2, 0)])
def test_chunks_without_surface_stand_beside_those_that_have_one(
    store: Store, widths: tuple[int, ...]
) -> None:
    pool = make_pool(store)
    for place, width in enumerate(widths):
        append(
            store,
            pool,
            replace(chunk(2 * place, 2), surface=np.full((2, width), place, np.float32)),
        )
    with store.read() as unit:
        read = unit.pools.arrays(unit.pools.get("pool"), 1, 2 * len(widths)).surface
    told = [place if width else np.nan for place, width in enumerate(widths) for _ in range(2)][1:]
    expected = np.repeat(np.array(told, np.float32)[:, None], max(widths), axis=1)
    np.testing.assert_array_equal(read, expected)


def test_vectors_are_read_back_chunk_by_chunk(store: Store) -> None:
    pool = make_pool(store)
    for first, count in ((0, 3), (3, 2)):
        append(store, pool, chunk(first, count))
    with store.read() as unit:
        starts, stops = unit.pools.chunks(pool.id)
        assert (starts.tolist(), stops.tolist()) == ([0, 3], [3, 5])
        np.testing.assert_array_equal(
            unit.pools.embedding_of_chunk(pool.id, 3), chunk(3, 2).embedding
        )


def test_pools_come_in_the_order_they_are_named(store: Store) -> None:
    for name in ("b", "a", "c"):
        make_pool(store, name)
    with store.read() as unit:
        assert [pool.name for pool in unit.pools.named(["c", "a"])] == ["c", "a"]

"""What the caller gave different keys are different prompts, whatever their content."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from promptgps_client.wire import (
    AllocateBudget,
    Calibration,
    CreatePool,
    Embedding,
    PredictDifficulty,
    PromptsAdded,
    SendSubset,
)
from promptgps_service.errors import Conflict, NotFound
from promptgps_service.flow.allocate import allocate_budget
from promptgps_service.flow.context import Context
from promptgps_service.flow.predict import predict_difficulty
from promptgps_service.flow.prompt_columns import PromptChunk
from promptgps_service.flow.register import add_prompts, create_pool, describe_pool
from promptgps_service.flow.subsets import send_subset
from promptgps_service.store.records import Known

from tests.databases import opened_context
from tests.flow.driving import DIMENSION, open_run, report, select, settle, vectors

NUMBERS = count()
GEO = [f"geo-{number}" for number in range(8)]


@pytest.fixture
def pool(context: Context) -> Context:
    """A process with an empty pool of given vectors."""
    create_pool(
        context, CreatePool(name="pool", embedding=Embedding(kind="given", dimension=DIMENSION))
    )
    return context


def chunk(
    keys: Sequence[str] | None, texts: Sequence[str], told_by: Sequence[str] | None = None
) -> PromptChunk:
    """Columns whose vectors are a matter of ``told_by``, or else of the texts."""
    return PromptChunk(
        0,
        keys=None if keys is None else list(keys),
        texts=list(texts),
        vectors=vectors(list(told_by or texts)),
    )


def counts(added: PromptsAdded) -> tuple[int, int, int, int]:
    return added.added, added.duplicates, added.aliases, added.total


@pytest.mark.parametrize("told_by", [["one"] * 8, GEO], ids=["same vector", "own vectors"])
def test_prompts_of_one_text_are_drawn_reported_and_predicted_by_their_own_keys(
    pool: Context, told_by: list[str]
) -> None:
    assert counts(add_prompts(pool, "pool", [chunk(GEO, ["What is x?"] * 8, told_by)])) == (
        8,
        0,
        0,
        8,
    )
    assert counts(add_prompts(pool, "pool", [chunk(GEO, ["What is x?"] * 8, told_by)])) == (
        0,
        8,
        0,
        8,
    )
    open_run(pool)
    batch = select(pool, 8)
    assert sorted(batch.draws.prompt) == GEO
    report(
        pool, prompt=["geo-5"] * 8 + GEO[:5] + GEO[6:], successes=[8] * 8 + [4] * 7, trials=[8] * 15
    )
    settle(pool)
    told = predict_difficulty(pool, PredictDifficulty(run="run", keys=GEO)).success_mean
    assert told[5] == max(told)
    state = pool.desk("run").state
    assert state.trials.tolist() == [8.0] * 5 + [64.0] + [8.0] * 2


def test_chunks_of_one_import_keep_keys_distinct_too(pool: Context) -> None:
    parts = [chunk(GEO[:3], ["same"] * 3), chunk(GEO[2:6], ["same"] * 4)]
    assert counts(add_prompts(pool, "pool", parts)) == (6, 1, 0, 6)


def test_identities_differ_and_the_first_of_a_content_has_the_contents_own(pool: Context) -> None:
    add_prompts(pool, "pool", [chunk(GEO[:3], ["same", "same", "other"])])
    add_prompts(pool, "pool", [chunk(GEO[3:6], ["same", "other", "third"])])
    create_pool(
        pool, CreatePool(name="plain", embedding=Embedding(kind="given", dimension=DIMENSION))
    )
    add_prompts(pool, "plain", [chunk(["a", "b", "c"], ["same", "other", "third"])])
    with pool.store.read() as unit:
        own, plain = (
            unit.pools.arrays(record, 0, record.prompts).identity
            for record in (unit.pools.get("pool"), unit.pools.get("plain"))
        )
    assert np.unique(own).size == 6
    assert own[[0, 2, 5]].tolist() == plain.tolist()


def test_without_keys_equal_content_is_one_prompt(pool: Context) -> None:
    assert counts(
        add_prompts(pool, "pool", [chunk(None, ["a", "b", "a"]), chunk(None, ["b", "c"])])
    ) == (3, 2, 0, 3)
    assert counts(add_prompts(pool, "pool", [chunk(["k"], ["a"])])) == (1, 0, 0, 4)
    assert counts(add_prompts(pool, "pool", [chunk(None, ["a", "d"])], "keep")) == (1, 1, 0, 5)


# ---- merged on request -------------------------------------------------------------------


def test_a_merged_key_is_another_name_of_the_prompt_everywhere(
    pool: Context, database_url: str
) -> None:
    add_prompts(pool, "pool", [chunk(["a", "b", "c"], ["one", "two", "three"])])
    parts = [
        chunk(["a2", "b2", "d"], ["one", "two", "four"]),
        chunk(["d2", "d3", "a2"], ["four", "four", "one"]),
    ]
    assert counts(add_prompts(pool, "pool", parts, "merge")) == (1, 1, 4, 4)
    open_run(pool)
    with opened_context(database_url) as other:
        for process in (pool, other):
            alone = select(process, 1, candidates=["d3"])
            assert alone.draws.prompt == ["d"]
            rest = select(process, 2, exclude=["a2", "d2"])
            assert sorted(rest.draws.prompt) == ["b", "c"]
            report(process, prompt=["b2"], successes=[1], trials=[4])
            told = predict_difficulty(
                process, PredictDifficulty(run="run", keys=["a", "a2", "d2", "d3"])
            )
            assert told.success_mean[0] == told.success_mean[1]
            assert told.success_mean[2] == told.success_mean[3]
            asked = Calibration(keys=["a2", "d3"], successes=[1, 1], trials=[2, 2])
            budget = AllocateBudget(run="run", keys=["b2", "c"], total=6, calibration=asked)
            assert sum(allocate_budget(process, budget).samples) == 6
            sent = send_subset(process, "run", SendSubset(keys=["a2", "a", "d2"]))
            assert (sent.prompts, sent.unknown) == (2, 0)
        assert other.desk("run").state.trials.tolist() == [0.0, 8.0, 0.0, 0.0]


def test_a_key_that_is_another_name_already_comes_again_and_takes_no_content_of_its_own(
    pool: Context,
) -> None:
    add_prompts(pool, "pool", [chunk(["a", "b"], ["one", "two"])])
    add_prompts(pool, "pool", [chunk(["a2"], ["one"])], "merge")
    for on_equal_content in ("keep", "merge", None):
        assert counts(add_prompts(pool, "pool", [chunk(["a2"], ["one"])], on_equal_content)) == (
            0,
            1,
            0,
            2,
        )
        for text in ("two", "three"):
            with pytest.raises(Conflict, match="'a2'") as refused:
                add_prompts(pool, "pool", [chunk(["new", "a2"], ["new", text])], on_equal_content)
            assert [(fault.field, fault.row) for fault in refused.value.faults] == [("keys", 1)]
    assert describe_pool(pool, "pool").prompts == 2


def test_names_of_an_import_that_was_refused_are_unknown(pool: Context) -> None:
    add_prompts(pool, "pool", [chunk(["a"], ["one"])])
    parts = [chunk(["a2", "b"], ["one", "two"]), chunk(["a2"], ["two"])]
    with pytest.raises(Conflict):
        add_prompts(pool, "pool", parts, "merge")
    open_run(pool)
    with pytest.raises(NotFound, match="1 of 1"):
        predict_difficulty(pool, PredictDifficulty(run="run", keys=["a2"]))
    assert counts(add_prompts(pool, "pool", [chunk(["a2"], ["three"])])) == (1, 0, 0, 2)


def test_prompts_whose_vectors_differ_are_not_merged(pool: Context) -> None:
    found = add_prompts(
        pool, "pool", [chunk(["a", "b", "c"], ["one"] * 3, ["x", "y", "x"])], "merge"
    )
    assert counts(found) == (2, 0, 1, 2)


# ---- the same key with something else ----------------------------------------------------


def test_a_key_that_stands_for_another_content_is_refused_with_what_to_do(pool: Context) -> None:
    long = "k" * 512
    add_prompts(pool, "pool", [chunk([long], ["one"])])
    with pytest.raises(Conflict) as refused:
        add_prompts(pool, "pool", [chunk(["new", long], ["new", "changed"])])
    fault = refused.value.faults[0]
    assert (fault.field, fault.row) == ("keys", 1)
    assert repr(long) in fault.detail
    assert "a key of its own" in fault.detail


@pytest.mark.parametrize("keyed", [True, False], ids=["by key", "by text"])
@pytest.mark.parametrize("when", ["in one chunk", "in another chunk", "in another import"])
def test_another_vector_with_the_same_text_is_refused(
    pool: Context, keyed: bool, when: str
) -> None:
    first, again = (chunk(["a"] if keyed else None, ["one"], [vector]) for vector in ("x", "y"))
    imports = {
        "in one chunk": [[chunk(["a", "a"] if keyed else None, ["one", "one"], ["x", "y"])]],
        "in another chunk": [[first, again]],
        "in another import": [[first], [again]],
    }[when]
    for parts in imports[:-1]:
        add_prompts(pool, "pool", parts)
    with pytest.raises(Conflict, match="vector") as refused:
        add_prompts(pool, "pool", imports[-1])
    assert refused.value.faults[0].field == ("keys" if keyed else "vectors")
    assert describe_pool(pool, "pool").prompts == len(imports) - 1


@pytest.mark.parametrize("texts", [["one", "two"], None], ids=["with texts", "vectors alone"])
def test_a_vector_that_was_rounded_on_its_way_is_the_same(
    pool: Context, texts: list[str] | None
) -> None:
    exact = vectors(["a", "b"])
    unit = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    for sent in (
        exact,
        unit.astype(np.float16).astype(np.float32),
        3 * exact,
        exact.astype(np.float64),
    ):
        add_prompts(pool, "pool", [PromptChunk(0, keys=["a", "b"], texts=texts, vectors=sent)])
    assert describe_pool(pool, "pool").prompts == 2
    with pytest.raises(Conflict):
        add_prompts(
            pool,
            "pool",
            [PromptChunk(0, keys=["a"], texts=texts and texts[:1], vectors=exact + 0.05)],
        )


ROW = st.tuples(
    st.sampled_from("abcdef"), st.sampled_from(["one", "two", "three"]), st.sampled_from("xy")
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    imports=st.lists(
        st.tuples(st.lists(st.lists(ROW, max_size=4), max_size=2), st.booleans()), max_size=4
    )
)
def test_whatever_comes_each_key_stands_for_the_content_it_came_with_first(
    context: Context, imports: list[tuple[list[list[tuple[str, str, str]]], bool]]
) -> None:
    name = f"pool-{next(NUMBERS)}"
    create_pool(
        context, CreatePool(name=name, embedding=Embedding(kind="given", dimension=DIMENSION))
    )
    meant: dict[str, tuple[str, str]] = {}
    for parts, merge in imports:
        rows = [row for part in parts for row in part]
        after = dict(meant)
        refused = any(
            after.setdefault(key, (text, vector)) != (text, vector) for key, text, vector in rows
        )
        chunks = [
            chunk([row[0] for row in part], [row[1] for row in part], [row[2] for row in part])
            for part in parts
            if part
        ]
        if refused:
            with pytest.raises(Conflict):
                add_prompts(context, name, chunks, "merge" if merge else "keep")
            continue
        found = add_prompts(context, name, chunks, "merge" if merge else "keep")
        assert found.added + found.duplicates + found.aliases == len(rows)
        assert found.added + found.aliases == len(after) - len(meant)
        meant = after
    with context.store.read() as unit:
        record = unit.pools.get(name)
        known = unit.pools.known_keys(record.id, [*"abcdef"])
        arrays = unit.pools.arrays(record, 0, record.prompts)
        assert known.keys() == unit.pools.positions(record, [*"abcdef"]).keys() == meant.keys()
    assert np.unique(arrays.identity).size == record.prompts
    for key, (_, vector) in meant.items():
        own = vectors([vector])[0]
        stored = arrays.embedding[known[key].position].astype(np.float32)
        np.testing.assert_allclose(stored, own / np.linalg.norm(own), atol=2e-3)
    contents: dict[int, tuple[str, str]] = {}
    for key, told in known.items():
        assert isinstance(told, Known)
        assert contents.setdefault(told.position, meant[key]) == meant[key]

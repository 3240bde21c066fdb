"""Pools, prompts and runs in.

The same twice is one, different under one name is a conflict, refused is nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from promptgps_client.wire import CreatePool, Embedding
from promptgps_service.errors import Busy, Conflict, Invalid
from promptgps_service.flow.context import Context
from promptgps_service.flow.open_run import CreateRun, create_run, list_runs
from promptgps_service.flow.prompt_columns import PromptChunk
from promptgps_service.flow.register import add_prompts, create_pool, describe_pool, list_pools

from tests.databases import opened_context
from tests.flow.driving import DIMENSION, add, open_run, vectors


def test_the_same_pool_twice_is_one_and_another_under_its_name_a_conflict(context: Context) -> None:
    same = CreatePool(name="pool", embedding=Embedding(kind="given", dimension=3))
    assert [create_pool(context, same)[1] for _ in range(2)] == [True, False]
    with pytest.raises(Conflict):
        create_pool(
            context, CreatePool(name="pool", embedding=Embedding(kind="given", dimension=4))
        )
    assert [pool.name for pool in list_pools(context).pools] == ["pool"]


def test_the_same_run_twice_is_one_and_another_under_its_name_names_what_differs(
    context: Context,
) -> None:
    add(context, 4)
    asked = {"name": "run", "pool": "pool", "seed": 3, "selection": {"bonus": 1.0}}
    assert [create_run(context, CreateRun.model_validate(asked))[1] for _ in range(2)] == [
        True,
        False,
    ]
    with pytest.raises(Conflict) as refused:
        create_run(context, CreateRun.model_validate(asked | {"seed": 4, "rollouts_per_prompt": 2}))
    assert [fault.field for fault in refused.value.faults] == ["rollouts_per_prompt", "seed"]


def test_ranks_that_open_at_once_get_one_pool_and_one_run(
    context: Context, database_url: str
) -> None:
    with opened_context(database_url) as other, ThreadPoolExecutor(8) as threads:
        processes = [context, other] * 4
        for number in range(5):
            pool = CreatePool(
                name=f"pool-{number}", embedding=Embedding(kind="given", dimension=DIMENSION)
            )
            made = list(threads.map(lambda process, p=pool: create_pool(process, p)[1], processes))
            assert sorted(made) == [False] * 7 + [True]
            add(context, 4, pool=f"pool-{number}")
            run = CreateRun(name=f"run-{number}", pool=f"pool-{number}")
            opened = list(threads.map(lambda process, r=run: create_run(process, r)[1], processes))
            assert sorted(opened) == [False] * 7 + [True]
    assert len(list_runs(context).runs) == len(list_pools(context).pools) == 5


def test_prompts_are_taken_once_by_key(context: Context) -> None:
    first = add(context, 10)
    assert (first.added, first.duplicates, first.total) == (10, 0, 10)
    again = add(context, 12)
    assert (again.added, again.duplicates, again.total) == (2, 10, 12)


def test_repetitions_within_an_import_count_once(context: Context) -> None:
    create_pool(
        context, CreatePool(name="pool", embedding=Embedding(kind="given", dimension=DIMENSION))
    )
    keys = ["a", "b", "a", "c"]
    chunks = [PromptChunk(first, keys=keys, vectors=vectors(keys)) for first in (0, 4)]
    found = add_prompts(context, "pool", chunks)
    assert (found.added, found.duplicates, found.total) == (3, 5, 3)


def test_a_refused_row_leaves_nothing_of_the_import(context: Context) -> None:
    add(context, 5)

    def chunks() -> Iterator[PromptChunk]:
        yield PromptChunk(0, keys=["a", "b"], texts=["a", "b"], vectors=vectors(["a", "b"]))
        yield PromptChunk(2, keys=["pool-1"], texts=["something else"], vectors=vectors(["c"]))

    with pytest.raises(Conflict) as refused:
        add_prompts(context, "pool", chunks())
    assert (refused.value.faults[0].field, refused.value.faults[0].row) == ("keys", 2)
    assert describe_pool(context, "pool").prompts == 5
    assert add(context, 6).added == 1  # the import token is free again


def test_an_import_that_breaks_off_leaves_nothing(context: Context) -> None:
    add(context, 5)

    def chunks() -> Iterator[PromptChunk]:
        yield PromptChunk(0, keys=["a"], texts=["a"], vectors=vectors(["a"]))
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        add_prompts(context, "pool", chunks())
    assert describe_pool(context, "pool").prompts == 5
    assert add(context, 6).added == 1


def test_a_second_import_is_told_to_come_back(context: Context) -> None:
    add(context, 5)

    def chunks() -> Iterator[PromptChunk]:
        yield PromptChunk(0, keys=["a"], texts=["a"], vectors=vectors(["a"]))
        with pytest.raises(Busy):
            add(context, 6)
        yield PromptChunk(1, keys=["b"], texts=["b"], vectors=vectors(["b"]))

    assert add_prompts(context, "pool", chunks()).added == 2


@pytest.mark.parametrize(
    ("row", "where"),
    [(np.full(DIMENSION, np.nan), 1), (np.zeros(DIMENSION), 1), (np.full(DIMENSION, np.inf), 1)],
)
def test_vectors_without_a_direction_are_named_by_row(
    context: Context, row: np.ndarray, where: int
) -> None:
    add(context, 1)
    bad = np.stack([np.ones(DIMENSION), row]).astype(np.float32)
    with pytest.raises(Invalid) as refused:
        add_prompts(context, "pool", [PromptChunk(0, keys=["a", "b"], vectors=bad)])
    assert (refused.value.faults[0].field, refused.value.faults[0].row) == ("vectors", where)
    assert describe_pool(context, "pool").prompts == 1


def test_a_run_over_an_empty_pool_is_refused_and_does_not_exist(context: Context) -> None:
    add(context, 0)
    with pytest.raises(Invalid):
        open_run(context)
    assert list_runs(context).runs == []

"""Some prompts have texts, others only vectors: in any order, in one run or in a chain of runs."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from promptgps_client.wire import CreatePool, Embedding, PredictDifficulty
from promptgps_service.flow.context import Context
from promptgps_service.flow.predict import predict_difficulty
from promptgps_service.flow.prompt_columns import PromptChunk
from promptgps_service.flow.register import add_prompts, create_pool

from tests.databases import opened_context
from tests.flow.driving import DIMENSION, open_run, report_groups, select, settle, step, vectors

NUMBERS = count()
PRIOR = {"prior_successes": [1.0, None, 2.0], "prior_trials": [4.0, None, 4.0]}
# What an import brings beside vectors.
KINDS = {"vectors": {}, "texts": {"texts": True}, "rates": PRIOR, "all": {"texts": True} | PRIOR}


def add(context: Context, pool: str, kind: str) -> None:
    """An import of three prompts."""
    create_pool(
        context, CreatePool(name=pool, embedding=Embedding(kind="given", dimension=DIMENSION))
    )
    keys = [f"{pool}-{next(NUMBERS)}" for _ in range(3)]
    columns = dict(KINDS[kind])
    if columns.pop("texts", False):
        columns["texts"] = [f"Text of {key}" for key in keys]
    add_prompts(context, pool, [PromptChunk(0, keys=keys, vectors=vectors(keys), **columns)])


POOLS = st.lists(
    st.lists(st.sampled_from([*KINDS]), min_size=1, max_size=2), min_size=1, max_size=2
)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pools=POOLS,
    grown=st.lists(st.tuples(st.integers(0, 1), st.sampled_from([*KINDS])), max_size=2),
    then=POOLS,
)
def test_every_combination_opens_draws_learns_grows_and_is_started_from(
    context: Context, pools: list[list[str]], grown: list[tuple[int, str]], then: list[list[str]]
) -> None:
    name = f"run-{next(NUMBERS)}"

    def fill(kinds: list[list[str]], prefix: str) -> list[dict[str, str]]:
        for place, imports in enumerate(kinds):
            for kind in imports:
                add(context, f"{prefix}-{place}", kind)
        return [{"pool": f"{prefix}-{place}"} for place in range(len(kinds))]

    first = fill(pools, name)
    open_run(context, name=name, pools=first)
    report_groups(context, select(context, 3, run=name))
    settle(context, name)
    for place, kind in grown:
        add(context, first[place % len(first)]["pool"], kind)
        report_groups(context, select(context, 3, run=name))
    settle(context, name)
    asked = PredictDifficulty(run=name, vectors=np.eye(2, DIMENSION).tolist())
    assert np.isfinite(predict_difficulty(context, asked).success_mean).all()
    open_run(context, name=f"{name}-next", pools=fill(then, f"{name}-next"), warm_start_from=name)
    report_groups(context, select(context, 3, run=f"{name}-next"))
    assert settle(context, f"{name}-next").trained_through == 3


@pytest.mark.parametrize("first", ["texts", "vectors"])
def test_a_pool_whose_imports_differ_is_read_the_same_after_a_restart(
    context: Context, database_url: str, first: str
) -> None:
    second = {"texts": "vectors", "vectors": "texts"}[first]
    add(context, "pool", first)
    open_run(context)
    step(context, 2)
    add(context, "pool", second)
    step(context, 4)
    run = settle(context)
    here = context.desk("run").state.table
    with opened_context(database_url) as after:
        there = after.desk("run").state.table
        assert here is not None
        assert there is not None
        assert (there.rows, there.model_version) == (6, run.model_version)
        torch.testing.assert_close(there.posterior.mean, here.posterior.mean)
        with after.store.read() as unit:
            vectors_ = after.features.vectors(unit, unit.pools.get("pool").id, 6)
    unknown = vectors_.surface.isnan().all(1).tolist()
    assert unknown == [kind == "vectors" for kind in (first, second) for _ in range(3)]


def test_one_dimension_with_a_text_first_and_none_later(context: Context) -> None:
    create_pool(context, CreatePool(name="pool", embedding=Embedding(kind="given", dimension=1)))
    add_prompts(
        context, "pool", [PromptChunk(0, texts=["a"], vectors=np.array([[1.0]], np.float32))]
    )
    open_run(context)
    assert len(select(context, 1).draws.prompt) == 1
    add_prompts(
        context, "pool", [PromptChunk(0, keys=["b"], vectors=np.array([[-1.0]], np.float32))]
    )
    assert len(select(context, 2).draws.prompt) == 2

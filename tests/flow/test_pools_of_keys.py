"""A prompt is (pool, key): keys that two pools have are told apart in every request and answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from promptgps_client.wire import (
    AllocateBudget,
    Batch,
    Budget,
    Difficulty,
    PredictDifficulty,
    SendSubset,
)
from promptgps_service.errors import Invalid, NotFound
from promptgps_service.flow.allocate import allocate_budget
from promptgps_service.flow.context import Context
from promptgps_service.flow.predict import predict_difficulty
from promptgps_service.flow.prompt_columns import PromptChunk
from promptgps_service.flow.register import add_prompts
from promptgps_service.flow.rows import Keys, Places, rows_of
from promptgps_service.flow.subsets import send_subset
from promptgps_service.store.records import Segment

from tests.databases import opened_context
from tests.flow.driving import add, open_run, report, select, settle, vectors

NUMBERS = [str(number) for number in range(8)]
COUNTS = {"successes": [1], "trials": [2]}


def fill(context: Context, pool: str, keys: list[str], *, content: str | None = None) -> None:
    """Add prompts to a pool; their content is a matter of the pool too, unless it is said."""
    add(context, 0, pool=pool)
    texts = [f"{content or pool} {key}" for key in keys]
    add_prompts(context, pool, [PromptChunk(0, keys=keys, texts=texts, vectors=vectors(texts))])


@pytest.fixture
def two(context: Context) -> Context:
    """A run over the pools `gsm8k` and `math`: keys 0 to 7 in both, and one of its own in each."""
    fill(context, "gsm8k", [*NUMBERS, "g"])
    fill(context, "math", ["m", *NUMBERS])
    open_run(context, pools=[{"pool": "gsm8k"}, {"pool": "math"}])
    return context


def prompts(batch: Batch) -> set[tuple[str, str]]:
    assert batch.draws.pool is not None
    return set(zip(batch.draws.pool, batch.draws.prompt, strict=True))


# Every request that names prompts by key: the field of the keys, that of their pools, the asking.
ASKED: dict[str, tuple[str, str, Callable[..., Any]]] = {
    "predict": ("keys", "pool", lambda c, **f: predict(c, **f)),
    "allocate": ("keys", "pool", lambda c, **f: allocate(c, **f)),
    "calibration": (
        "calibration.keys",
        "calibration.pool",
        lambda c, **f: allocate(c, **calibrated(**f)),
    ),
    "outcomes": ("prompt", "pool", lambda c, **f: report(c, **repeated(**f))),
    "candidates": ("candidates", "candidates_pool", lambda c, **f: select(c, 1, **f)),
    "exclude": ("exclude", "exclude_pool", lambda c, **f: select(c, 1, **f)),
    "subset": ("keys", "pool", lambda c, **f: send_subset(c, "run", SendSubset(**f))),
}


def predict(context: Context, **fields: Any) -> Difficulty:
    return predict_difficulty(context, PredictDifficulty(run="run", **fields))


def allocate(context: Context, **fields: Any) -> Budget:
    return allocate_budget(
        context, AllocateBudget.model_validate({"run": "run", "total": 9} | fields)
    )


def calibrated(keys: list[str], pool: Any = None) -> dict[str, Any]:
    rows = len(keys)
    told = {"keys": keys, "pool": pool, "successes": [1] * rows, "trials": [2] * rows}
    return {"vectors": vectors(["x"]).tolist(), "calibration": told}


def repeated(prompt: list[str], pool: Any = None) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "pool": pool,
        "successes": [1] * len(prompt),
        "trials": [2] * len(prompt),
    }


def ask(context: Context, form: str, keys: list[str], pool: Any = None) -> Any:
    field, pool_field, asking = ASKED[form]
    fields = {field.split(".")[-1]: keys} | (
        {} if pool is None else {pool_field.split(".")[-1]: pool}
    )
    return asking(context, **fields)


def test_draws_name_their_pools(two: Context) -> None:
    batch = select(two, 18, sequence=0)
    assert prompts(batch) == {(pool, key) for pool in ("gsm8k", "math") for key in NUMBERS} | {
        ("gsm8k", "g"),
        ("math", "m"),
    }
    assert select(two, 18, sequence=0).draws == batch.draws


def test_draws_of_a_run_over_one_pool_need_no_name(context: Context) -> None:
    add(context, 4)
    open_run(context)
    assert select(context, 2).draws.pool is None


@pytest.mark.parametrize("form", ASKED)
def test_a_key_that_two_pools_have_is_refused_with_the_pools_and_what_to_give(
    two: Context, form: str
) -> None:
    with pytest.raises(Invalid) as refused:
        ask(two, form, ["g", "m", "3"])
    (fault,) = refused.value.faults
    field, pool_field, _ = ASKED[form]
    assert (fault.field, fault.row) == (field, 2)
    for told in ("'3'", "'gsm8k'", "'math'", f"`{pool_field.split('.')[-1]}`"):
        assert told in fault.detail


@pytest.mark.parametrize("form", ASKED)
def test_a_pool_that_is_not_the_runs_is_refused_with_those_that_are(
    two: Context, form: str
) -> None:
    fill(two, "other", ["3"])
    for pool, row in (("other", None), (["gsm8k", "other"], 1), (["gsm8k", "nowhere"], 1)):
        with pytest.raises(Invalid) as refused:
            ask(two, form, ["3", "3"], pool)
        (fault,) = refused.value.faults
        assert (fault.field, fault.row) == (ASKED[form][1], row)
        assert "gsm8k, math" in fault.detail


@pytest.mark.parametrize("form", [form for form in ASKED if form != "subset"])
def test_a_key_that_the_named_pool_has_not_is_not_found(two: Context, form: str) -> None:
    for pool in ("gsm8k", ["math", "gsm8k"]):
        with pytest.raises(NotFound) as refused:
            ask(two, form, ["3", "m"], pool)
        assert [(fault.field, fault.row) for fault in refused.value.faults] == [(ASKED[form][0], 1)]


@pytest.mark.parametrize("form", ASKED)
def test_a_key_with_its_pool_is_taken_and_so_is_one_that_only_one_pool_has(
    two: Context, form: str
) -> None:
    ask(two, form, ["3", "3", "m"], ["gsm8k", "math", "math"])
    ask(two, form, ["0", "3"], "math")
    ask(two, form, ["g", "m"])


def test_outcomes_predictions_and_choices_are_of_the_pool_that_is_named(two: Context) -> None:
    report(two, prompt=["3"] * 2, pool=["math", "gsm8k"], successes=[8, 0], trials=[8, 8])
    report(two, prompt=["3", "m"], pool="math", successes=[8, 4], trials=[8, 8])
    state = two.desk("run").state
    (rows,) = rows_of(two, state, Keys(["3", "3", "m"], ["gsm8k", "math", "math"]))
    assert state.trials[torch.from_numpy(rows)].tolist() == [8.0, 16.0, 8.0]
    settle(two)
    told = predict_difficulty(
        two, PredictDifficulty(run="run", keys=["3", "3"], pool=["gsm8k", "math"])
    )
    assert told.success_mean[0] < told.success_mean[1]
    assert prompts(select(two, 2, candidates=["3", "5"], candidates_pool="math")) == {
        ("math", "3"),
        ("math", "5"),
    }
    chosen = select(
        two,
        8,
        candidates=[*NUMBERS, "m"],
        candidates_pool="math",
        exclude=["7"],
        exclude_pool=["math"],
    )
    assert prompts(chosen) == {("math", key) for key in [*NUMBERS[:7], "m"]}


def test_a_run_over_one_pool_takes_its_name_and_no_other(context: Context) -> None:
    add(context, 4)
    add(context, 4, pool="other")
    open_run(context)
    assert predict_difficulty(
        context, PredictDifficulty(run="run", keys=["pool-1"], pool="pool")
    ).success_mean
    with pytest.raises(Invalid, match="other"):
        predict_difficulty(context, PredictDifficulty(run="run", keys=["other-1"], pool="other"))


def test_a_report_that_was_stored_is_answered_again_though_its_key_has_become_ambiguous(
    two: Context,
) -> None:
    first = report(two, key="k", prompt=["m"], **COUNTS)
    fill(two, "gsm8k", ["m"])
    again = report(two, key="k", prompt=["m"], **COUNTS)
    assert (again.stored, again.duplicates, again.log_position) == (0, 1, first.log_position)
    with pytest.raises(Invalid, match="several pools"):
        report(two, key="another", prompt=["m"], **COUNTS)


def test_a_batch_is_answered_again_though_its_candidates_have_become_ambiguous(
    two: Context,
) -> None:
    first = select(two, 2, sequence=3, candidates=["g", "m"])
    fill(two, "gsm8k", ["m"])
    assert select(two, 2, sequence=3, candidates=["g", "m"]).draws == first.draws


def test_prompts_of_the_same_content_in_two_pools_have_luck_of_their_own(
    context: Context, database_url: str
) -> None:
    keys = [f"k{number}" for number in range(40)]
    for pool in ("a", "b"):
        fill(context, pool, keys, content="the same")
    open_run(
        context,
        pools=[{"pool": "a"}, {"pool": "b"}],
        selection={"strategy": "uniform", "cooldown": 0},
    )
    identity = context.desk("run").state.identity
    assert identity.unique().numel() == 80
    together = 0
    for number in range(30):
        drawn = select(context, 8, sequence=number)
        together += 8 - len(set(drawn.draws.prompt))
    assert together < 60  # with the same coins every draw would come with its twin: 120
    fill(context, "a", ["more"], content="the same")
    fill(context, "b", ["more"], content="the same")
    with opened_context(database_url) as other:
        select(context, 1)
        select(other, 1)
        read = [process.desk("run").state.identity for process in (context, other)]
    assert torch.equal(read[0], read[1])
    assert torch.equal(read[0][:80], identity)
    assert read[0].unique().numel() == 82


def test_places_become_rows_through_many_segments() -> None:
    segments = [Segment(0, 1, 0, 3), Segment(3, 2, 0, 2), Segment(5, 1, 3, 1), Segment(6, 2, 2, 4)]
    places = Places(np.array([1, 1, 2, 2, 1, 2, -1, 1, 3]), np.array([2, 3, 0, 5, 0, 1, -1, 4, 0]))
    assert places.rows(segments).tolist() == [2, 5, 3, 9, 0, 4, -1, -1, -1]
    assert places.unknown.tolist() == [6]

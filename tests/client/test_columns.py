"""Columns as people have them, of the real libraries, and what is said of those that are none."""

from __future__ import annotations

import array
import decimal
import json
from collections import deque
from collections.abc import Callable
from copy import copy
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import promptgps_client as gps
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from promptgps_client import PromptGPS, calls
from promptgps_client.columns import KEYS, NUMBERS, NUMBERS_WITH_GAPS, STRINGS, NoColumn

from .conftest import FAST, Reply, Service
from .test_retries import STORED

Of = Callable[[list[Any]], Any]


class Domain(StrEnum):
    MATHS = "maths"
    CODE = "code"


class Column:
    """As `datasets` has it: a sequence that knows slices, without any of the arrays' methods."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, at: Any) -> Any:
        return self._values[at]


def requested(call: Any) -> dict[str, Any]:
    """The body of a call, or of the only one of several."""
    if not isinstance(call, calls.Call):
        (call,) = call
    return json.loads(call.body)  # type: ignore[no-any-return]


SEQUENCES: dict[str, Of] = {
    "list": list,
    "tuple": tuple,
    "deque": deque,
    "generator": lambda values: (value for value in values),
    "iterator": iter,
    "map": lambda values: map(copy, values),
    "dict keys": lambda values: dict.fromkeys(values).keys(),
    "dict values": lambda values: dict(enumerate(values)).values(),
    "numpy object": lambda values: np.array(values, dtype=object),
    "pandas": pd.Series,
    "pandas with another index": lambda values: pd.Series(
        values, index=range(9, 9 - len(values), -1)
    ),
    "pandas index": pd.Index,
    "pandas categorical": lambda values: pd.Series(pd.Categorical(values)),
    "pandas array": pd.array,
    "polars": pl.Series,
    "pyarrow": pa.array,
    "pyarrow chunks": lambda values: pa.chunked_array([values[:1], values[1:]]),
    "list of pyarrow scalars": lambda values: list(pa.array(values)),
    "datasets": Column,
}
OF_STRINGS: dict[str, Of] = SEQUENCES | {
    "numpy strings": np.array,
    "numpy new strings": lambda values: np.array(values, dtype=np.dtypes.StringDType()),
    "list of numpy strings": lambda values: list(np.array(values)),
    "pandas string": lambda values: pd.Series(values, dtype="string"),
    "pandas pyarrow": lambda values: pd.Series(values, dtype=pd.ArrowDtype(pa.string())),
    "polars categorical": lambda values: pl.Series(values, dtype=pl.Categorical),
    "polars enum": lambda values: pl.Series(values, dtype=pl.Enum(sorted(set(values)))),
    "pyarrow view": lambda values: pa.array(values, pa.string_view()),
    "pyarrow view chunks": lambda values: pa.chunked_array([pa.array(values, pa.string_view())]),
    "pyarrow large": lambda values: pa.array(values, pa.large_string()),
    "pyarrow dictionary": lambda values: pa.array(values).dictionary_encode(),
}
OF_INTEGERS: dict[str, Of] = SEQUENCES | {
    "array": lambda values: array.array("q", values),
    "memoryview": lambda values: memoryview(array.array("q", values)),
    "numpy": np.array,
    "numpy small": lambda values: np.array(values, np.uint8),
    "numpy floats": lambda values: np.array(values, np.float32),
    "list of numpy": lambda values: list(np.array(values)),
    "list of 0-d arrays": lambda values: [np.array(value) for value in values],
    "numpy column of a matrix": lambda values: np.array([values, values]).T[:, 0],
    "torch": torch.tensor,
    "torch floats": lambda values: torch.tensor(values, dtype=torch.bfloat16, requires_grad=True),
    "list of torch scalars": lambda values: list(torch.tensor(values)),
    "pandas nullable": lambda values: pd.Series(values, dtype="Int64"),
    "pandas floats": lambda values: pd.Series(values, dtype="float64"),
    "polars small": lambda values: pl.Series(values, dtype=pl.UInt8),
    "decimals": lambda values: [decimal.Decimal(value) for value in values],
}


@pytest.mark.parametrize("of", OF_STRINGS.values(), ids=OF_STRINGS)
def test_strings_in_any_column(of: Of) -> None:
    texts = ["three", "one", "two"]
    assert requested(
        calls.add_prompts("p", keys=of(texts), texts=of(texts), domains=of(texts))
    ) == {
        "keys": texts,
        "texts": texts,
        "domains": texts,
    }
    assert (
        requested(
            calls.report_groups(run="r", draw_id=of(texts), successes=[1] * 3, trials=[2] * 3)
        )["draw_id"]
        == texts
    )


@pytest.mark.parametrize("of", OF_INTEGERS.values(), ids=OF_INTEGERS)
def test_numbers_in_any_column(of: Of) -> None:
    told = requested(
        calls.report_groups(
            run="r",
            prompt=of([7, 5, 6]),
            successes=of([1, 0, 2]),
            trials=of([3, 4, 2]),
            policy_version=of([3, 1, 2]),
        )
    )
    assert told == {
        "run": "r",
        "prompt": ["7", "5", "6"],
        "successes": [1, 0, 2],
        "trials": [3, 4, 2],
        "policy_version": [3, 1, 2],
    }


@pytest.mark.parametrize(
    "of",
    [
        list,
        np.array,
        pd.Series,
        pl.Series,
        pa.array,
        torch.tensor,
        lambda values: [np.bool_(value) for value in values],
        lambda values: pd.Series(values, dtype="boolean"),
    ],
)
def test_truth_is_a_success_or_a_reward(of: Of) -> None:
    told = requested(
        calls.report_rollouts(
            run="r", draw_id=["d", "d"], rollout_index=[0, 1], reward=of([True, False])
        )
    )
    assert told["reward"] == [1, 0]
    told = requested(
        calls.report_groups(run="r", draw_id=["d", "e"], successes=of([True, False]), trials=[1, 1])
    )
    assert told["successes"] == [1, 0]


MISSING: dict[str, Any] = {
    "none": ["maths", None],
    "pandas object": pd.Series(["maths", None], dtype=object),
    "pandas not a number": pd.Series(["maths", float("nan")], dtype=object),
    "pandas string": pd.Series(["maths", pd.NA], dtype="string"),
    "pandas categorical": pd.Series(pd.Categorical(["maths", None])),
    "list with NA": ["maths", pd.NA],
    "list with NaT": ["maths", pd.NaT],
    "polars": pl.Series(["maths", None]),
    "pyarrow": pa.array(["maths", None]),
    "pyarrow dictionary": pa.array(["maths", None]).dictionary_encode(),
    "enum": [Domain.MATHS, None],
    "numpy masked": np.ma.array(["maths", "x"], mask=[False, True]),
}


@pytest.mark.parametrize("domains", MISSING.values(), ids=MISSING)
def test_what_is_missing_is_none_where_it_may_be(domains: Any) -> None:
    told = requested(calls.add_prompts("p", texts=["a", "b"], domains=domains))
    assert told["domains"] == ["maths", None]


@pytest.mark.parametrize(
    "rates",
    [
        [2.0, None],
        np.array([2.0, np.nan]),
        pd.Series([2, pd.NA], dtype="Int64"),
        pd.Series([2.0, None]),
        pl.Series([2, None]),
        pa.array([2, None]),
        torch.tensor([2.0, float("nan")]),
        [np.float32(2), pd.NaT],
        [decimal.Decimal(2), None],
    ],
)
def test_numbers_that_are_missing_are_none_where_they_may_be(rates: Any) -> None:
    told = requested(
        calls.add_prompts("p", texts=["a", "b"], prior_successes=rates, prior_trials=rates)
    )
    assert told["prior_successes"] == told["prior_trials"] == [2, None]
    rollouts = {
        "run": "r",
        "draw_id": ["d", "e"],
        "rollout_index": [0, 0],
        "status": ["ok", "error"],
    }
    assert requested(calls.report_rollouts(reward=rates, **rollouts))["reward"] == [2, None]


@pytest.mark.parametrize(
    ("fields", "field", "row"),
    [
        ({"keys": pd.Series(["a", None])}, "keys", 1),
        ({"keys": pd.Series([1.0, None])}, "keys", 1),
        ({"keys": [1, True]}, "keys", 1),
        ({"keys": np.array([True, False])}, "keys", 0),
        ({"keys": [0.5, 1.5]}, "keys", 0),
        ({"keys": ["a", float("inf")]}, "keys", 1),
        ({"texts": pd.Series(["a", pd.NA], dtype="string")}, "texts", 1),
        ({"texts": ["a", b"b"]}, "texts", 1),
        ({"texts": np.array(["a", "b"], dtype="S")}, "texts", 0),
        ({"texts": "ab"}, "texts", None),
        ({"texts": b"ab"}, "texts", None),
        ({"texts": {"a": "b"}}, "texts", None),
        ({"texts": {"a": "b"}.items()}, "texts", None),
        ({"keys": {"a", "b"}}, "keys", None),
        ({"keys": frozenset("ab")}, "keys", None),
        ({"keys": 7}, "keys", None),
        ({"keys": np.array("a")}, "keys", None),
        ({"keys": torch.tensor(3)}, "keys", None),
        ({"keys": object()}, "keys", None),
        ({"domains": ["a", 3]}, "domains", 1),
        ({"vectors": 3.0}, "vectors", None),
        ({"vectors": "ab"}, "vectors", None),
        ({"vectors": {(1.0,)}}, "vectors", None),
        ({"vectors": [[1.0], "ab"]}, "vectors", 1),
        ({"vectors": [1.0, 2.0]}, "vectors", 0),
        ({"vectors": [np.array(3.0), np.array(4.0)]}, "vectors", 0),
        ({"prior_successes": ["a", 1], "prior_trials": [1, 1]}, "prior_successes", 0),
    ],
)
def test_what_is_no_column_is_told_by_field_and_row(
    fields: dict[str, Any], field: str, row: int | None
) -> None:
    given = {"texts": ["a", "b"]} | fields
    with pytest.raises(gps.InvalidRequest) as raised:
        list(calls.add_prompts("p", **given))
    first = raised.value.problem.errors[0]
    assert (first.field, first.row) == (field, row), str(raised.value)
    if row is None:
        assert any(word in first.detail for word in ("give ", "one value", "no column", "pairs"))


def test_values_are_told_in_full() -> None:
    with pytest.raises(
        gps.InvalidRequest, match=r"successes, row 1: 4.0000000001|successes, row 1: 8\.1 of 8"
    ):
        calls.report_groups(run="r", draw_id=["a", "b"], successes=[8, 8.1], trials=[8, 8])
    with pytest.raises(gps.InvalidRequest, match=r"trials, row 0: .*, not 5000"):
        calls.report_groups(run="r", draw_id=["a"], successes=[1], trials=[5000])
    with pytest.raises(gps.InvalidRequest, match="'one-text' is one value, not a column"):
        calls.predict_difficulty(run="r", texts="one-text")


def test_order_matters_but_for_candidates() -> None:
    one = requested(
        calls.select_batch(run="r", batch_size=1, candidates={3, 1, 2}, exclude=frozenset("ba"))
    )
    assert (one["candidates"], one["exclude"]) == (["1", "2", "3"], ["a", "b"])
    assert requested(calls.send_subset("r", keys={"b", "a"}, pool="p"))["keys"] == ["a", "b"]
    for call in (
        lambda: calls.select_batch(
            run="r", batch_size=1, candidates={"a", "b"}, candidates_pool=["p", "q"]
        ),
        lambda: calls.send_subset("r", keys={"a", "b"}, pool=["p", "q"]),
        lambda: calls.predict_difficulty(run="r", keys={"a", "b"}),
    ):
        with pytest.raises(gps.InvalidRequest, match="a set has no order"):
            call()


def test_one_value_for_all_may_be_an_array_without_rows() -> None:
    for version in (3, np.int64(3), np.array(3), torch.tensor(3), 3.0, pa.scalar(3)):
        told = requested(
            calls.report_groups(
                run="r", prompt=["a"], successes=[1], trials=[1], policy_version=version
            )
        )
        assert told["policy_version"] == 3
    told = requested(
        calls.report_groups(run="r", prompt=["a"], pool=np.str_("p"), successes=[1], trials=[1])
    )
    assert told["pool"] == "p"


VECTORS: dict[str, Callable[[], Any]] = {
    "lists": lambda: [[1.0, 2.0], [3.0, 4.0]],
    "generator": lambda: ([row, row + 1.0] for row in (1.0, 3.0)),
    "numpy": lambda: np.array([[1, 2], [3, 4]], np.float16),
    "list of arrays": lambda: [np.array([1.0, 2.0]), torch.tensor([3.0, 4.0])],
    "torch": lambda: torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True),
    "pandas frame": lambda: pd.DataFrame({"x": [1.0, 3.0], "y": [2.0, 4.0]}),
    "polars frame": lambda: pl.DataFrame({"x": [1.0, 3.0], "y": [2.0, 4.0]}),
    "pandas series of arrays": lambda: pd.Series(
        [np.array([1.0, 2.0]), np.array([3.0, 4.0])], index=[5, 6]
    ),
    "polars lists": lambda: pl.Series([[1.0, 2.0], [3.0, 4.0]]),
    "polars arrays": lambda: pl.Series([[1.0, 2.0], [3.0, 4.0]], dtype=pl.Array(pl.Float32, 2)),
    "pyarrow": lambda: pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0, 3.0, 4.0]), 2),
    "pyarrow chunks": lambda: pa.chunked_array([[[1.0, 2.0]], [[3.0, 4.0]]]),
    "datasets": lambda: Column([[1.0, 2.0], [3.0, 4.0]]),
}


@pytest.mark.parametrize("vectors", VECTORS.values(), ids=VECTORS)
def test_vectors_of_any_kind(vectors: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert requested(calls.add_prompts("p", keys=[1, 2], vectors=vectors()))["vectors"] == [
        [1.0, 2.0],
        [3.0, 4.0],
    ]
    monkeypatch.setattr("promptgps_client.columns.ROWS_IN_REQUEST", 1)
    apart = [
        requested(call)["vectors"]
        for call in calls.add_prompts("p", keys=[1, 2], vectors=vectors())
    ]
    assert apart == [[[1.0, 2.0]], [[3.0, 4.0]]]
    assert requested(calls.predict_difficulty(run="r", vectors=vectors()))["vectors"] == [
        [1.0, 2.0],
        [3.0, 4.0],
    ]


def test_a_generator_is_read_once_though_the_request_is_tried_again(service: Service) -> None:
    service.says(Reply(503), Reply(200, STORED))
    with PromptGPS(service.url, **FAST) as client:
        client.report_groups(
            run="r", prompt=(key for key in "ab"), successes=iter([1, 0]), trials=iter([1, 1])
        )
    first, second = service.seen
    assert first.body == second.body
    assert first.json()["prompt"] == ["a", "b"]


anything: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.just(pd.NA)
    | st.just(object())
    | st.just(np.array(3))
    | st.just(np.array(["a"]))
    | st.just(float)
    | st.decimals(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(), inner)
        | st.tuples(inner)
        | st.lists(inner).map(iter)
    ),
    max_leaves=6,
)


def refusal(read: Callable[[], Any], kind: type[Exception]) -> Exception | None:
    """The error of that kind, if reading ends in one."""
    try:
        read()
    except kind as fault:
        return fault
    return None


@given(anything)
def test_whatever_is_given_is_a_column_or_told_to_be_none(value: Any) -> None:
    for kind in (KEYS, STRINGS, NUMBERS, NUMBERS_WITH_GAPS):
        fault = refusal(lambda kind=kind: kind.read(value), NoColumn)
        assert fault is None or str(fault)


@given(anything, st.sampled_from(["keys", "texts", "vectors", "domains"]))
def test_no_call_ends_in_a_bare_error(value: Any, field: str) -> None:
    columns: dict[str, Any] = {"texts": ["a"], field: value}
    rollouts: dict[str, Any] = {"draw_id": ["d"], "rollout_index": [0], "reward": value}
    for read in (
        lambda: list(calls.add_prompts("p", **columns)),
        lambda: calls.report_rollouts(run="r", **rollouts),
    ):
        fault = refusal(read, gps.InvalidRequest)
        assert fault is None or str(fault)

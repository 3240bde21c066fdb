"""A model read piece by piece is the model that pydantic reads at once.

A wrong text is wrong in both.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from promptgps_client import wire
from promptgps_service.api.bodies import SHORT
from promptgps_service.flow.digest import request_digest
from promptgps_service.reading import json_model, json_text
from promptgps_service.reading.json_model import ModelReader, Refused, Rows
from pydantic import BaseModel, ValidationError

READERS: dict[type[BaseModel], ModelReader[Any]] = {
    model: ModelReader(model)
    for model in (
        wire.SelectBatch,
        wire.ReportOutcomes,
        wire.AllocateBudget,
        wire.PredictDifficulty,
        wire.AddPrompts,
        wire.CreateRun,
        wire.ChangeRun,
        wire.SendSubset,
        wire.CreatePool,
    )
}
KEYS = ["a", 'q"uote', "back\\slash", "comma, [bracket] {brace}", "ü", "\U0001f600", "x" * 60]
SOUND: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (
        wire.SelectBatch,
        {"run": "r", "batch_size": 3, "candidates": KEYS, "exclude": [], "candidates_pool": "p"},
    ),
    (
        wire.SelectBatch,
        {"run": "r", "batch_size": 3, "candidates": KEYS, "candidates_pool": ["p"] * 7},
    ),
    (
        wire.ReportOutcomes,
        {"run": "r", "draw_id": KEYS, "successes": [1] * 7, "trials": [2] * 7, "policy_version": 3},
    ),
    (
        wire.ReportOutcomes,
        {
            "run": "r",
            "draw_id": KEYS,
            "rollout_index": [0] * 7,
            "reward": [1, 0.5, None, 1e-7, 0, 0, 1],
            "status": ["ok", "ok", "error", "ok", "ok", "ok", "ok"],
            "policy_version": list(range(7)),
        },
    ),
    (
        wire.AllocateBudget,
        {
            "run": "r",
            "mean": 2,
            "keys": KEYS,
            "calibration": {
                "keys": ["a"],
                "successes": [1],
                "trials": [3],
                "wrong_answers": [[1, 1]],
            },
            "outcomes_so_far": {"successes": [0] * 7, "trials": [1] * 7},
        },
    ),
    (
        wire.CreateRun,
        {
            "name": "n",
            "pools": [{"pool": "p", "quota": 0.5}, {"pool": "q", "quota": 0.5}],
            "selection": {
                "band": [0.1, 0.9],
                "domain_quotas": {"a": 0.5, "b": 0.5},
                "cooldown": "auto",
            },
        },
    ),
    (wire.SendSubset, {"keys": KEYS, "pool": ["p"] * 7}),
]


@pytest.fixture(autouse=True, params=[32, 1 << 17], ids=["small windows", "large windows"])
def windows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a few elements, as well as the real ones."""
    monkeypatch.setattr(json_text, "WINDOW", request.param)
    monkeypatch.setattr(json_text, "GLANCE", min(request.param // 2, json_text.GLANCE))
    monkeypatch.setattr(json_text, "STRIDE", max(request.param // 2, 16))


@pytest.mark.parametrize(
    ("size", "pauses"), [(SHORT, False), (3 * json_text.LONG, True)], ids=["short", "long"]
)
@pytest.mark.parametrize("wrong", [False, True])
def test_only_long_texts_are_read_with_pauses_for_others(
    monkeypatch: pytest.MonkeyPatch, size: int, pauses: bool, wrong: bool
) -> None:
    """Short ones are read on the event loop, where nobody may sleep."""
    monkeypatch.setattr(json_text, "WINDOW", 2**14)
    slept: list[float] = []
    monkeypatch.setattr(json_text.time, "sleep", slept.append)
    values = [7] if wrong else ["a"]
    text = json.dumps({"run": "r", "batch_size": 1, "candidates": values * (size // 8)}).encode()

    reader = ModelReader(wire.SelectBatch)
    with pytest.raises(Refused) if wrong else nullcontext():
        reader.small(text) if size == SHORT else reader.large(text)

    assert bool(slept) == pauses


@pytest.mark.parametrize(("model", "content"), SOUND)
@pytest.mark.parametrize(
    "layout", [{}, {"indent": 3}, {"separators": (",", ":")}, {"ensure_ascii": False}]
)
def test_a_sound_text_is_the_same_model(
    model: type[BaseModel], content: dict[str, Any], layout: Any
) -> None:
    text = json.dumps(content, **layout).encode()
    whole = model.model_validate_json(text)
    pieced = READERS[model].large(text)
    assert isinstance(pieced, model)
    assert pieced.model_dump() == whole.model_dump()
    assert pieced.model_fields_set == whole.model_fields_set
    assert request_digest(pieced, {"run"}) == request_digest(whole, {"run"})
    assert READERS[model].small(text) == whole


def test_vectors_are_arrays_of_the_same_numbers() -> None:
    vectors = [[1, 2.5, 1e-7], [0.1, -3, 4]]
    read = READERS[wire.PredictDifficulty].large(
        json.dumps({"run": "r", "vectors": vectors}).encode()
    )
    np.testing.assert_array_equal(np.array(read.vectors, np.float64), vectors)


def test_columns_of_prompts_stay_where_they_are() -> None:
    content = {"keys": KEYS, "texts": KEYS[::-1], "domains": [None, *KEYS[:3], None, "a", "b"]}
    read = ModelReader(wire.AddPrompts, lazy=True).large(json.dumps(content).encode())
    for name, values in content.items():
        column = getattr(read, name)
        assert isinstance(column, Rows)
        assert len(column) == 7
        assert list(column) == list(column) == values


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=10,
)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(SOUND), st.data())
def test_a_changed_text_is_taken_by_both_or_refused_by_both(
    sound: Any, data: st.DataObject
) -> None:
    """Values of any kind in any place, then damage to the bytes."""
    model, content = sound
    field = data.draw(st.sampled_from([*model.model_fields, "unknown"]))
    text = json.dumps(content | {field: data.draw(JSON_VALUES)}).encode()
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(text) - 1))
        damage = data.draw(st.sampled_from([b"", b'"', b",", b"[", b"]", b"}", b"\\", b" "]))
        text = text[:place] + damage + text[place + 1 :]
    check_alike(model, text)


def check_alike(model: type[BaseModel], text: bytes) -> None:
    expected = errors_of(model, text)
    if expected is None:
        assert (
            READERS[model].large(text).model_dump() == model.model_validate_json(text).model_dump()
        )
        return
    with pytest.raises(Refused) as caught:
        READERS[model].large(text)
    told = caught.value.errors
    assert told
    if "json_invalid" not in {error["type"] for error in (*expected, *told)}:
        assert fields_of(told) <= fields_of(expected)


def errors_of(model: type[BaseModel], text: bytes) -> list[Any] | None:
    """What pydantic finds wrong; None for a sound text."""
    try:
        model.model_validate_json(text)
    except ValidationError as error:
        return list(error.errors(include_url=False))
    return None


def fields_of(errors: list[Any]) -> set[Any]:
    return {error["loc"][0] if error["loc"] else None for error in errors}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"{",
        b'{"run"',
        b'{"run":',
        b'{"run":"r"',
        b'{"run":"r",}',
        b'{"run":"r" "x":1}',
        b"{run:1}",
        b'{"run":"r","batch_size":2,"candidates":["a",]}',
        b'{"run":"r","batch_size":2,"candidates":[,"a"]}',
        b'{"run":"r","batch_size":2,"candidates":["a",,"b"]}',
        b'{"run":"r","batch_size":2,"candidates":["a" "b"]}',
        b'{"run":"r","batch_size":2,"candidates":["a"}',
        b'{"run":"r","batch_size":2,"candidates":["a"]}}',
        b'{"run":"r","batch_size":2,"candidates":["a"]} {}',
        b'{"run":"r","batch_size":2,"candidates":["a\\"]}',
        b'{"run":"r","batch_size":2,"candidates":["\xff"]}',
        b'{"run":"r","batch_size":2,"candidates":["a\x01"]}',
        b"[" * 5000,
        b'{"run":"r","batch_size":2,"candidates":[' + b" " * 5000 + b",]}",
    ],
)
def test_what_is_not_json_is_told_so(text: bytes) -> None:
    for read in (READERS[wire.SelectBatch].large, READERS[wire.SelectBatch].small):
        with pytest.raises(Refused) as caught:
            read(text)
        assert [error["type"] for error in caught.value.errors] == ["json_invalid"]


def first_rows(model: type[BaseModel], content: dict[str, Any]) -> list[Any]:
    with pytest.raises(Refused) as caught:
        READERS[model].large(json.dumps(content).encode())
    return [error["loc"] for error in caught.value.errors]


def test_wrong_rows_are_named_by_their_place_in_the_whole_list() -> None:
    keys: list[Any] = [f"key {row}" for row in range(200)]
    keys[150] = 7
    keys[151] = ""
    assert first_rows(wire.SelectBatch, {"run": "r", "batch_size": 1, "candidates": keys})[0] == (
        "candidates",
        150,
    )
    vectors: list[Any] = [[1.0, 2.0]] * 50 + [[1.0, "x"]]
    assert first_rows(wire.PredictDifficulty, {"run": "r", "vectors": vectors}) == [
        ("vectors", 50, 1)
    ]
    both = {"run": 1, "batch_size": 1, "candidates": keys, "exclude": keys}
    assert {loc[0] for loc in first_rows(wire.SelectBatch, both)} == {
        "run",
        "candidates",
        "exclude",
    }


def test_limits_of_lists_hold_over_pieces() -> None:
    one_too_many = {"run": "r", "keys": ["a"] * (wire.MAX_PREDICTIONS + 1)}
    assert first_rows(wire.PredictDifficulty, one_too_many) == [("keys",)]
    assert first_rows(wire.PredictDifficulty, {"run": "r", "keys": []}) == [("keys",)]
    assert first_rows(wire.ChangeRun, {"selection": {"band": [0.5]}}) == [("selection", "band")]


def test_so_many_faults_are_looked_for_and_no_more() -> None:
    with pytest.raises(Refused) as caught:
        READERS[wire.SelectBatch].large(
            json.dumps({"run": "r", "batch_size": 1, "candidates": [1] * 50_000}).encode()
        )
    assert len(caught.value.errors) <= json_model.ROWS_TRIED
    assert not caught.value.complete
    unknown = {"run": "r", "batch_size": 1} | {f"field{index}": 1 for index in range(5000)}
    assert len(first_rows(wire.SelectBatch, unknown)) == json_model.FAULTS

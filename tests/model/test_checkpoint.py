"""Checkpoints: what goes in comes out, and nothing else comes out."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from promptgps_service.model.checkpoint import pack, unpack

STATE = {
    "scalar": torch.tensor(3),
    "empty": torch.zeros(0, 4),
    "wide": torch.arange(6, dtype=torch.float64).reshape(2, 3).T,  # not contiguous
    "flags": torch.tensor([True, False]),
    "half": torch.ones(3, dtype=torch.bfloat16),
}
METADATA = {"predictor": "hierarchical", "γ": "\n"}
DATA = pack(STATE, METADATA)


def test_round_trip():
    state, metadata = unpack(DATA)
    assert metadata == METADATA
    assert state.keys() == STATE.keys()
    for name, value in STATE.items():
        assert state[name].dtype == value.dtype
        assert torch.equal(state[name], value)


def test_tensors_may_share_their_storage():
    whole = torch.arange(4.0)
    state, _ = unpack(pack({"a": whole[:2], "b": whole[1:]}, {}))
    assert state["a"].tolist() == [0, 1]
    assert state["b"].tolist() == [1, 2, 3]


def test_the_same_state_gives_the_same_bytes():
    assert pack(STATE, METADATA) == DATA


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_a_changed_byte_is_noticed(place, change):
    damaged = bytearray(DATA)
    damaged[place] ^= change
    with pytest.raises(ValueError, match="checkpoint"):
        unpack(bytes(damaged))


@given(st.integers(0, len(DATA) - 1))
def test_half_a_file_is_noticed(length):
    with pytest.raises(ValueError, match="checkpoint"):
        unpack(DATA[:length])


@given(st.binary(max_size=200))
def test_other_bytes_are_refused(data):
    with pytest.raises(ValueError, match="checkpoint"):
        unpack(data)


def test_a_pickle_is_refused_unopened():
    with pytest.raises(ValueError, match="not a checkpoint"):
        unpack(pickle.dumps(STATE["scalar"].tolist()))

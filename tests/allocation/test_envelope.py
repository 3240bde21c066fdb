"""The least concave majorant against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from promptgps_service.allocation.envelope import envelope

from tests.allocation.beliefs import majorant

curves = arrays(
    np.float64,
    st.tuples(st.integers(1, 6), st.integers(1, 12)),
    elements=st.floats(0, 1, allow_subnormal=False),
)


@given(curves)
def test_it_is_the_least_concave_majorant(values: np.ndarray) -> None:
    slopes, starts = envelope(values)
    assert slopes.shape == starts.shape == (len(values), values.shape[1] - 1)
    for row, curve in enumerate(values):
        hull = curve[0] + np.concatenate([[0.0], np.cumsum(slopes[row])])
        assert hull == pytest.approx(majorant(curve), abs=1e-9)
        assert (np.diff(slopes[row]) <= 1e-9).all()


@given(curves)
def test_it_touches_the_curve_where_an_edge_starts_and_edges_are_straight(
    values: np.ndarray,
) -> None:
    slopes, starts = envelope(values)
    for row, curve in enumerate(values):
        hull = curve[0] + np.concatenate([[0.0], np.cumsum(slopes[row])])
        assert hull[starts[row]] == pytest.approx(curve[starts[row]], abs=1e-9)
        for b, start in enumerate(starts[row]):
            assert start <= b
            assert slopes[row, b] == slopes[row, start]
            assert starts[row, start] == start

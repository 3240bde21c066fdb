"""Scores against their definitions and SciPy."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from promptgps_service.model.quality import average_ranks, calibration_error, score, spearman
from scipy import stats


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=40))
def test_spearman_is_that_of_scipy(pairs):
    x, y = (vector(*column) for column in zip(*pairs, strict=True))
    assert average_ranks(x).tolist() == stats.rankdata(x.numpy()).tolist()
    if len(set(x.tolist())) < 3 or len(set(y.tolist())) < 2:
        assert spearman(x, y) is None
    else:
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x.numpy(), y.numpy()).statistic)


def test_scores_are_per_attempt():
    scores = score(vector(0.5, 0.25), vector(1, 0), vector(1, 3))
    assert scores.prompts == 2
    assert scores.attempts == 4
    assert scores.log_loss == pytest.approx(-(math.log(0.5) + 3 * math.log(0.75)) / 4)
    assert scores.brier == pytest.approx((1 * 0.25 + 3 * 0.0625) / 4)
    assert scores.spearman is None
    assert scores.calibration_error == pytest.approx((0.5 + 3 * 0.25) / 4)


def test_a_bold_mistake_costs_much_but_not_infinitely_much():
    scores = score(vector(0.0, 1.0, 0.5), vector(1, 0, 1), vector(1, 1, 2))
    assert 5 < scores.log_loss < 20


def test_calibration_error_is_zero_for_the_truth_and_the_gap_for_a_bias():
    p = vector(0.05, 0.35, 0.62, 0.95)
    n = torch.full((4,), 100.0, dtype=torch.float64)
    assert calibration_error(p, p * n, n) == pytest.approx(0.0, abs=1e-12)
    assert calibration_error(p, (p - 0.03) * n, n) == pytest.approx(0.03)
    assert calibration_error(vector(0.0, 1.0), vector(0, 5), vector(5, 5)) == 0.0


def test_float32_predictions_are_scored_too():
    assert score(
        torch.tensor([0.2, 0.4, 0.6]), vector(0, 1, 2), vector(2, 2, 2)
    ).spearman == pytest.approx(1.0)

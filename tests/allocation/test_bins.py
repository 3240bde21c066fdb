"""Corrections by outcomes: little by few, right by many.

None for a predictor that is right, flat for a useless one.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from promptgps_service.allocation.bins import LEAST_IN_BIN, correction
from scipy.special import expit

MU = np.linspace(-3, 3, 61)
SD = np.ones_like(MU)


def outcomes(seed: int, theta: np.ndarray, trials: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.binomial(trials, expit(theta)), np.full(theta.size, trials)


def world(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions (mu, sd) of the right spread, and truths."""
    random = np.random.default_rng(seed)
    mu = random.normal(0, 1.2, count)
    return mu, np.ones(count), mu + random.normal(size=count)


@pytest.mark.parametrize("seed", range(5))
def test_a_predictor_that_is_right_stays_as_it_is(seed: int) -> None:
    mu, sd, theta = world(seed, 4000)
    found = correction(mu, sd, *outcomes(seed, theta, 8))
    new, spread = found.apply(MU, SD)
    assert np.abs(new - MU)[np.abs(MU) < 2].max() < 0.35
    assert spread == pytest.approx(SD, rel=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_a_biased_and_overconfident_predictor_is_put_right(seed: int) -> None:
    mu, sd, theta = world(seed, 4000)
    new, spread = correction(mu - 1.0, sd / 2, *outcomes(seed, theta, 8)).apply(MU, SD / 2)
    assert np.abs(new - (MU + 1.0))[np.abs(MU + 1.0) < 2].max() < 0.35
    assert spread == pytest.approx(SD, rel=0.15)


@pytest.mark.parametrize("sign", [0, -1])
def test_a_useless_predictor_becomes_flat(sign: int) -> None:
    """Of four logits between the predictions less than half a one is left: eight bins' noise."""
    left = []
    for seed in range(8):
        mu, sd, theta = world(seed, 4000)
        useless = np.random.default_rng(seed).permutation(mu) if sign == 0 else -mu
        new, spread = correction(useless, sd, *outcomes(seed, theta, 8)).apply(MU, SD)
        left.append(np.ptp(new[np.abs(MU) <= 2]))
        assert sign or spread[0] == pytest.approx(np.sqrt(1 + 1.2**2), rel=0.15)
    assert np.mean(left) < 0.5


@given(seed=st.integers(0, 1000), s=st.integers(0, 1))
def test_one_outcome_changes_little(seed: int, s: int) -> None:
    mu = np.random.default_rng(seed).normal(size=1)
    new, spread = correction(mu, np.ones(1), np.array([s]), np.array([1])).apply(MU, SD)
    moved = new - MU
    assert np.ptp(moved) < 1e-9
    assert abs(moved[0]) < 0.75
    assert (moved[0] > 0) == (s == 1)
    assert spread == pytest.approx(SD, rel=0.15)


@given(seed=st.integers(0, 1000), count=st.integers(1, 400), trials=st.integers(1, 64))
def test_the_order_of_predictions_is_never_turned_round(seed: int, count: int, trials: int) -> None:
    random = np.random.default_rng(seed)
    mu = random.normal(size=count).round(1)
    n = random.integers(1, trials + 1, count)
    found = correction(mu, random.uniform(0, 3, count), random.binomial(n, random.random(count)), n)
    new, spread = found.apply(np.linspace(-9, 9, 400), np.ones(400))
    assert (np.diff(new) >= -1e-9).all()
    assert np.isfinite(new).all()
    assert (spread > 0).all()
    assert found.predicted.size <= max(count // LEAST_IN_BIN, 1)


def test_equal_predictions_are_one_bin() -> None:
    random = np.random.default_rng(0)
    n = np.full(500, 4)
    found = correction(np.full(500, 0.5), np.ones(500), random.binomial(4, 0.3, 500), n)
    assert found.predicted.tolist() == [pytest.approx(0.5)]
    new, _ = found.apply(np.array([0.5, 1.5]), np.ones(2))
    assert new[1] - new[0] == pytest.approx(1.0)
    assert -1.5 < new[0] < -0.5


def test_rows_in_another_order_say_the_same() -> None:
    mu, sd, theta = world(3, 600)
    s, n = outcomes(3, theta, 4)
    order = np.random.default_rng(1).permutation(600)
    straight = correction(mu, sd, s, n)
    other = correction(mu[order], sd[order], s[order], n[order])
    assert other.corrected == pytest.approx(straight.corrected)
    assert other.spread == pytest.approx(straight.spread)

"""Beliefs on the common grid against dense integration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from promptgps_service.allocation.belief import GRID, LOG_P, LOG_Q, STEP, log_odds, masses, update
from promptgps_service.model.posterior import BetaPosterior, LogitNormal
from scipy import stats
from scipy.special import expit

DENSE = np.linspace(-40, 40, 160_001)


def density(mu: float, sd: float) -> np.ndarray:
    mass = stats.norm.pdf(DENSE, mu, sd)
    return mass / mass.sum()


@given(mu=st.floats(-11, 11), sd=st.floats(0, 6))
def test_rows_are_distributions_whatever_their_width(mu: float, sd: float) -> None:
    weights = masses(np.array([mu, 0.0]), np.array([sd, 1.0]))[0]
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)


@given(mu=st.floats(-6, 6), sd=st.floats(0, 1))
def test_moments_are_kept_within_the_grid(mu: float, sd: float) -> None:
    weights = masses(np.array([mu]), np.array([sd]))[0]
    mean = weights @ GRID
    assert mean == pytest.approx(mu, abs=1e-4)  # some of the tail lies outside
    assert weights @ (GRID - mean) ** 2 == pytest.approx(sd**2, abs=STEP**2 / 4 + 1e-5)


@pytest.mark.parametrize("sd", [0.3, 1.0, 2.6, 3.7])
@pytest.mark.parametrize("mu", [-3.0, 0.0, 2.0])
@pytest.mark.parametrize("failures", [0, 4, 16])
def test_the_gain_of_one_more_sample_is_right_where_nine_nodes_are_not(
    mu: float, sd: float, failures: int
) -> None:
    p = expit(DENSE)
    mass = density(mu, sd)
    truth = [
        (mass * p * (1 - p) ** (failures + b)).sum() / (mass * (1 - p) ** failures).sum()
        for b in (0, 3, 15)
    ]
    weights = update(masses(np.array([mu]), np.array([sd])), np.array([0]), np.array([failures]))
    found = [float((weights @ np.exp(LOG_P + b * LOG_Q))[0]) for b in (0, 3, 15)]
    assert found == pytest.approx(truth, rel=0.01, abs=5e-4)


@given(mu=st.floats(-4, 4), sd=st.floats(0.4, 3), n=st.integers(0, 200), share=st.floats(0, 1))
def test_bayes_against_dense_integration(mu: float, sd: float, n: int, share: float) -> None:
    s = round(share * n)
    weights = update(masses(np.array([mu]), np.array([sd])), np.array([s]), np.array([n]))[0]
    log = (
        stats.norm.logpdf(DENSE, mu, sd)
        - s * np.logaddexp(0, -DENSE)
        - (n - s) * np.logaddexp(0, DENSE)
    )
    mass = np.exp(log - log.max())
    mean = (mass / mass.sum()) @ expit(DENSE)
    assert weights.sum() == pytest.approx(1.0)
    assert weights @ np.exp(LOG_P) == pytest.approx(mean, abs=0.02)


def test_a_sure_belief_moves_by_one_point_of_the_grid_at_most() -> None:
    weights = update(masses(np.array([0.0]), np.array([0.0])), np.array([0]), np.array([4096]))
    assert weights[0] @ GRID >= -STEP


@pytest.mark.parametrize(("mu", "sd"), [(0.0, 1.0), (-3.0, 2.6), (5.0, 0.1)])
def test_moments_are_read_off_a_logit_normals_nodes(mu: float, sd: float) -> None:
    posterior = LogitNormal(torch.tensor([mu]).double(), torch.tensor([sd**2]).double())
    values, weights = (part.numpy() for part in posterior.nodes())
    found = log_odds(values, weights)
    assert (float(found[0][0]), float(found[1][0])) == pytest.approx((mu, sd), rel=1e-3)


def test_a_beta_posterior_keeps_its_mean() -> None:
    posterior = BetaPosterior(torch.tensor([2.0, 30.0]).double(), torch.tensor([5.0, 3.0]).double())
    values, weights = (part.numpy() for part in posterior.nodes())
    assert masses(*log_odds(values, weights)) @ np.exp(LOG_P) == pytest.approx(
        posterior.mean.numpy(), abs=2e-3
    )

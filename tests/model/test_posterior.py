"""Posteriors against dense integration and SciPy."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from promptgps_service.model.posterior import BetaPosterior, LogitNormal
from promptgps_service.model.quadrature import log_expected_likelihood, log_likelihood
from promptgps_service.model.record import match_moments
from scipy import stats

MIDPOINTS = (np.arange(20_000) + 0.5) / 20_000


def one(value):
    return torch.tensor([value], dtype=torch.float64)


@pytest.mark.parametrize("mu", [-4.0, 0.0, 1.5])
@pytest.mark.parametrize("variance", [0.01, 1.0, 6.0])
def test_logit_normal(mu, variance):
    posterior = LogitNormal(one(mu), one(variance))
    gamma = 1 / (1 + np.exp(-stats.norm.ppf(MIDPOINTS, mu, variance**0.5)))
    assert float(posterior.mean) == pytest.approx(gamma.mean(), abs=0.02)
    assert float(posterior.std) == pytest.approx(gamma.std(), abs=0.02)
    values, weights = posterior.nodes()
    assert float((values * (1 - values)) @ weights) == pytest.approx(
        (gamma * (1 - gamma)).mean(), abs=0.005
    )
    assert float(posterior.quantile(torch.tensor(0.2))) == pytest.approx(
        np.quantile(gamma, 0.2), abs=1e-4
    )


@pytest.mark.parametrize("alpha", [1.0, 1.5, 9.0, 400.0])
@pytest.mark.parametrize("beta", [1.0, 3.0, 40.0, 1000.0])
def test_beta(alpha, beta):
    posterior = BetaPosterior(one(alpha), one(beta))
    truth = stats.beta(alpha, beta)
    gamma = truth.ppf(MIDPOINTS)
    assert float(posterior.mean) == pytest.approx(truth.mean())
    assert float(posterior.std) == pytest.approx(truth.std())
    assert float(posterior.quantile(torch.tensor(0.05))) == pytest.approx(truth.ppf(0.05))
    values, weights = posterior.nodes()
    assert float(values @ weights) == pytest.approx(truth.mean(), abs=1e-5)
    assert float(values.square() @ weights) == pytest.approx(
        truth.var() + truth.mean() ** 2, rel=1e-4
    )
    assert float((1 - values**8 - (1 - values) ** 8) @ weights) == pytest.approx(
        (1 - gamma**8 - (1 - gamma) ** 8).mean(), abs=0.015
    )


@pytest.mark.parametrize("kind", [LogitNormal, BetaPosterior])
def test_uniform_levels_give_draws_of_the_posterior(kind):
    posterior = kind(torch.full((20_000,), 1.2).double(), torch.full((20_000,), 2.0).double())
    draws = posterior.quantile(
        torch.rand(20_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    )
    assert float(draws.mean()) == pytest.approx(float(posterior.mean[0]), abs=0.01)
    assert float(draws.std()) == pytest.approx(float(posterior.std[0]), abs=0.01)


def test_nodes_of_a_whole_pool_are_quick():
    alpha, beta = torch.rand(2, 40_000, dtype=torch.float64) * 30 + 1
    spent = []
    for _ in range(3):
        started = time.process_time()
        BetaPosterior(alpha, beta).nodes()
        spent.append(time.process_time() - started)
    assert min(spent) < 0.1


@given(
    mu=st.floats(-6, 6),
    variance=st.floats(0.02, 25),
    trials=st.sampled_from([0.1, 1.0, 3.0, 8.0, 64.0, 256.0]),
    share=st.floats(0, 1),
)
def test_moments_and_evidence_of_a_visit(mu, variance, trials, share):
    s = one(share * trials)
    n = one(trials)
    mean, var = match_moments(one(mu), one(variance), s, n)
    evidence = log_expected_likelihood(one(mu), one(variance), s, n)
    theta = torch.linspace(-45, 45, 30_001, dtype=torch.float64)
    mass = log_likelihood(theta, s, n) - 0.5 * (theta - mu) ** 2 / variance
    density = mass - 0.5 * np.log(2 * np.pi * variance) + np.log(90 / 30_000)
    weight = torch.softmax(mass, 0)
    true_mean = float(weight @ theta)
    true_variance = float(weight @ (theta - true_mean) ** 2)
    assert float(mean) == pytest.approx(true_mean, abs=0.03 * true_variance**0.5 + 1e-6)
    assert float(var) == pytest.approx(true_variance, rel=0.03)
    assert float(evidence) == pytest.approx(float(density.logsumexp(0)), abs=0.05)

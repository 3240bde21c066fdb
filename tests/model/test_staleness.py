"""Outcomes of older policies: worth less the older they are, and in full when they are fresh."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from promptgps_service.model.predictor import Visits
from promptgps_service.model.record import match_moments
from promptgps_service.model.registry import PREDICTORS, make_predictor
from promptgps_service.model.staleness import temper

CPU = torch.device("cpu")
QUICK = {"width": 8, "iterations": 5}
# The discount of beta is 1 as MoPPS has it for maths: nothing ever ages.
PARAMETERS = {"neural": QUICK, "stack": QUICK, "beta": {"discount": 0.8}}


def number(value):
    return torch.tensor([value], dtype=torch.float64)


@given(st.floats(0, 1), st.floats(1e-3, 4096), st.floats(1e-6, 1 - 1e-6), st.floats(0, 2))
def test_fresh_outcomes_are_taken_as_they_are_to_the_last_bit(share, n, p, walk):
    s = number(share * n)
    n = number(n)
    assert torch.equal(torch.stack(temper(s, n, number(0.0), p, walk)), torch.stack([s, n]))


@given(
    st.floats(0, 1),
    st.floats(0.1, 4096),
    st.floats(0.01, 0.99),
    st.floats(1e-3, 2),
    st.floats(0, 100),
    st.floats(0, 9),
)
def test_the_older_the_less_and_never_more_than_the_walk_lets_through(share, n, p, walk, age, more):
    (s, n_eff), (_, older) = (
        temper(number(share * n), number(n), number(a), p, walk) for a in (age, age + more)
    )
    assert 0 < float(older) <= float(n_eff) <= n
    assert float(s / n_eff) == pytest.approx(share, abs=1e-9)
    if age:
        assert float(n_eff) * p * (1 - p) <= 1 / (age * walk) * (1 + 1e-9)


@pytest.mark.parametrize(("s", "n"), [(3.0, 8.0), (8.0, 8.0), (1.0, 16.0)])
def test_tempering_is_close_to_the_walk_itself(s, n):
    """The exact posterior of theta, whose ancestor theta − ε made the outcome.

    By dense integration.
    """
    mu = 0.3
    V = 1.5
    walked = 0.6
    grid = torch.linspace(-12, 12, 1601, dtype=torch.float64)
    likelihood = (
        s * torch.nn.functional.logsigmoid(grid) + (n - s) * torch.nn.functional.logsigmoid(-grid)
    ).exp()
    kernel = torch.exp(-0.5 * (grid[:, None] - grid) ** 2 / walked)
    weight = torch.exp(-0.5 * (grid - mu) ** 2 / V) * (kernel @ likelihood)
    weight = weight / weight.sum()
    true_mean = float(weight @ grid)
    true_sd = float((weight @ (grid - true_mean) ** 2).sqrt())
    p = torch.sigmoid(number(mu))
    means, variances = match_moments(
        number(mu), number(V), *temper(number(s), number(n), number(1.0), p, walked)
    )
    untempered, _ = match_moments(number(mu), number(V), number(s), number(n))
    assert float(variances.sqrt()) == pytest.approx(true_sd, rel=0.06)
    assert float(means) == pytest.approx(true_mean, abs=0.25)
    assert abs(float(means) - true_mean) < abs(float(untempered) - true_mean)


@pytest.fixture(params=sorted(PREDICTORS))
def name(request):
    return request.param


def taught(name, world):
    pool = world(80, 8)
    predictor = make_predictor(name, pool.features, CPU, **PARAMETERS.get(name, {}))
    for _ in range(5):
        predictor.observe(pool.visit(pool.some(40)))
    return predictor


def solved(age):
    rows = torch.arange(30)
    eight = torch.full((30,), 8.0, dtype=torch.float64)
    return Visits(rows, eight, eight) if age is None else Visits(rows, eight, eight, age)


def test_no_age_and_an_age_of_zero_are_the_same_to_the_last_bit(name, world):
    one, two, three = (taught(name, world) for _ in range(3))
    one.observe(solved(None))
    two.observe(solved(torch.zeros(30, dtype=torch.float64)))
    three.observe(solved(torch.zeros((), dtype=torch.float64)))
    for other in (two, three):
        ours = one.state_dict()
        theirs = other.state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_late_outcomes_move_the_posterior_less(name, world):
    before = taught(name, world).predict().mean[:30].mean()
    moves = []
    for age in (0.0, 4.0, 40.0):
        predictor = taught(name, world)
        predictor.observe(solved(torch.full((30,), age, dtype=torch.float64)))
        moves.append(float(predictor.predict().mean[:30].mean() - before))
    assert moves[0] > moves[1] > moves[2] > 0
    assert moves[0] > moves[2] + 0.01


def test_of_one_batch_only_the_late_outcomes_count_less(world):
    """Two prompts alike in everything, one outcome late."""
    pool = world(40, 0)
    predictor = make_predictor("hierarchical", pool.features, CPU)
    for _ in range(4):
        predictor.observe(pool.visit(torch.arange(20)))
    eight = torch.full((2,), 8.0, dtype=torch.float64)
    predictor.observe(Visits(torch.tensor([30, 31]), eight, eight, torch.tensor([0.0, 30.0])))
    fresh, late = predictor.predict().mean[30:32].tolist()
    never = float(predictor.predict().mean[35])
    assert fresh > late + 0.02
    assert late > never

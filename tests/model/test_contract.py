"""What every predictor promises."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from promptgps_service.model.checkpoint import pack, unpack
from promptgps_service.model.features import Features
from promptgps_service.model.predictor import Visits
from promptgps_service.model.registry import PREDICTORS, make_predictor

CPU = torch.device("cpu")
# What a predictor promises, it promises at any size.
SMALL = {name: {"width": 8, "iterations": 3} for name in ("neural", "stack")}
ROWS_ALIKE = (
    "hierarchical",
    "beta",
    "bots",
    "constant",
)  # predictors that treat rows alike, not at random


@pytest.fixture(params=sorted(PREDICTORS))
def name(request):
    return request.param


def make(name, features):
    return make_predictor(name, features, CPU, **SMALL.get(name, {}))


def numbers(posterior):
    level = torch.full_like(posterior.mean, 0.3)
    return torch.cat(
        [posterior.mean, posterior.std, posterior.nodes()[0].flatten(), posterior.quantile(level)]
    )


def visits(rows, s, n):
    return Visits(
        torch.tensor(rows),
        torch.tensor(s, dtype=torch.float64),
        torch.tensor(n, dtype=torch.float64),
    )


def taught(name, world, steps=6, batch=48):
    predictor = make(name, world.features)
    for _ in range(steps):
        predictor.observe(world.visit(world.some(batch)))
    return predictor


def test_a_posterior_is_a_distribution_of_a_rate(name, world):
    posterior = taught(name, world(200)).predict()
    values, weights = posterior.nodes()
    assert posterior.mean.shape == posterior.std.shape == (200,)
    assert values.shape == (200, len(weights))
    torch.testing.assert_close(float(weights.sum()), 1.0)
    assert ((values >= 0) & (values <= 1)).all()
    assert ((posterior.mean > 0) & (posterior.mean < 1)).all()
    assert ((posterior.std >= 0) & (posterior.std <= 0.5)).all()
    torch.testing.assert_close(values @ weights, posterior.mean, atol=0.02, rtol=0)
    levels = [posterior.quantile(torch.tensor(level)) for level in (0.01, 0.3, 0.7, 0.99)]
    assert all((low <= high).all() for low, high in pairwise(levels))


def test_taking_rows_is_taking_them_from_everything(name, world):
    posterior = taught(name, world(60)).predict()
    rows = torch.tensor([7, 3, 59])
    part = posterior.take(rows)
    # Not to the last bit: vectorised and scalar exponentials differ there.
    torch.testing.assert_close(part.mean, posterior.mean[rows], atol=1e-12, rtol=0)
    torch.testing.assert_close(part.std, posterior.std[rows], atol=1e-12, rtol=0)
    torch.testing.assert_close(part.nodes()[0], posterior.nodes()[0][rows], atol=1e-9, rtol=0)


@pytest.mark.parametrize("dimension", [0, 8])
def test_a_restored_state_predicts_the_same_to_the_last_bit(name, world, dimension):
    pool = world(150, dimension)
    predictor = taught(name, pool)
    state, metadata = unpack(pack(predictor.state_dict(), {"version": "6"}))
    twin = make(name, pool.features)
    twin.observe(visits([3], [1.0], [2.0]))  # whatever it knew before is gone
    twin.load_state_dict(state)
    assert metadata == {"version": "6"}
    assert torch.equal(numbers(twin.predict()), numbers(predictor.predict()))
    more = pool.visit(pool.some(40))
    for one in (predictor, twin):
        one.observe(more)
    assert torch.equal(numbers(twin.predict()), numbers(predictor.predict()))


def test_a_state_of_something_else_is_refused(name, world):
    pool = world(50, 4)
    predictor = taught(name, pool)
    for other in set(PREDICTORS) - {name}:
        with pytest.raises(ValueError, match="state"):
            predictor.load_state_dict(make(other, pool.features).state_dict())
    for prompts, dimension in ((51, 4), (50, 6)):
        with pytest.raises(ValueError, match="another pool"):
            predictor.load_state_dict(make(name, world(prompts, dimension).features).state_dict())


def test_a_refused_state_changes_nothing(name, world):
    predictor = taught(name, world(50, 4))
    before = numbers(predictor.predict())
    with pytest.raises(ValueError, match="another pool"):
        predictor.load_state_dict(make(name, world(51, 4).features).state_dict())
    assert torch.equal(numbers(predictor.predict()), before)


def test_the_same_visits_make_the_same_model(name, world):
    one, two = (numbers(taught(name, world(120)).predict()) for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.parametrize("name", ROWS_ALIKE)
@pytest.mark.parametrize(("dimension", "tolerance"), [(0, 1e-9), (8, 1e-5)])
def test_rows_have_no_meaning(name, world, dimension, tolerance):
    """With features the matrix products are float32, and their sums run in another order."""
    pool = world(130, dimension)
    order = torch.randperm(130, generator=pool.random)
    place = torch.argsort(order)  # row i of the pool is row place[i] of the shuffled one
    shuffled = Features(pool.features.x[order], pool.features.blocks, 130)
    one = make(name, pool.features)
    two = make(name, shuffled)
    for _ in range(8):
        seen = pool.visit(pool.some(50))
        one.observe(seen)
        two.observe(Visits(place[seen.rows], seen.successes, seen.trials))
    torch.testing.assert_close(
        two.predict().mean, one.predict().mean[order], atol=tolerance, rtol=0
    )
    torch.testing.assert_close(two.predict().std, one.predict().std[order], atol=tolerance, rtol=0)


def test_an_empty_step_changes_nothing(name, world):
    predictor = taught(name, world(50))
    before = numbers(predictor.predict())
    predictor.observe(visits([], [], []))
    assert torch.equal(numbers(predictor.predict()), before)


ODD = {
    "one prompt": ([3], [1.0], [2.0]),
    "one trial": (list(range(40)), [0.0, 1.0] * 20, [1.0] * 40),
    "many trials": (list(range(40)), [64.0, 0.0, 31.0, 63.0] * 10, [64.0] * 40),
    "thousands of trials": ([0, 1, 2], [5000.0, 0.0, 2500.0], [5000.0] * 3),
    "mixed trials": ([5, 9, 11, 2], [1.0, 3.0, 0.0, 200.0], [1.0, 8.0, 64.0, 256.0]),
    "fractions": ([5, 9, 11], [0.37, 2.5, 1e-6], [0.5, 2.75, 1e-3]),
    "all solved": (list(range(64)), [8.0] * 64, [8.0] * 64),
    "all failed": (list(range(64)), [0.0] * 64, [8.0] * 64),
}


@pytest.mark.parametrize("odd", sorted(ODD))
@pytest.mark.parametrize("dimension", [0, 8])
def test_odd_batches_leave_finite_numbers(name, world, odd, dimension):
    pool = world(64, dimension)
    for before in (0, 3):
        predictor = taught(name, pool, steps=before)
        for _ in range(12):
            predictor.observe(visits(*ODD[odd]))
        posterior = predictor.predict()
        assert numbers(posterior).isfinite().all()
        assert ((posterior.mean > 0) & (posterior.mean < 1)).all()
        predictor.observe(pool.visit(pool.some(20)))
        assert numbers(predictor.predict()).isfinite().all()


def test_a_pool_of_one(name, world):
    predictor = make(name, world(1, 0).features)
    for _ in range(5):
        predictor.observe(visits([0], [8.0], [8.0]))
    assert 0.6 < float(predictor.predict().mean) < 1.0


def test_success_raises_and_failure_lowers(name, world):
    pool = world(40)
    won = taught(name, world(40))
    lost = taught(name, world(40))
    won.observe(visits([4], [8.0], [8.0]))
    lost.observe(visits([4], [0.0], [8.0]))
    assert won.predict().mean[4] > lost.predict().mean[4]
    assert make(name, pool.features).predict().mean[4] == pytest.approx(0.5, abs=1e-6)


def test_a_prediction_stays_as_it_was_given(name, world):
    pool = world(60)
    predictor = taught(name, pool)
    posterior = predictor.predict()
    before = numbers(posterior).clone()
    predictor.observe(pool.visit(pool.some(60)))
    assert torch.equal(numbers(posterior), before)


def test_a_visit_outside_the_pool_is_refused(name, world):
    for row in (-1, 50):
        with pytest.raises(ValueError, match="outside the pool"):
            make(name, world(50).features).observe(visits([row], [1.0], [2.0]))


def test_a_longer_pool_keeps_what_is_known(name, world):
    pool = world(100)
    x = pool.features.x
    blocks = pool.features.blocks
    predictor = make(name, Features(x[:80], blocks, 80))
    for _ in range(5):
        predictor.observe(pool.visit(torch.randperm(80, generator=pool.random)[:40]))
    before = numbers(predictor.predict())
    new = predictor.predict_new(x[80:])
    predictor.grow(Features(x, blocks, 80))
    after = predictor.predict()
    torch.testing.assert_close(numbers(after.take(torch.arange(80))), before, atol=1e-6, rtol=0)
    torch.testing.assert_close(after.mean[80:].double(), new.mean.double(), atol=1e-6, rtol=0)
    predictor.observe(pool.visit(torch.arange(70, 100)))
    assert numbers(predictor.predict()).isfinite().all()
    with pytest.raises(ValueError, match="shrink"):
        predictor.grow(Features(x[:80], blocks, 80))


def test_nobody_knows_an_unknown_name(world):
    with pytest.raises(ValueError, match="no predictor 'oracle'"):
        make_predictor("oracle", world(10).features, CPU)
    with pytest.raises(ValueError, match="beta"):
        make_predictor("beta", world(10).features, CPU, memory=0.5)

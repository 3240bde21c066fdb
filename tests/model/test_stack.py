"""The stack: its pool by hand, its weights against SciPy's.

And that pooling costs next to nothing and may gain.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from promptgps_service.model.posterior import BetaPosterior, LogitNormal
from promptgps_service.model.predictor import Visits
from promptgps_service.model.quality import log_loss
from promptgps_service.model.registry import make_predictor
from promptgps_service.model.stack import MEMORY, RIDGE, fit_weights, pool
from scipy import optimize

CPU = torch.device("cpu")
QUICK = {"width": 16, "iterations": 10}


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def random_memory(members, visits, seed, best=0):
    """Visits of prompts whose rate member ``best`` knows; the others say something else."""
    random = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(visits, members, generator=random, dtype=torch.float64)
    rate = (
        torch.binomial(
            torch.full((visits,), 8.0, dtype=torch.float64), logits[:, best].sigmoid(), random
        )
        / 8
    )
    counts = torch.rand(visits, generator=random, dtype=torch.float64)
    return torch.cat([logits, rate[:, None], counts[:, None]], dim=1)


def test_the_pool_of_two_by_hand():
    one = LogitNormal(vector(1.0, -2.0), vector(0.5, 2.0))
    two = BetaPosterior(vector(3.0, 8.0), vector(2.0, 1.0))
    weights = vector(0.75, 0.5)
    pooled = pool([one, two], weights)
    logit = 0.75 * torch.logit(one.mean) + 0.5 * torch.logit(two.mean)
    torch.testing.assert_close(pooled.mean, torch.sigmoid(logit))
    torch.testing.assert_close(
        pooled.variance, 0.6 * one.variance + 0.4 * two.logit_normal().variance
    )


def test_without_any_weight_nothing_is_known():
    pooled = pool(
        [LogitNormal(vector(1.0), vector(0.5)), LogitNormal(vector(-3.0), vector(1.5))],
        vector(0.0, 0.0),
    )
    assert (float(pooled.mean), float(pooled.variance)) == (0.5, 1.0)


@pytest.mark.parametrize("members", [2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_weights_are_those_of_the_smallest_loss(members, seed):
    memory = random_memory(members, 600, seed)
    logits = memory[:, :-2].numpy()
    rate = memory[:, -2].numpy()
    counts = memory[:, -1].numpy()

    def loss(w):
        theta = logits @ w
        return (
            counts @ (np.logaddexp(0, theta) - rate * theta)
            + RIDGE / 2 * ((w - 1 / members) ** 2).sum()
        )

    best = optimize.minimize(
        loss, np.full(members, 1 / members), bounds=[(0, None)] * members, tol=1e-12
    )
    found = torch.full((members,), 1 / members, dtype=torch.float64)
    for _ in range(3):  # as over three steps
        found = fit_weights(found, memory)
    assert loss(found.numpy()) <= best.fun + 1e-6
    np.testing.assert_allclose(found.numpy(), best.x, atol=1e-3)


def test_a_member_that_knows_takes_all_and_one_that_is_wrong_next_to_nothing():
    memory = random_memory(2, 4096, 7, best=1)
    memory[:, 0] = -memory[:, 1]  # says the opposite
    weights = fit_weights(vector(0.5, 0.5), memory)
    assert 0.0 <= float(weights[0]) < 0.1
    assert float(weights[1]) == pytest.approx(1.0, abs=0.1)


def test_without_visits_weights_are_equal():
    weights = fit_weights(vector(1.0, 0.0, 0.4), torch.zeros(0, 5, dtype=torch.float64))
    torch.testing.assert_close(weights, vector(1 / 3, 1 / 3, 1 / 3))


def losses(world, seed, members):
    """Mean prequential log-loss of each member alone and of the stack, steps after the third."""
    pool = world(600, 8, seed=seed, drift=0.03)
    predictors = [make_predictor(name, pool.features, CPU) for name in members.split(",")]
    predictors.append(make_predictor("stack", pool.features, CPU, members=members))
    found = []
    for _ in range(25):
        visits = pool.visit(pool.some(48))
        means = [predictor.predict().mean[visits.rows] for predictor in predictors]
        found.append([log_loss(mean, visits.successes, visits.trials) for mean in means])
        for predictor in predictors:
            predictor.observe(visits)
    return torch.tensor(found[3:]).mean(0).tolist()


@pytest.mark.parametrize("members", ["hierarchical,beta", "constant,hierarchical", "beta,ridge"])
def test_it_is_about_as_good_as_its_better_member_or_better(world, members):
    runs = [losses(world, seed, members) for seed in (0, 1, 2)]
    one, two, stack = (sum(run[place] for run in runs) / 3 for place in range(3))
    assert stack < min(one, two) + 0.01
    assert stack < max(one, two) - 0.01


def test_members_that_are_right_for_different_reasons_do_better_together(world):
    """A record per prompt without text, and text without a record."""
    for seed in (0, 1, 2):
        beta, ridge, stack = losses(world, seed, "beta,ridge")
        assert stack < min(beta, ridge) - 0.005


@pytest.mark.parametrize("jump", [4.0, -4.0])
def test_a_jump_of_the_level_is_followed(world, jump):
    pool = world(1000, 8, level=-jump / 2)
    stack = make_predictor("stack", pool.features, CPU, **QUICK)
    for step in range(20):
        if step == 10:
            pool.theta += jump
        stack.observe(pool.visit(pool.some(64)))
    assert float(stack.predict().mean.mean()) == pytest.approx(float(pool.gamma.mean()), abs=0.08)


def test_its_memory_is_bounded_also_in_one_step(world):
    pool = world(3 * MEMORY, 0)
    stack = make_predictor("stack", pool.features, CPU, members="beta,constant")
    stack.observe(pool.visit(torch.arange(3 * MEMORY)))
    assert MEMORY / 2 < len(stack.memory) <= MEMORY
    for _ in range(3):
        stack.observe(pool.visit(pool.some(1000)))
    assert len(stack.memory) <= MEMORY


def test_it_tells_its_weights(world):
    stack = make_predictor("stack", world(20).features, CPU, members="beta,constant")
    assert stack.vitals() == {"weight.beta": 0.5, "weight.constant": 0.5}


def test_a_state_that_one_member_refuses_changes_no_member(world):
    pool = world(40, 4)

    def taught(width):
        stack = make_predictor("stack", pool.features, CPU, width=width, iterations=2)
        stack.observe(
            Visits(torch.arange(10), torch.full((10,), float(width)), torch.full((10,), 16.0))
        )
        return stack

    one = taught(8)
    other = taught(4)
    before = one.predict().mean
    with pytest.raises(ValueError, match="size of nets"):
        one.load_state_dict(other.state_dict())
    assert torch.equal(one.predict().mean, before)
    assert not math.isclose(float(before.mean()), float(other.predict().mean.mean()), abs_tol=1e-3)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"members": "hierarchical,oracle"}, "no predictor 'oracle'"),
        ({"members": "stack,beta"}, "no predictor 'stack'"),
        ({"members": "beta"}, "at least two different"),
        ({"members": "beta,beta"}, "at least two different"),
        ({"members": "beta,constant", "width": 8}, "neural, which is no member"),
        ({"wide": 8}, "unexpected keyword"),
    ],
)
def test_parameters_that_make_no_stack_are_refused(world, wrong, complaint):
    with pytest.raises(ValueError, match=complaint):
        make_predictor("stack", world(5).features, CPU, **wrong)

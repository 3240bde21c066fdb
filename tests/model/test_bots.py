"""BOTS by hand, and what anchors are good for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from promptgps_service.model.beta import DiscountedBeta
from promptgps_service.model.bots import Bots
from promptgps_service.model.checkpoint import pack, unpack
from promptgps_service.model.features import Features
from promptgps_service.model.predictor import Visits
from promptgps_service.model.quality import log_loss, spearman

CPU = torch.device("cpu")


def column(*values):
    return torch.tensor(values, dtype=torch.float64)


def anchored(*pairs):
    return Features(torch.zeros(len(pairs), 0), (), len(pairs), column(*pairs))


def with_anchors(pool, shift=0.0, trials=16.0, share=1.0):
    """The pool with pass rates of a policy whose log-odds are lower by ``shift``.

    A share of the rows has some.
    """
    n = torch.full((len(pool.theta),), trials, dtype=torch.float64)
    n[int(share * len(n)) :] = 0.0
    s = torch.binomial(n, torch.sigmoid(pool.theta - shift), generator=pool.random)
    return replace(pool.features, offline=torch.stack([s, n], dim=1))


def test_one_update_by_hand():
    bots = Bots(anchored((4, 8), (8, 8), (0, 0), (0, 0)), device=CPU, discount=0.5, weight=0.25)
    bots.counts = column((3, 5), (3, 5), (3, 5), (3, 5))
    bots.observe(Visits(torch.tensor([0, 2]), column(6, 1), column(8, 4)))
    a = bots.shift.level.a
    implied = float(torch.sigmoid(torch.tensor(8.5 / 0.5).log() + a))
    expected = column(
        (3 / 2 + 1 / 2 + 6, 5 / 2 + 1 / 2 + 2),  # visited: its own six of eight
        (
            3 / 2 + 1 / 2 + 1.5 * implied,
            5 / 2 + 1 / 2 + 1.5 * (1 - implied),
        ),  # ρ = 1/4 of the step's mean n = 6
        (3 / 2 + 1 / 2 + 1, 5 / 2 + 1 / 2 + 3),  # visited, without an anchor
        (2, 3),  # neither: it only fades
    )
    torch.testing.assert_close(bots.counts, expected)
    assert a > 0  # six of eight, where the reference had four


def test_a_visit_that_has_no_anchor_says_nothing_of_the_shift():
    bots = Bots(anchored((4, 8), (0, 0)), device=CPU)
    bots.observe(Visits(torch.tensor([1]), column(8), column(8)))
    assert bots.shift.level.a == 0.0
    bots.observe(Visits(torch.tensor([0]), column(8), column(8)))
    assert bots.shift.level.a > 0.0


def test_without_anchors_and_forgetting_it_is_a_plain_beta_record(world):
    pool = world(60, 0)
    bots = Bots(pool.features, device=CPU, discount=1.0)
    beta = DiscountedBeta(pool.features, device=CPU)
    for _ in range(5):
        visits = pool.visit(pool.some(20))
        bots.observe(visits)
        beta.observe(visits)
    torch.testing.assert_close(bots.predict().mean, beta.predict().mean)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_policy_is_placed_relative_to_its_reference_and_prompts_never_tried_are_known(
    world, seed
):
    pool = world(600, 0, seed=seed)
    features = with_anchors(pool, shift=1.5)
    bots = Bots(features, device=CPU)
    beta = DiscountedBeta(features, device=CPU)
    for _ in range(15):
        visits = pool.visit(pool.some(32))
        bots.observe(visits)
        beta.observe(visits)
    assert bots.shift.level.a == pytest.approx(1.5, abs=0.3)
    new = pool.unseen
    told = bots.predict().mean[new]
    gamma = pool.gamma[new]
    ones = torch.ones_like(gamma)
    assert spearman(told, gamma) > 0.75
    assert log_loss(told, gamma, ones) < log_loss(beta.predict().mean[new], gamma, ones) - 0.1


def test_a_policy_that_jumps_is_followed_where_it_was_never_tried(world):
    pool = world(600, 0, level=-2.0)
    bots = Bots(with_anchors(pool), device=CPU)

    def step():
        bots.observe(pool.visit(torch.randperm(100, generator=pool.random)[:32]))
        return float(bots.predict().mean[100:].mean())

    before = [step() for _ in range(10)][-1]
    at = bots.shift.level.a
    pool.theta += 4.0
    after = [step() for _ in range(10)]
    assert bots.shift.level.a - at == pytest.approx(4.0, abs=0.8)
    assert after == sorted(after)  # pseudo-counts follow as old ones fade
    assert after[-1] > before + 0.3


def test_the_weight_says_how_much_anchors_count(world):
    def spread(weight):
        pool = world(200, 0)
        bots = Bots(with_anchors(pool), device=CPU, weight=weight)
        for _ in range(5):
            bots.observe(pool.visit(torch.arange(20)))
        return float(bots.predict().std[20:].mean())

    assert spread(0.0) == pytest.approx((1 / 12) ** 0.5)  # Beta(1, 1) still
    assert spread(0.0) > spread(0.1) > spread(0.5)


def test_it_goes_on_from_its_state_as_if_it_had_not_stopped(world):
    pool = world(100, 0)
    features = with_anchors(pool, share=0.5)
    bots, twin = (Bots(features, device=CPU) for _ in range(2))
    for _ in range(4):
        bots.observe(pool.visit(pool.some(20)))
    twin.load_state_dict(unpack(pack(bots.state_dict(), {}))[0])
    visits = pool.visit(pool.some(20))
    for one in (bots, twin):
        one.observe(visits)
    assert torch.equal(bots.counts, twin.counts)


def test_anchors_of_added_prompts_speak_from_the_next_step_on(world):
    pool = world(100, 0)
    features = with_anchors(pool)
    bots = Bots(features.head(60), device=CPU)
    bots.observe(pool.visit(torch.arange(40)))
    bots.grow(features)
    assert bots.predict().mean[60:].tolist() == pytest.approx([0.5] * 40)
    bots.observe(pool.visit(torch.arange(40)))
    assert spearman(bots.predict().mean[60:], pool.gamma[60:]) > 0.8


@pytest.mark.parametrize("wrong", [{"discount": 1.5}, {"weight": -0.1}])
def test_parameters_out_of_range_are_refused(world, wrong):
    with pytest.raises(ValueError, match="must lie in"):
        Bots(world(5).features, device=CPU, **wrong)

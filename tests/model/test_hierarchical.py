"""The hierarchical filter on pools drawn from its own model, where the truth is known."""

from __future__ import annotations

import math

import pytest
import torch
from promptgps_service.model.features import Features, fit_frame
from promptgps_service.model.hierarchical import Hierarchical
from promptgps_service.model.predictor import Visits
from promptgps_service.model.quality import spearman
from promptgps_service.model.text import MOST_ROWS, rows_to_fit

CPU = torch.device("cpu")


def taught(pool, steps, batch, trials=8.0):
    predictor = Hierarchical(pool.features, device=CPU)
    for _ in range(steps):
        predictor.observe(pool.visit(pool.some(batch), trials))
    return predictor


def optimistic_information(posterior):
    gamma, weights = posterior.nodes()
    r = gamma * (1 - gamma)
    mean = r @ weights
    return mean + 0.5 * (r.square() @ weights - mean.square()).clamp_min(0).sqrt()


def test_it_finds_the_truth(world):
    pool = world(1500, 8, level=-1.0, text=1.0, own=2.0)
    predictor = taught(pool, 25, 64)
    posterior = predictor.predict()
    unseen = pool.unseen
    assert 200 < int(unseen.sum()) < 900
    assert predictor.level.a == pytest.approx(-1.0, abs=0.3)
    assert predictor.spread.value == pytest.approx(2.0, rel=0.4)
    assert spearman(posterior.mean[~unseen], pool.gamma[~unseen]) > 0.9
    # Text carries a third of the variance: no predictor of unseen prompts can correlate above 0.58.
    assert spearman(posterior.mean[unseen], pool.gamma[unseen]) > 0.45


def test_without_text_it_still_knows_what_it_has_seen(world):
    pool = world(600, 0)
    posterior = taught(pool, 25, 64).predict()
    assert spearman(posterior.mean[~pool.unseen], pool.gamma[~pool.unseen]) > 0.85
    assert posterior.mean[pool.unseen].unique().numel() == 1


def test_its_intervals_cover(world):
    known = []
    new = []
    for seed in range(6):
        pool = world(700, 8, seed=seed, drift=0.02)
        posterior = taught(pool, 25, 40).predict()
        low = posterior.quantile(torch.tensor(0.05))
        high = posterior.quantile(torch.tensor(0.95))
        inside = ((low <= pool.gamma) & (pool.gamma <= high)).double()
        known.append(float(inside[~pool.unseen].mean()))
        new.append(float(inside[pool.unseen].mean()))
    assert sum(known) / 6 == pytest.approx(0.9, abs=0.04)
    assert sum(new) / 6 == pytest.approx(0.9, abs=0.04)


def test_many_trials_leave_as_much_doubt_as_they_should(world):
    """The posterior of one prompt after s of n.

    A normal quadrature around the prior would be sure of a node.
    """
    pool = world(400, 0, own=3.0)
    predictor = taught(pool, 10, 40, trials=64.0)
    rows = torch.nonzero((pool.gamma > 0.2) & (pool.gamma < 0.8)).squeeze(1)[:20]
    predictor.observe(Visits(rows, torch.full((20,), 128.0), torch.full((20,), 256.0)))
    posterior = predictor.predict().take(rows)
    binomial = math.sqrt(0.25 / 256)
    assert ((posterior.std > 0.6 * binomial) & (posterior.std < 4 * binomial)).all()
    torch.testing.assert_close(
        posterior.mean, torch.full_like(posterior.mean, 0.5), atol=0.1, rtol=0
    )


def test_a_prompt_never_tried_is_predicted_by_its_features_alone(world):
    pool = world(300, 8)
    predictor = taught(pool, 4, 30)
    rows = torch.nonzero(pool.unseen).squeeze(1)
    new = predictor.predict_new(pool.features.x[rows])
    row = predictor.predict().take(rows)
    torch.testing.assert_close(new.mean, row.mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(new.std, row.std, atol=1e-6, rtol=0)


@pytest.mark.parametrize("jump", [4.0, -4.0])
def test_a_jump_of_the_level_is_followed(world, jump):
    pool = world(1000, 8, level=-jump / 2)
    predictor = taught(pool, 15, 64)
    pool.theta += jump
    for _ in range(10):
        predictor.observe(pool.visit(pool.some(64)))
    assert float(predictor.predict().mean.mean()) == pytest.approx(
        float(pool.gamma.mean()), abs=0.06
    )


def test_a_drift_of_the_level_reaches_prompts_never_tried(world):
    pool = world(1000, 8, level=-2.0, drift=0.03)
    predictor = Hierarchical(pool.features, device=CPU)
    for _ in range(30):
        predictor.observe(pool.visit(torch.randperm(500, generator=pool.random)[:64]))
    assert float(predictor.predict().mean[500:].mean()) == pytest.approx(
        float(pool.gamma[500:].mean()), abs=0.05
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_training_its_own_choice_does_not_lead_it_astray(world, seed):
    """Visits lift the visited prompts only.

    A filter that took this for a common rise would see nothing new to try.
    """
    pool = world(800, 8, seed=seed, own=4.0, lift=0.25, drift=0.01)
    predictor = Hierarchical(pool.features, device=CPU)
    chosen = []
    uniform = []
    for step in range(60):
        rows = pool.some(800)
        if step:
            utility = optimistic_information(predictor.predict())[rows]
            rows = rows[torch.argsort(utility.mul(1e6).round(), descending=True, stable=True)]
        mixed = 1 - pool.gamma**8 - (1 - pool.gamma) ** 8
        chosen.append(float(mixed[rows[:32]].mean()))
        uniform.append(float(mixed.mean()))
        predictor.observe(pool.visit(rows[:32]))
    second_half = sum(chosen[30:]) / 30
    assert second_half > 0.75
    assert second_half > sum(uniform[30:]) / 30 + 0.15
    assert len(pool.seen) > 300
    assert predictor.level.gain == pytest.approx(0.25, abs=0.12)


def test_it_learns_that_visits_teach_nothing(world):
    pool = world(300, 8, lift=0.0)
    assert taught(pool, 40, 64).level.gain == pytest.approx(0.0, abs=0.08)


def test_in_another_frame_it_says_nearly_the_same(world):
    random = torch.Generator().manual_seed(5)
    raw = torch.randn(600, 6, generator=random)
    old = fit_frame({"surface": raw[:400]}).features({"surface": raw})
    pool = world(600, 0)
    pool.theta += raw.double() @ torch.tensor([1.0, -1.0, 0.5, 0.0, 0.0, 0.0], dtype=torch.float64)
    predictor = Hierarchical(Features(old.x[:400], old.blocks, 400), device=CPU)
    for _ in range(15):
        predictor.observe(pool.visit(torch.randperm(400, generator=random)[:48]))
    before = predictor.predict().mean
    predictor.grow(fit_frame({"surface": raw * 3.0 + 1.0}).features({"surface": raw * 3.0 + 1.0}))
    after = predictor.predict().mean
    torch.testing.assert_close(after[:400], before, atol=0.05, rtol=0)
    assert spearman(after[400:], pool.gamma[400:]) > 0.4


def test_features_may_come_later(world):
    pool = world(300, 8)
    predictor = Hierarchical(Features(torch.zeros(200, 0), (), 200), device=CPU)
    for _ in range(8):
        predictor.observe(pool.visit(torch.randperm(200, generator=pool.random)[:40]))
    predictor.grow(pool.features)
    for _ in range(3):
        predictor.observe(pool.visit(torch.randperm(200, generator=pool.random)[:40]))
    assert spearman(predictor.predict().mean[200:], pool.gamma[200:]) > 0.3


def test_the_text_is_fitted_to_the_newest_rows_and_to_a_steady_share_of_the_old():
    visited = torch.arange(20_000) * 3
    seen = torch.arange(20_000) // 256
    rows = rows_to_fit(visited, seen)
    assert len(rows) == len(rows.unique()) == MOST_ROWS
    newest = visited[seen >= int(seen[-MOST_ROWS // 2]) + 1]
    assert torch.isin(newest, rows).all()
    later = rows_to_fit(
        torch.cat([visited, torch.arange(256) + 60_000]), torch.cat([seen, torch.full((256,), 99)])
    )
    old = rows[rows < 30_000]
    assert torch.isin(old, later).double().mean() > 0.95
    assert torch.equal(rows_to_fit(visited[:100], seen[:100]), visited[:100])

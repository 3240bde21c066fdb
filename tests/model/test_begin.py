"""A run that starts from another run's model knows what is shared, and believes it with doubt."""

from __future__ import annotations

import pytest
import torch
from promptgps_service.model.features import Features
from promptgps_service.model.panel import Panel
from promptgps_service.model.predictor import Continuing, Visits
from promptgps_service.model.quality import spearman
from promptgps_service.model.registry import PREDICTORS, make_predictor

CPU = torch.device("cpu")
CONTINUING = ("hierarchical", "neural", "stack", "beta")
BY_TEXT = ("hierarchical", "neural", "stack")


def make(name, features):
    return make_predictor(name, features, CPU)


def split(world):
    """Two pools of 150 in one frame, and a policy that text tells much about."""
    pool = world(300, text=4.0, own=0.5)
    x = pool.features.x
    halves = [Features(part, pool.features.blocks, 300) for part in (x[:150], x[150:])]
    return pool, *halves


def teach(predictor, pool, first, steps=8, batch=48):
    for _ in range(steps):
        rows = torch.randperm(150, generator=pool.random)[:batch]
        visits = pool.visit(rows + first)
        predictor.observe(Visits(rows, visits.successes, visits.trials))
    return predictor


def test_all_that_can_continue_are_here():
    features = Features(torch.zeros(1, 0), (), 1)
    assert {name for name in PREDICTORS if isinstance(make(name, features), Continuing)} == set(
        CONTINUING
    )


@pytest.mark.parametrize("name", BY_TEXT)
def test_another_pool_is_told_apart_before_any_outcome(world, name):
    pool, theirs, ours = split(world)
    source = teach(make(name, theirs), pool, 0)
    started = make(name, ours)
    started.begin(source.state_dict(), torch.full((150,), -1))
    truth = pool.gamma[150:]
    assert spearman(make(name, ours).predict().mean, truth) is None
    assert spearman(started.predict().mean, truth) > 0.5


@pytest.mark.parametrize("name", CONTINUING)
def test_the_same_prompts_are_known_with_more_doubt(world, name):
    pool, theirs, _ = split(world)
    source = teach(make(name, theirs), pool, 0, steps=12)
    turned = Features(theirs.x.flip(0), theirs.blocks, theirs.frame_rows)
    started = make(name, turned)
    started.begin(source.state_dict(), torch.arange(149, -1, -1))
    known = source.predict()
    now = started.predict()
    assert spearman(now.mean.flip(0), known.mean) > 0.9
    assert float(now.std.mean()) > float(known.std.mean())


@pytest.mark.parametrize("name", CONTINUING)
def test_what_was_started_from_another_run_is_restored_to_the_last_bit(world, name):
    pool, theirs, ours = split(world)
    source = teach(make(name, theirs), pool, 0)
    started = make(name, ours)
    started.begin(source.state_dict(), torch.arange(150))
    teach(started, pool, 150, steps=2)
    restored = make(name, ours)
    restored.load_state_dict(started.state_dict())
    for one in (started, restored):
        one.observe(
            Visits(torch.arange(5), torch.full((5,), 3.0).double(), torch.full((5,), 8.0).double())
        )
    assert torch.equal(started.predict().mean, restored.predict().mean)


def test_text_that_means_something_else_here_is_learned_anew(world):
    pool, theirs, ours = split(world)
    source = teach(make("hierarchical", theirs), pool, 0)
    pool.theta[150:] = -pool.theta[150:]  # what was easy is hard
    started = make("hierarchical", ours)
    started.begin(source.state_dict(), torch.full((150,), -1))
    assert spearman(started.predict().mean, pool.gamma[150:]) < -0.3
    teach(started, pool, 150, steps=10, batch=24)
    unseen = torch.arange(150)[[row + 150 not in pool.seen for row in range(150)]]
    assert spearman(started.predict().mean[unseen], pool.gamma[150:][unseen]) > 0.2


def test_a_panel_starts_those_that_can(world):
    pool, theirs, ours = split(world)
    names = ("hierarchical", "ridge", "constant")
    source = teach(Panel([make(name, theirs) for name in names]), pool, 0)
    started = Panel([make(name, ours) for name in names])
    started.begin(source.state_dict(), torch.full((150,), -1))
    assert spearman(started.predict().mean, pool.gamma[150:]) > 0.5
    assert float(started.posterior("ridge").mean.std()) == pytest.approx(0.0, abs=1e-9)
    assert started.steps == 0


@pytest.mark.parametrize("name", ["hierarchical", "neural"])
def test_a_state_with_other_features_is_refused(world, name):
    other = teach(make(name, split(world)[1]), split(world)[0], 0)
    bare = make(name, Features(torch.zeros(150, 0), (), 150))
    with pytest.raises(ValueError, match="not one of"):
        bare.begin(other.state_dict(), torch.arange(150))

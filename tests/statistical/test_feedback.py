"""Training changes what it visits: a simulated learner.

In it a mixed group raises its own prompt's log-odds.

Replay on a record cannot show this. A model that took the improvement of trained prompts for a rise
of the common level would see everything unseen as solved, and the selector would stay where it is.
"""

from __future__ import annotations

from statistics import mean

import pytest
import torch
from promptgps_service.model.features import Features, fit_frame

from benchmarks.arms import selection_of
from benchmarks.replay.simulated_loop import SimulatedLoop, simulated_loop
from benchmarks.replay.simulation import make_learner

PROMPTS = 2000
BATCH = 64
STEPS = 60
SEEDS = (0, 1, 2)
FREE = "+cooldown=0+candidate_factor=null+uniform_share=0.0"
# U-shaped, as recorded runs are: a third never solved, a third always, the rest between.
LOG_ODDS = torch.cat(
    [torch.full((300,), -5.0), torch.linspace(-3, 3, 400), torch.full((300,), 5.0)]
).double()


@pytest.fixture(scope="module")
def features() -> Features:
    random = torch.Generator().manual_seed(11)
    raw = {
        name: torch.randn(PROMPTS, width, generator=random)
        for name, width in (("embedding", 24), ("surface", 6))
    }
    return fit_frame(raw).features(raw)


@pytest.fixture(autouse=True)
def _recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.replay.simulation.recorded_log_odds", lambda: LOG_ODDS)


def loops(features: Features, arm: str, feedback: float) -> list[SimulatedLoop]:
    return [
        simulated_loop(
            features, selection_of(arm), batch=BATCH, steps=STEPS, feedback=feedback, seed=seed
        )
        for seed in SEEDS
    ]


@pytest.mark.parametrize("feedback", [0.0, 0.03, 0.25])
def test_the_default_beats_mopps_and_uniform_at_every_feedback(
    features: Features, feedback: float
) -> None:
    """Margins of 0.1 against seed standard deviations of about 0.01: beyond three seeds' noise."""
    ours = loops(features, "promptgps" + FREE, feedback)
    mopps = loops(features, "mopps" + FREE, feedback)
    uniform = loops(features, "uniform", feedback)
    assert mean(loop.mixed for loop in ours) > mean(loop.mixed for loop in mopps) + 0.1
    assert mean(loop.mixed for loop in ours) > mean(loop.mixed for loop in uniform) + 0.2


def test_the_default_does_not_collapse_where_visits_raise_their_prompts(features: Features) -> None:
    for loop in loops(features, "promptgps" + FREE, 0.25):
        assert loop.second_half >= 0.6
        assert loop.second_half > loop.first_tenth
        assert loop.distinct >= 300


def test_visits_raise_only_their_own_prompts(features: Features) -> None:
    learner = make_learner(features, feedback=0.25, drift=0.0, noise=0.0, seed=5)
    before = learner.theta.clone()
    rows = torch.tensor([3, 4, 5])
    learner.step(rows, torch.tensor([0.0, 4.0, 8.0]), 8)
    moved = learner.theta - before
    assert moved[4] == pytest.approx(0.25)
    assert float(moved.abs().sum()) == pytest.approx(0.25)

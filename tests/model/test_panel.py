"""The better predictor is served, a failing one is put back, and the main one returns when it deserves it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pytest
import torch
from promptgps_service.model.constant import Constant
from promptgps_service.model.features import Block, Features
from promptgps_service.model.panel import PATIENCE, Panel
from promptgps_service.model.posterior import LogitNormal
from promptgps_service.model.predictor import Visits
from promptgps_service.model.registry import make_predictor
from torch import Tensor

CPU = torch.device("cpu")
ROWS = 60


class Stubborn:
    """Says the same log-odds of every prompt for ever; may be told to fail."""

    name: ClassVar[str] = "stubborn"

    def __init__(self, log_odds: float) -> None:
        self.log_odds = torch.tensor(log_odds, dtype=torch.float64)
        self.fault: str | None = None

    def observe(self, visits: Visits) -> None:
        if self.fault == "raises":
            raise ValueError("diverged")
        if self.fault == "nan":
            self.log_odds = self.log_odds * float("nan")

    def predict(self) -> LogitNormal:
        return LogitNormal(self.log_odds.expand(ROWS), torch.full((ROWS,), 1e-6, dtype=torch.float64))

    def predict_new(self, features: Tensor) -> LogitNormal:
        return self.predict().take(torch.zeros(len(features), dtype=torch.long))

    def grow(self, features: Features) -> None:
        """Knows no rows."""

    def state_dict(self) -> dict[str, Tensor]:
        return {"log_odds": self.log_odds}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.log_odds = state["log_odds"]


@pytest.fixture
def features() -> Features:
    x = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(0)) / 2
    return Features(x, (Block("embedding", 0, 4),), ROWS)


def visits(rate: float, step: int) -> Visits:
    random = torch.Generator().manual_seed(step)
    rows = torch.randperm(ROWS, generator=random)[:20]
    trials = torch.full((20,), 8.0, dtype=torch.float64)
    return Visits(rows, torch.binomial(trials, torch.full_like(trials, rate), generator=random), trials)


def test_a_main_predictor_that_stays_behind_is_replaced_and_comes_back(features: Features) -> None:
    main = Stubborn(3.0)
    panel = Panel([main, Constant(features, device=CPU)])
    served = [panel.observe(visits(0.3, step)).served for step in range(PATIENCE + 5)]
    assert set(served[: PATIENCE - 1]) == {"stubborn"}
    assert served[-1] == "constant"
    torch.testing.assert_close(panel.predict().mean, panel.members["constant"].predict().mean)
    main.log_odds = torch.logit(torch.tensor(0.3, dtype=torch.float64))
    served = [panel.observe(visits(0.3, 100 + step)).served for step in range(60)]
    assert served[-1] == "stubborn"


@pytest.mark.parametrize("fault", ["raises", "nan"])
def test_a_fit_that_breaks_off_leaves_its_last_good_state(features: Features, fault: str) -> None:
    main = Stubborn(-0.8)
    panel = Panel([main, Constant(features, device=CPU)])
    panel.observe(visits(0.3, 0))
    main.fault = fault
    report = panel.observe(visits(0.3, 1))
    assert report.served == "constant"
    assert "stubborn" in report.failed
    assert torch.isfinite(panel.members["stubborn"].predict().mean).all()
    assert torch.isfinite(panel.predict().mean).all()
    main.fault = None
    report = panel.observe(visits(0.3, 2))
    assert report.failed == {}
    assert report.served == "stubborn"


def test_everybody_is_scored_before_anybody_learns(features: Features) -> None:
    panel = Panel([make_predictor(name, features, CPU) for name in ("hierarchical", "beta", "ridge", "constant")])
    report = panel.observe(visits(0.9, 0))
    assert set(report.scores) == {"hierarchical", "beta", "ridge", "constant"}
    for scores in report.scores.values():
        assert scores.log_loss > 0.6  # nobody could know yet that nine in ten succeed


def test_the_panel_is_restored_with_its_standing(features: Features) -> None:
    names = ("hierarchical", "beta", "ridge", "constant")
    panel = Panel([make_predictor(name, features, CPU) for name in names])
    for step in range(12):
        panel.observe(visits(0.4, step))
    again = Panel([make_predictor(name, features, CPU) for name in names])
    again.load_state_dict(panel.state_dict())
    assert again.served == panel.served
    assert {name: again.loss(name) for name in names} == {name: panel.loss(name) for name in names}
    torch.testing.assert_close(again.predict().mean, panel.predict().mean, atol=0, rtol=0)
    after = visits(0.4, 99)
    assert panel.observe(after).served == again.observe(after).served
    torch.testing.assert_close(again.predict().mean, panel.predict().mean, atol=0, rtol=0)


def test_a_state_of_other_members_is_refused(features: Features) -> None:
    panel = Panel([make_predictor("beta", features, CPU), make_predictor("constant", features, CPU)])
    other = Panel([make_predictor("beta", features, CPU)])
    with pytest.raises(ValueError, match="not one of these predictors"):
        other.load_state_dict(panel.state_dict())

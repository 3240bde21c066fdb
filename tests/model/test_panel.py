"""The better predictor is served, a failing one is put back.

The main one returns when it deserves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pytest
import torch
from promptgps_service.model.constant import Constant
from promptgps_service.model.features import Block, Features
from promptgps_service.model.neural import Neural
from promptgps_service.model.neural.latent import Normal
from promptgps_service.model.panel import PATIENCE, Panel
from promptgps_service.model.posterior import LogitNormal
from promptgps_service.model.predictor import Visits
from promptgps_service.model.registry import make_predictor
from torch import Tensor

CPU = torch.device("cpu")
ROWS = 60
SMALL = {"width": 8, "iterations": 3}
VITALS = ("information", "kl")


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
        return LogitNormal(
            self.log_odds.expand(ROWS), torch.full((ROWS,), 1e-6, dtype=torch.float64)
        )

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
    return Visits(
        rows, torch.binomial(trials, torch.full_like(trials, rate), generator=random), trials
    )


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
    panel = Panel(
        [
            make_predictor(name, features, CPU)
            for name in ("hierarchical", "beta", "ridge", "constant")
        ]
    )
    report = panel.observe(visits(0.9, 0))
    assert set(report.scores) == {"hierarchical", "beta", "ridge", "constant"}
    for scores in report.scores.values():
        assert scores.log_loss > 0.6  # nobody could know yet that nine in ten succeed


def test_uniform_picks_are_scored_apart_for_everybody(features: Features) -> None:
    panel = Panel([Stubborn(0.0), Constant(features, device=CPU)])
    step = Visits(
        torch.arange(6), torch.tensor([8.0, 8, 8, 8, 0, 8]).double(), torch.full((6,), 8.0).double()
    )
    report = panel.observe(step, torch.tensor([False, True, False, False, True, False]))
    assert set(report.uniform) == {"stubborn", "constant"}
    assert report.uniform["stubborn"].prompts == 2
    assert report.uniform["stubborn"].attempts == 16
    alone = Panel([Stubborn(0.0)]).observe(
        Visits(step.rows[[1, 4]], step.successes[[1, 4]], step.trials[[1, 4]])
    )
    assert report.uniform["stubborn"] == alone.scores["stubborn"]
    assert report.scores["stubborn"] != alone.scores["stubborn"]


def test_where_no_pick_was_uniform_there_is_no_such_score(features: Features) -> None:
    panel = Panel([Stubborn(0.0), Constant(features, device=CPU)])
    assert panel.observe(visits(0.5, 0)).uniform == {}
    assert panel.observe(visits(0.5, 1), torch.zeros(20, dtype=torch.bool)).uniform == {}


def test_nets_that_diverge_are_put_back_and_come_again(features: Features) -> None:
    neural = Neural(features, device=CPU, **SMALL)
    panel = Panel([neural, Constant(features, device=CPU)])
    for step in range(3):
        assert panel.observe(visits(0.4, step)).served == "neural"
    good = neural.state_dict()
    neural.fit.rate = 1e30
    report = panel.observe(visits(0.4, 3))
    assert "not finite" in report.failed["neural"]
    assert report.served == "constant"
    assert all(torch.equal(good[name], value) for name, value in neural.state_dict().items())
    assert panel.predict().mean.isfinite().all()
    neural.fit.rate = 0.04
    report = panel.observe(visits(0.4, 4))
    assert (report.served, report.failed) == ("neural", {})


def test_a_stack_of_which_one_member_breaks_off_is_put_back_whole(features: Features) -> None:
    stack = make_predictor("stack", features, CPU, **SMALL)
    panel = Panel([stack, Constant(features, device=CPU)])
    panel.observe(visits(0.4, 0))
    good = stack.state_dict()
    stack.members["neural"].fit.rate = 1e30  # type: ignore[attr-defined]
    report = panel.observe(visits(0.4, 1))
    assert report.served == "constant"
    assert "not finite" in report.failed["stack"]
    now = stack.state_dict()
    assert all(torch.equal(now[name], good[name]) for name in good)


def test_a_state_that_is_not_a_number_is_put_back(features: Features) -> None:
    """A net that went bad in some way that its own fit did not see."""
    neural = Neural(features, device=CPU, **SMALL)
    panel = Panel([neural, Constant(features, device=CPU)])
    panel.observe(visits(0.4, 0))
    before = panel.members["neural"].predict().mean

    def poison(*_: object) -> None:
        with torch.no_grad():
            neural.model.psi.mean.fill_(torch.nan)

    run = neural.fit.run
    neural.fit.run = poison  # type: ignore[method-assign]
    report = panel.observe(visits(0.4, 1))
    assert report.failed == {"neural": "its predictions are not finite"}
    assert report.served == "constant"
    assert torch.equal(neural.predict().mean, before)
    neural.fit.run = run  # type: ignore[method-assign]
    assert panel.observe(visits(0.4, 2)).served == "neural"


@pytest.mark.parametrize("collapsed", [False, True])
def test_a_latent_that_collapses_is_seen_and_where_it_costs_a_better_predictor_is_served(
    features: Features, monkeypatch: pytest.MonkeyPatch, collapsed: bool
) -> None:
    neural = Neural(features, device=CPU, **SMALL)
    panel = Panel([neural, Constant(features, device=CPU)])
    reports = [panel.observe(visits(0.5, step)) for step in range(10)]
    if collapsed:  # the encoders say the same of whatever they are shown
        still = Normal(
            torch.zeros(1, neural.model.latent), torch.full((1, neural.model.latent), 0.01)
        )
        monkeypatch.setattr(neural.model, "posterior", lambda _tokens: still)
        monkeypatch.setattr(neural.model, "ahead", lambda _tokens: still)
    assert all(report.vitals["neural.latent_information"] > 0.5 for report in reports)
    # And the policy moves.
    reports = [
        panel.observe(visits(0.5 + 0.45 * (-1) ** (step // 15), 10 + step))
        for step in range(3 * PATIENCE)
    ]
    information, surprise = (
        [report.vitals[f"neural.latent_{what}"] for report in reports] for what in VITALS
    )
    assert ("constant" in {report.served for report in reports}) == collapsed
    if collapsed:
        assert set(information) == set(surprise) == {0.0}
    else:
        assert min(information) > 0.5
        assert max(surprise) > 0.5


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
    panel = Panel(
        [make_predictor("beta", features, CPU), make_predictor("constant", features, CPU)]
    )
    other = Panel([make_predictor("beta", features, CPU)])
    with pytest.raises(ValueError, match="not one of these predictors"):
        other.load_state_dict(panel.state_dict())

"""The metrics of a step say what was observed, whatever its age has the model make of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from promptgps_service.flow.context import Context
from promptgps_service.flow.metrics import run_metrics
from promptgps_service.flow.step_metrics import step_metrics
from promptgps_service.flow.steps import Step, split_steps
from promptgps_service.flow.timeline import Timeline
from promptgps_service.model.features import Block, Features
from promptgps_service.model.panel import Panel, Report
from promptgps_service.model.predictor import Visits
from promptgps_service.model.quality import score
from promptgps_service.model.registry import make_predictor

from tests.flow.driving import WAIT, add, open_run, report, select, settle, step
from tests.flow.test_evidence_age import lines

KEYS = [f"pool-{number}" for number in range(6)]
NOTHING = Report({}, {}, "beta", {}, {})


def started(context: Context, versions: int) -> None:
    """A run that has learned a step of each of so many policy versions.

    The first six prompts were never tried.
    """
    add(context, 60)
    open_run(context, selection={"cooldown": 0, "uniform_share": 0.5})
    for version in range(versions):
        step(context, 12, policy_version=version, exclude=KEYS)
    settle(context)


def test_a_step_of_several_policies_says_what_was_reported(context: Context) -> None:
    """Each prompt is drawn twice; one policy solves none of its rollouts, an older one all."""
    started(context, 8)
    draws = [select(context, 6, policy_version=8, candidates=KEYS).draws.draw_id for _ in range(2)]
    report(
        context,
        draw_id=draws[0] + draws[1],
        successes=[0, 8, 0, 8, 0, 4, 8, 0, 8, 0, 8, 4],
        trials=[8] * 12,
        policy_version=[0] * 6 + [8] * 6,
    )
    settle(context)
    series = run_metrics(context, "run").series
    assert series["prompts"][-1] == 6
    assert series["rollouts"][-1] == 96
    assert series["success_rate"][-1] == 0.5
    assert series["effective_share"][-1] == pytest.approx(2 / 12), (
        "a group is what one draw came to"
    )
    assert series["uniform_success_rate"][-1] is not None


def test_over_a_run_of_late_reports_nothing_is_left_out(context: Context) -> None:
    started(context, 4)
    before = sum(value or 0.0 for value in run_metrics(context, "run").series["rollouts"])
    luck = np.random.default_rng(5)
    late: list[str] = []
    trials_reported = 0
    won_reported = 0
    for version in range(4, 10):
        late += select(context, 12, policy_version=version).draws.draw_id
        luck.shuffle(late)
        now = late[:9]
        late = late[9:]
        trials = luck.integers(1, 9, len(now))
        won = luck.binomial(trials, 0.4)
        made_by = luck.integers(0, version + 1, len(now))
        report(
            context,
            draw_id=now,
            successes=won.tolist(),
            trials=trials.tolist(),
            policy_version=made_by.tolist(),
        )
        report(
            context,
            prompt=["pool-7"] * 2,
            successes=[1, 0],
            trials=[2, 2],
            policy_version=[version, 0],
        )
        trials_reported += int(trials.sum()) + 4
        won_reported += int(won.sum()) + 1
    settle(context)
    series = run_metrics(context, "run").series
    rollouts = np.array(series["rollouts"], float)
    rates = np.array(series["success_rate"], float)
    assert rollouts.sum() - before == trials_reported
    steps_before = 4
    assert (rollouts * rates)[steps_before:].sum() == pytest.approx(won_reported)


# ---- by themselves -----------------------------------------------------------------------------


def measured(one: Step) -> dict[str, float | None]:
    return step_metrics(one, torch.full((len(one.visits),), 0.5), "beta", NOTHING, 8)


def test_lines_of_several_ages_are_tempered_for_the_model_and_not_for_the_metrics(
    context: Context,
) -> None:
    add(context, 10)
    open_run(context)
    told = lines((5, 8, 8, 19), (5, 0, 8, 3), (6, 4, 8, 19))
    (one,) = split_steps(told, context.desk("run").state, 9, Timeline(range(20)))
    assert float(one.visits.trials.sum()) < 24
    assert one.visits.observed is not None
    assert one.visits.observed.tolist() == [[8, 4], [16, 8]]
    found = measured(one)
    assert (found["rollouts"], found["success_rate"]) == (24, 0.5)
    assert found["effective_share"] == pytest.approx(1 / 3)


def test_lines_of_one_age_are_what_was_observed_to_the_last_bit(context: Context) -> None:
    add(context, 10)
    open_run(context)
    told = lines((5, 3, 8, 2), (4, 1, 8, 2), (5, 2, 4, 2))
    (one,) = split_steps(told, context.desk("run").state, 9, Timeline(range(20)))
    assert one.visits.observed is None
    assert measured(one)["rollouts"] == float(one.visits.trials.sum()) == 20


def panel() -> Panel:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32))
    features = Features(x, (Block("embedding", 0, 3),), 20)
    return Panel(
        [
            make_predictor(name, features, torch.device("cpu"))
            for name in ("hierarchical", "beta", "constant")
        ]
    )


def test_predictions_are_scored_on_what_was_observed_and_learned_from_as_before() -> None:
    rows = torch.arange(8)
    tempered = torch.tensor([[1.0, 0.5] * 4, [2.0, 1.5] * 4], dtype=torch.float64)
    observed = torch.tensor([[4.0, 1.0] * 4, [8.0, 8.0] * 4], dtype=torch.float64)
    age = torch.tensor([0.0, 3.0] * 4, dtype=torch.float64)
    with_both = panel()
    as_before = panel()
    for _ in range(4):
        mean = with_both.predict().take(rows).mean
        found = with_both.observe(Visits(rows, tempered[0], tempered[1], age, observed), rows < 4)
        as_before.observe(Visits(rows, tempered[0], tempered[1], age), rows < 4)
        assert found.scores["hierarchical"] == score(mean, observed[0], observed[1])
        assert found.uniform["hierarchical"] == score(mean[:4], observed[0, :4], observed[1, :4])
        assert found.scores["hierarchical"].attempts == 64
    one = with_both.state_dict()
    other = as_before.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_of_a_step_without_groups_no_share_is_told(context: Context) -> None:
    add(context, 10)
    open_run(context)
    batch = select(context, 2, wait_seconds=WAIT)
    report(context, draw_id=batch.draws.draw_id, rollout_index=[0, 0], reward=[1.0, 0.0])
    settle(context)
    found = {name: values[-1] for name, values in run_metrics(context, "run").series.items()}
    assert (found["rollouts"], found["success_rate"], found["effective_share"]) == (2, 0.5, None)
    assert all(value is None or math.isfinite(value) for value in found.values())

"""Continuous rewards: `variance` finds the prompts whose rewards differ.

`information` sees only their means.
"""

from __future__ import annotations

import random
from statistics import mean

import pytest
import torch
from promptgps_client.wire import Batch
from promptgps_service.flow.context import Context

from tests.databases import opened_context
from tests.flow.driving import WAIT, add, open_run, report, select, settle, skill

# of raw rewards
LOW = -1.0
HIGH = 3.0
SEEDS = (0, 1, 2, 3)


def concentration(key: str) -> float:
    """Half of the prompts have rewards near 0 and 1, half near their mean."""
    return 0.1 if int(key.split("-")[1]) % 2 else 9.0


def true_variance(key: str) -> float:
    """Of a reward Beta(cγ, c(1 − γ)): γ (1 − γ) / (1 + c)."""
    return skill(key) * (1 - skill(key)) / (1 + concentration(key))


def roll_out(batch: Batch, luck: random.Random) -> list[list[float]]:
    """Rewards of each draw in [0, 1]."""
    groups = []
    for key, n in zip(batch.draws.prompt, batch.draws.rollouts, strict=True):
        c = concentration(key)
        gamma = min(max(skill(key), 0.01), 0.99)
        groups.append([luck.betavariate(c * gamma, c * (1 - gamma)) for _ in range(n)])
    return groups


def report_rewards(
    context: Context, batch: Batch, groups: list[list[float]], first: int = 0, stop: int = 8
) -> None:
    """Report rollouts first to stop of every draw, as raw rewards."""
    report(
        context,
        run=batch.run,
        draw_id=[draw for draw in batch.draws.draw_id for _ in range(first, stop)],
        rollout_index=list(range(first, stop)) * len(groups),
        reward=[LOW + (HIGH - LOW) * r for group in groups for r in group[first:stop]],
    )


def start(context: Context, **settings: object) -> None:
    open_run(context, reward={"kind": "affine", "low": LOW, "high": HIGH}, **settings)


def chosen_variance(context: Context, utility: str, seed: int) -> float:
    """Mean true reward variance of what was chosen over steps 5 to 14."""
    name = f"{utility}-{seed}"
    start(context, name=name, seed=seed, selection={"utility": utility, "cooldown": 2})
    luck = random.Random(seed)
    variances = []
    for _ in range(15):
        batch = select(context, 16, run=name, wait_seconds=WAIT)
        report_rewards(context, batch, roll_out(batch, luck))
        variances.append(mean(true_variance(key) for key in batch.draws.prompt))
    return mean(variances[5:])


def test_variance_picks_prompts_of_more_reward_variance_than_information(context: Context) -> None:
    """By a fifth at every seed, by more than a third on the average."""
    add(context, 200)
    by_variance = [chosen_variance(context, "variance", seed) for seed in SEEDS]
    by_information = [chosen_variance(context, "information", seed) for seed in SEEDS]
    assert all(
        ours > 1.2 * theirs for ours, theirs in zip(by_variance, by_information, strict=True)
    )
    assert mean(by_variance) > 1.35 * mean(by_information)


def test_with_binary_rewards_both_choose_alike(context: Context) -> None:
    add(context, 100)
    chosen = []
    for utility in ("variance", "information"):
        open_run(context, name=utility, selection={"utility": utility})
        batches = []
        for _ in range(4):
            batch = select(context, 10, run=utility, wait_seconds=WAIT)
            rewards = [
                float(index < skill(key) * 8) for key in batch.draws.prompt for index in range(8)
            ]
            ids = [draw for draw in batch.draws.draw_id for _ in range(8)]
            report(
                context, run=utility, draw_id=ids, rollout_index=list(range(8)) * 10, reward=rewards
            )
            batches.append(batch.draws.prompt)
        chosen.append(batches)
    assert chosen[0] == chosen[1]


@pytest.fixture
def told(context: Context) -> tuple[Batch, list[list[float]]]:
    add(context, 40)
    start(context)
    batch = select(context, 20)
    return batch, roll_out(batch, random.Random(0))


def softness(context: Context, run: str = "run") -> torch.Tensor:
    found = context.desk(run).state.softness()
    assert found is not None
    return found


def test_softness_does_not_depend_on_how_rollouts_were_reported(
    context: Context, told: tuple[Batch, list[list[float]]]
) -> None:
    batch, groups = told
    for first, stop in ((0, 1), (1, 5), (5, 8)):
        report_rewards(context, batch, groups, first, stop)
    start(context, name="whole")
    again = select(context, 20, run="whole", candidates=batch.draws.prompt)
    of_key = dict(zip(batch.draws.prompt, groups, strict=True))
    report_rewards(context, again, [of_key[key] for key in again.draws.prompt])
    torch.testing.assert_close(softness(context), softness(context, "whole"), atol=1e-12, rtol=0)
    assert 0 < float(softness(context).min()) < float(softness(context).max()) < 1


def test_softness_survives_a_restart_to_the_last_bit(
    context: Context, database_url: str, told: tuple[Batch, list[list[float]]]
) -> None:
    batch, groups = told
    for first, stop in ((0, 3), (3, 8)):
        report_rewards(context, batch, groups, first, stop)
    with opened_context(database_url) as again:
        assert torch.equal(softness(again), softness(context))


def test_groups_reported_as_a_whole_say_nothing_of_softness(context: Context) -> None:
    add(context, 40)
    start(context, selection={"utility": "variance"})
    batch = select(context, 20)
    report(context, draw_id=batch.draws.draw_id, successes=[3.5] * 20, trials=[8] * 20)
    settle(context)
    assert softness(context).tolist() == [0.0] * 40
    assert len(select(context, 10).draws.prompt) == 10

"""The whole loop through the real client: the default finds the prompts that give a gradient."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from promptgps_client import PromptGPS

from tests.end_to_end.learner import (
    BATCH,
    ROLLOUTS,
    STEPS,
    Task,
    Trained,
    add_pool,
    make_tasks,
    train,
)
from tests.server import Server, wait_for

SEEDS = (11, 12, 13)
# Share of mixed groups in the last half. Measured: uniform
# 0.24, 0.24, 0.27; the default 0.65, 0.68, 0.71.
MARGIN = 0.3


def has_learned_all(client: PromptGPS, run: str, key: str) -> bool:
    """Whether the model that answers has learned from the last step, too."""
    return client.predict_difficulty(run=run, keys=[key]).trained_through == STEPS * BATCH


@pytest.fixture(scope="module")
def trained(client: PromptGPS) -> dict[tuple[str, int], tuple[list[Task], Trained]]:
    """Both strategies on each seed, on one pool a seed."""
    found = {}
    for seed in SEEDS:
        tasks = make_tasks(seed)
        add_pool(client, tasks, f"pool-{seed}")
        for strategy in ("uniform", "promptgps"):
            result = train(client, tasks, f"pool-{seed}", f"{strategy}-{seed}", strategy, seed)
            wait_for(
                partial(has_learned_all, client, f"{strategy}-{seed}", tasks[0].key),
                60.0,
                "the last step",
            )
            found[strategy, seed] = tasks, result
    return found


def test_the_default_strategy_beats_uniform_by_the_stated_margin(
    trained: dict[tuple[str, int], tuple[list[Task], Trained]],
) -> None:
    shares = {
        strategy: [trained[strategy, seed][1].last_half for seed in SEEDS]
        for strategy in ("uniform", "promptgps")
    }
    uniform = np.array(shares["uniform"])
    ours = np.array(shares["promptgps"])
    assert 0.15 < uniform.mean() < 0.45, shares
    assert ours.mean() - uniform.mean() >= MARGIN, shares
    assert (ours > uniform).all(), shares
    # a high share on few prompts is no success: at least two
    # thirds of the draws were of different prompts
    assert all(trained["promptgps", seed][1].distinct >= 2 / 3 * STEPS * BATCH for seed in SEEDS)


@pytest.mark.parametrize("seed", SEEDS)
def test_predictions_tell_the_kinds_of_prompts_apart_and_their_intervals_cover(
    client: PromptGPS, trained: dict[tuple[str, int], tuple[list[Task], Trained]], seed: int
) -> None:
    tasks, _ = trained["promptgps", seed]
    told = client.predict_difficulty(run=f"promptgps-{seed}", keys=[task.key for task in tasks])
    truth = np.array([task.success for task in tasks])
    mean = np.array(told.success_mean)
    lower = np.array(told.lower)
    upper = np.array(told.upper)
    assert told.difficulty == pytest.approx(list(1 - mean))
    assert ((lower >= 0) & (lower <= mean) & (mean <= upper) & (upper <= 1)).all()
    means = [
        mean[[task.kind == kind for task in tasks]].mean() for kind in ("easy", "middling", "hard")
    ]
    # At 0.99 or 0.004 an interval may miss by less than a
    # hundredth, which no choice of prompts depends on.
    covered = ((lower - 0.01 <= truth) & (truth <= upper + 0.01)).mean()
    middling = np.array([task.kind == "middling" for task in tasks])
    assert ((lower <= truth) & (truth <= upper))[middling].mean() >= 0.8
    assert means[0] > means[1] + 0.1
    assert means[1] > means[2] + 0.1
    assert covered >= 0.75
    wide = client.predict_difficulty(
        run=f"promptgps-{seed}", keys=[task.key for task in tasks], level=0.99
    )
    assert (np.array(wide.upper) - np.array(wide.lower) >= upper - lower).all()


def test_new_texts_are_predicted_like_those_of_their_kind(
    client: PromptGPS, trained: dict[tuple[str, int], tuple[list[Task], Trained]]
) -> None:
    seed = SEEDS[0]
    unseen = make_tasks(seed + 100, count=120)
    told = client.predict_difficulty(run=f"promptgps-{seed}", texts=[task.text for task in unseen])
    assert told.trained_through == STEPS * BATCH
    mean = np.array(told.success_mean)
    means = [
        mean[[task.kind == kind for task in unseen]].mean() for kind in ("easy", "middling", "hard")
    ]
    assert means[0] > means[1] > means[2], means
    assert means[0] - means[2] > 0.3, means


@pytest.mark.parametrize("strategy", ["uniform", "promptgps"])
def test_metrics_have_every_series_at_equal_length(
    client: PromptGPS, trained: dict[tuple[str, int], tuple[list[Task], Trained]], strategy: str
) -> None:
    _, result = trained[strategy, SEEDS[0]]
    metrics = client.metrics(f"{strategy}-{SEEDS[0]}")
    wanted = {
        "model_version",
        "trained_through",
        "clock",
        "prompts",
        "rollouts",
        "success_rate",
        "predicted_success",
        "effective_share",
        "predicted_effective_share",
        "log_loss",
        "brier",
        "spearman",
        "calibration_error",
        "uniform_prompts",
        "uniform_effective_share",
    }
    assert wanted <= metrics.series.keys()
    # what the last step taught is learned while nobody waits
    assert STEPS - 1 <= metrics.steps <= STEPS
    assert {len(series) for series in metrics.series.values()} == {metrics.steps}
    assert metrics.series["effective_share"] == pytest.approx(result.mixed[: metrics.steps])
    assert metrics.series["rollouts"] == [BATCH * ROLLOUTS] * metrics.steps


def test_selections_are_replayed_and_texts_are_there_for_whoever_asks(
    client: PromptGPS, server: Server, trained: dict[tuple[str, int], tuple[list[Task], Trained]]
) -> None:
    tasks, _ = trained["promptgps", SEEDS[0]]
    texts = {task.key: task.text for task in tasks}
    asked = {
        "run": f"promptgps-{SEEDS[0]}",
        "sequence": 3,
        "batch_size": BATCH,
        "policy_version": 3,
    }
    first, second = (client.select_batch(**asked, include_text=True) for _ in range(2))
    assert first == second
    assert first.replayed
    assert first.draws.text == [texts[key] for key in first.draws.prompt]
    assert client.run(f"promptgps-{SEEDS[0]}").selections == STEPS

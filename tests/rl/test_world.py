"""The pool's mix, the cache of weights, numbers read off records, and a run through the service."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from promptgps_client import PromptGPS

from benchmarks.rl import warmstart
from benchmarks.rl.analysis import calibration, rollouts_to, smooth, spread, target_accuracy
from benchmarks.rl.contest import World
from benchmarks.rl.policy import Policy
from benchmarks.rl.pool import Pool, difficulty_class, draw
from benchmarks.rl.train import Record, Settings
from benchmarks.service import service_at

FAMILIES = ("swap", "reverse")


def test_a_pool_has_the_stated_mix_without_repeats(base: Policy) -> None:
    held_out = draw(base, 40, 1, FAMILIES)
    pool = draw(base, 100, 0, FAMILIES, frozenset(p.text for p in held_out))
    kinds = difficulty_class(base.success_rates(pool))
    assert [kinds.count(k) for k in ("easy", "medium", "hard")] == [25, 35, 40]
    assert len({p.text for p in pool}) == 100
    assert not {p.text for p in pool} & {p.text for p in held_out}


def test_a_policy_that_cannot_fill_a_class_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.rl.pool.MOST_DRAWS", 2048)
    with pytest.raises(ValueError, match="too few prompts"):
        draw(Policy(), 100, 0, FAMILIES)


def test_weights_come_from_the_cache_and_settings_name_them(tmp_path: Path) -> None:
    tiny = warmstart.WarmStart(steps=2, batch=4)
    trained = warmstart.base_policy(tiny, tmp_path)
    loaded = warmstart.base_policy(tiny, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert all(
        torch.equal(a, b) for a, b in zip(trained.parameters(), loaded.parameters(), strict=True)
    )
    assert tiny.key() != warmstart.WarmStart(steps=3, batch=4).key()


def _record(accuracy: list[float]) -> Record:
    rollouts = [100 * i for i in range(len(accuracy))]
    return Record("x", Settings(), 10, accuracy=accuracy, eval_rollouts=rollouts, rollouts=rollouts)


def test_rollouts_to_a_target_are_interpolated() -> None:
    record = _record([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert rollouts_to(record, 0.25) == pytest.approx(250)
    assert rollouts_to(record, 0.9) is None
    # the last mean is over two points
    assert target_accuracy([record]) == pytest.approx(0.9 * 0.45)


def test_smoothing_keeps_a_constant_and_spread_tells_who_got_there() -> None:
    assert smooth([0.3] * 7, 5).tolist() == pytest.approx([0.3] * 7)
    assert spread([1.0, None, 3.0], 1) == "2.0 ± 1.4 (2/3)"
    assert spread([None]) == "–"


def test_calibration_of_a_calibrated_predictor() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(20_000)
    bins = calibration(truth, rng.binomial(8, truth) / 8)
    assert bins is not None
    assert bins.error < 0.01
    assert bins.rank_correlation > 0.8
    assert calibration([0.5] * 50, [0.5] * 50) is None


def test_a_record_survives_json() -> None:
    record = _record([0.1, 0.2])
    assert Record.from_json(record.to_json()) == record


def test_a_run_through_the_service_learns_the_pool_and_repeats(base: Policy) -> None:
    """Two runs of equal seeds, each on its own pool: same choices, rewards and accuracies."""
    prompts = draw(base, 200, 0, FAMILIES)
    held_out = draw(base, 40, 1, FAMILIES)
    records = []
    with service_at(None) as url, PromptGPS(url) as gps:
        for _ in range(2):
            world = World(base, Pool.of(prompts), held_out)
            world.upload(gps)
            records.append(world.run("promptgps", Settings(steps=12, eval_every=6), gps))
    first, second = records
    assert first.picked == second.picked
    assert first.accuracy == second.accuracy
    assert first.pool_rank_correlation is not None
    assert first.pool_rank_correlation > 0.5
    assert all(len(set(batch)) == 16 for batch in first.picked)

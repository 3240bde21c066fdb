"""The adapter in the real trainers, against a real service."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from promptgps_client.adapters.seam import DRAW_ID
from promptgps_client.adapters.trl import PromptSelection
from trl import GRPOConfig, RLOOConfig

from tests.adapters.sums import Run
from tests.adapters.trl.told import number, reported, traced
from tests.adapters.trl.training import DATASET, Trace, config, even, read, trainer


def selection_for(run: Run, args: Any, **settings: Any) -> PromptSelection:
    return PromptSelection(
        DATASET, args, run=run.name, service=run.server.url, wait_seconds=1.0, **settings
    )


@pytest.mark.parametrize(
    ("kind", "accumulation", "per_generation", "iterations"),
    [
        (GRPOConfig, 1, 1, 1),
        (GRPOConfig, 2, 2, 1),
        (GRPOConfig, 2, 4, 1),
        (GRPOConfig, 1, 2, 2),
        (GRPOConfig, 2, 1, 1),
        (RLOOConfig, 2, 2, 1),
    ],
)
def test_every_rollout_of_a_draw_is_reported_once(
    run: Run, tmp_path: Path, kind: type, accumulation: int, per_generation: int, iterations: int
) -> None:
    args = config(
        tmp_path,
        kind=kind,
        max_steps=4,
        save_strategy="no",
        gradient_accumulation_steps=accumulation,
        steps_per_generation=per_generation,
        num_iterations=iterations,
    )
    selection = selection_for(run, args)
    trainer(args, selection, [selection.reported(even), Trace(tmp_path / "trace", {})]).train()
    trace = read(tmp_path / "trace")
    generations = -(-4 * accumulation // (per_generation * iterations))
    assert len(trace) == generations
    drawn = Counter(draw_id for line in trace for draw_id in line["draw_id"])
    assert set(drawn.values()) == {4}
    assert len(drawn) == generations * per_generation
    assert reported(run) == traced(trace)
    steps = {number(draw_id): line["step"] for line in trace for draw_id in line["draw_id"]}
    assert {row["draw"]: row["policy_version"] for row in run.outcomes()} == steps
    versions = {row["first_draw"]: row["policy_version"] for row in run.selections()}
    assert all(versions[draw] == step for draw, step in steps.items() if draw in versions)
    drawn_at = [datetime.fromisoformat(row["created_at"]).timestamp() for row in run.selections()]
    rewarded_at = max(row["received_at"] for row in run.outcomes() if row["draw"] < per_generation)
    assert (rewarded_at < drawn_at[1]) == (per_generation * iterations > accumulation)


def test_rows_are_those_of_their_keys(run: Run, tmp_path: Path) -> None:
    args = config(tmp_path, max_steps=2, save_strategy="no")
    selection = selection_for(run, args)
    trainer(args, selection, [selection.reported(even), Trace(tmp_path / "trace", {})]).train()
    rows = {row["key"]: row["prompt"] for row in DATASET}
    drawn = {}
    for line in read(tmp_path / "trace"):
        assert [rows[key] for key in line["key"]] == line["prompt"]
        drawn |= {
            number(draw_id): key for draw_id, key in zip(line["draw_id"], line["key"], strict=True)
        }
    assert {row["draw"]: DATASET["key"][row["row"]] for row in run.outcomes()} == drawn


def test_an_async_reward_with_gaps_and_an_evaluation(run: Run, tmp_path: Path) -> None:
    args = config(
        tmp_path,
        max_steps=2,
        save_strategy="no",
        eval_strategy="steps",
        eval_steps=1,
        per_device_eval_batch_size=4,
    )
    selection = selection_for(run, args)
    calls: list[dict[str, Any]] = []

    async def slow(completions: list[str], **columns: Any) -> list[float | None]:
        await asyncio.sleep(0.01)
        calls.append(columns)
        return [None, *even(completions[1:])]

    made = trainer(
        args, selection, [selection.reported(slow)], eval_dataset=DATASET.select(range(4))
    )
    assert made.reward_func_names == ["slow"]
    made.train()
    trained = [columns for columns in calls if DRAW_ID in columns]
    assert len(trained) == 2 < len(calls)
    outcomes = run.outcomes()
    assert len(outcomes) == 16
    silent = {(number(columns[DRAW_ID][0]), 0) for columns in trained}
    assert {(row["draw"], row["rollout"]) for row in outcomes if row["trials"] == 0} == silent


def test_without_skipping_data_a_resumed_training_takes_new_draws(run: Run, tmp_path: Path) -> None:
    for resume in (False, True):
        args = config(tmp_path, max_steps=2 + 2 * resume, ignore_data_skip=True)
        selection = selection_for(run, args)
        rewards = [selection.reported(even), Trace(tmp_path / "trace", {})]
        trainer(args, selection, rewards).train(resume_from_checkpoint=resume)
    trace = read(tmp_path / "trace")
    assert [line["step"] for line in trace] == [0, 1, 2, 3]
    assert set(Counter(draw_id for line in trace for draw_id in line["draw_id"]).values()) == {4}
    assert reported(run) == traced(trace)


def test_a_checkpoint_within_a_generation_repeats_it_and_the_first_outcomes_count(
    run: Run, tmp_path: Path
) -> None:
    for steps in (2, 6):
        # four steps long
        args = config(tmp_path, max_steps=steps, steps_per_generation=4, num_iterations=2)
        selection = selection_for(run, args)
        rewards = [selection.reported(even), Trace(tmp_path / "trace", {})]
        trainer(args, selection, rewards).train(resume_from_checkpoint=steps > 2)
    first, again = read(tmp_path / "trace")
    assert (first["step"], again["step"]) == (0, 2)
    assert first["draw_id"] == again["draw_id"]
    assert reported(run) == traced([first])


def test_a_training_that_goes_on_with_other_batches_is_not_stopped(
    run: Run, tmp_path: Path
) -> None:
    for steps, accumulation in ((2, 2), (5, 4)):
        args = config(tmp_path, max_steps=steps, gradient_accumulation_steps=accumulation)
        selection = selection_for(run, args)
        rewards = [selection.reported(even), Trace(tmp_path / "trace", {})]
        trainer(args, selection, rewards).train(resume_from_checkpoint=steps > 2)
    trace = read(tmp_path / "trace")
    assert [(line["step"], len(set(line["draw_id"]))) for line in trace] == [
        (0, 2),
        (1, 2),
        (2, 4),
        (3, 4),
        (4, 4),
    ]
    local = [line["draw_id"][0].startswith("local-") for line in trace]
    assert local == [
        False,
        False,
        True,
        False,
        False,
    ]  # the draws of step 2 were read ahead, as a smaller batch
    assert sum(row["trials"] for row in run.outcomes()) == 2 * 8 + 3 * 16


def test_what_cannot_be_is_told(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="remove_unused_columns must be off"):
        selection_for(run, config(tmp_path, remove_unused_columns=True))
    with pytest.raises(ValueError, match="'sum-3' is there twice"):
        PromptSelection(
            DATASET.select([3, 4, 3]), config(tmp_path), run=run.name, service=run.server.url
        )
    selection = selection_for(run, config(tmp_path))
    with pytest.raises(TypeError, match="a reward model cannot be reported"):
        selection.reported("a/reward-model")  # type: ignore[arg-type]
    selection.reported(even)
    with pytest.raises(ValueError, match="one reward is reported already"):
        selection.reported(even)

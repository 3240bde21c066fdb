"""The adapter in the real V1 trainer, against a real service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from promptgps_client import ExistingRun
from promptgps_client.adapters.seam import Seam
from promptgps_client.adapters.verl import PromptGPSDataset

from tests.adapters.processes import ROOT, program
from tests.adapters.sums import KEYS, TEXTS, Run
from tests.adapters.verl.training import (
    ROLLOUTS,
    Replies,
    config,
    killed,
    number,
    save,
    step,
    trainer,
)

BUFFER = "trainer.v1.sampler"
DROP_AT_ONCE = (f"{BUFFER}.max_off_policy_threshold=1", f"{BUFFER}.max_off_policy_strategy=drop")


def reported(run: Run) -> dict[tuple[int, int], float | None]:
    """Rewards by draw and rollout, as the service has them."""
    return {(row["draw"], row["rollout"]): row["reward"] for row in run.outcomes()}


def versions(run: Run) -> dict[int, int]:
    return {row["draw"]: row["policy_version"] for row in run.outcomes()}


def test_every_rollout_of_a_draw_is_reported_once(run: Run, tmp_path: Path) -> None:
    given = config(run, tmp_path)
    replies = Replies(given)
    made = trainer(given, replies)
    for _ in range(3):
        assert len(step(made)) == 4 * (ROLLOUTS + 2)
    made.train_dataset.seam.close()
    assert [row["size"] for row in run.selections()] == [4, 4, 4]
    assert len(replies.rewards) == 3 * 4 * ROLLOUTS
    assert reported(run) == replies.rewards
    assert versions(run) == replies.versions
    drawn = {number(info["promptgps_draw_id"]): info["promptgps_key"] for info in replies.infos}
    assert drawn == {row["draw"]: KEYS[row["row"]] for row in run.outcomes()}
    assert all(info["index"] == info["promptgps_key"] for info in replies.infos)
    assert made.val_dataset[3]["raw_prompt"][0]["content"] == TEXTS[3]


def test_failed_rollouts_say_nothing_about_difficulty(run: Run, tmp_path: Path) -> None:
    given = config(run, tmp_path)
    replies = Replies(
        given, fails=lambda draw, session: draw % 4 == 2 or (draw % 4 == 3 and session == 1)
    )
    made = trainer(given, replies)
    step(made)
    step(made)
    made.train_dataset.seam.close()
    assert reported(run) == replies.rewards
    assert {(row["draw"], row["rollout"]) for row in run.outcomes() if row["trials"] == 0} == {
        rollout for rollout, reward in replies.rewards.items() if reward is None
    }
    assert versions(run) == replies.versions
    assert not made.train_dataset.open


def test_groups_that_dapo_filters_are_reported_too(run: Run, tmp_path: Path) -> None:
    given = config(
        run,
        tmp_path,
        "algorithm.filter_groups.enable=true",
        f"+{BUFFER}.sampler_kwargs.filter_groups_metric='${{algorithm.filter_groups.metric}}'",
        f"+{BUFFER}.sampler_kwargs.train_batch_size='${{data.train_batch_size}}'",
        f"+{BUFFER}.sampler_kwargs.gen_batch_size=1",
    )
    replies = Replies(given, easy=lambda draw: draw % 4 == 1)
    made = trainer(given, replies)
    trained = step(made)
    made.train_dataset.seam.close()
    assert len({key.split("_")[0] for key in trained}) == 4
    assert len(replies.versions) > 4
    assert reported(run) == replies.rewards


def test_stale_and_failed_groups_are_reported_and_refilled(run: Run, tmp_path: Path) -> None:
    given = config(run, tmp_path, *DROP_AT_ONCE, mode="colocate_async")
    replies = Replies(given, fails=lambda draw, session: draw == 3)
    made = trainer(given, replies)
    for _ in range(3):
        step(made)
    made.replay_buffer.wait_for_sampleable(made.global_steps, "train", 4)
    made.train_dataset.seam.close()
    assert {draw for draw, version in versions(run).items() if version == 1} >= set(range(9))
    assert reported(run) == replies.rewards
    assert versions(run) == replies.versions
    assert {(3, session): None for session in range(ROLLOUTS)}.items() <= reported(run).items()


@pytest.mark.parametrize("snapshots", [True, False])
def test_resumed_from_a_checkpoint(run: Run, tmp_path: Path, snapshots: bool) -> None:
    given = config(
        run, tmp_path, *([] if snapshots else ["trainer.checkpoint_callback_class=null"])
    )
    first = Replies(given)
    made = trainer(given, first)
    step(made)
    save(made)
    step(made)
    killed(made, first)
    then = reported(run)
    assert then == first.rewards

    second = Replies(given, seed=1)
    made = trainer(given, second)
    assert made.global_steps == 2
    step(made)
    step(made)
    made.train_dataset.seam.close()
    assert [row["size"] for row in run.selections()] == [4, 4, 4]
    assert len(reported(run)) == len(run.outcomes()) == 3 * 4 * ROLLOUTS
    assert second.versions.keys() == set(versions(run)) - {0, 1, 2, 3}
    if (
        snapshots
    ):  # the run went back: what the killed trainer did after the checkpoint is superseded
        assert then.keys() - {rollout for rollout in then if rollout[0] > 3} <= reported(run).keys()
        assert second.rewards.items() <= reported(run).items()
    else:  # the same draws as before, and what was reported first stays
        assert then.items() <= reported(run).items()


@pytest.mark.parametrize("snapshots", [True, False])
@pytest.mark.parametrize("ended", [True, False], ids=["ended before the kill", "killed in flight"])
def test_prompts_that_are_issued_again_count_once(
    run: Run, tmp_path: Path, snapshots: bool, ended: bool
) -> None:
    callback = [] if snapshots else ["trainer.checkpoint_callback_class=null"]
    given = config(run, tmp_path, *callback, mode="colocate_async")
    first = Replies(given)
    first.hold()
    made = trainer(given, first)
    made.prepare_step()
    made.global_steps += 1
    save(made)
    if ended:
        first.release()
        made.replay_buffer.wait_for_sampleable(made.global_steps, "train", 8)
    killed(made, first)
    before = reported(run)
    assert len(before) == (8 * ROLLOUTS if ended else 0)

    second = Replies(given, seed=1)
    made = trainer(given, second)
    step(made)
    made.replay_buffer.wait_for_sampleable(made.global_steps, "train", 8)
    made.train_dataset.seam.close()
    assert len(second.versions) == 12
    assert set(range(8)) <= set(second.versions)
    assert len(run.outcomes()) == len(reported(run)) == 12 * ROLLOUTS
    if ended and not snapshots:
        assert before.items() <= reported(run).items()
    else:
        assert reported(run) == second.rewards


def test_what_ended_before_a_checkpoint_is_reported_before_its_snapshot(
    run: Run, tmp_path: Path
) -> None:
    given = config(run, tmp_path, mode="colocate_async")
    first = Replies(given)
    made = trainer(given, first)
    made.prepare_step()
    first.wait()
    made.global_steps += 1
    save(made)
    killed(made, first)

    second = Replies(given, seed=1)
    made = trainer(given, second)
    # as a validation does before the first step
    made.replay_buffer._sync_metadata_from_transfer_queue()
    step(made)
    made.replay_buffer.wait_for_sampleable(made.global_steps, "train", 8)
    made.train_dataset.seam.close()
    assert len(first.rewards) == 8 * ROLLOUTS
    assert len(run.outcomes()) == 12 * ROLLOUTS
    assert reported(run) == first.rewards | second.rewards


def test_without_the_service_it_trains_on_and_tells_it_later(run: Run, tmp_path: Path) -> None:
    given = config(
        run, tmp_path, "data.promptgps.service=http://127.0.0.1:9", "data.promptgps.deadline=0.5"
    )
    replies = Replies(given)
    made = trainer(given, replies)
    step(made)
    save(made)
    step(made)
    killed(made, replies)
    assert run.outcomes() == []
    local = {(info["promptgps_draw_id"], info["promptgps_key"]) for info in replies.infos}
    assert len(local) == 8
    later = Seam(
        run.server.url,
        run=run.name,
        spool=f"{tmp_path}/checkpoints/promptgps",
        prompts=KEYS,
        batch_size=4,
    )
    assert later.selector.flush(30.0)
    later.close()
    assert sorted(KEYS[row["row"]] for row in run.outcomes()) == sorted(key for _, key in local)
    assert sum(row["trials"] for row in run.outcomes()) == 8 * ROLLOUTS


def test_what_cannot_be_is_told(run: Run, tmp_path: Path) -> None:
    for override, told in [
        (f"data.val_files={tmp_path}/train.parquet", "train_files and val_files are the same"),
        ("data.dataloader_num_workers=1", "dataloader_num_workers must be 0"),
        ("+data.promptgps.key=extra_info.name", "row 0 of the data set has no extra_info.name"),
        ("+data.promptgps.key=name", "the data set has no column name"),
        (f"{BUFFER}.custom_sampler.name=PromptGPSReplayBufferAsync", "not for trainer_mode sync"),
    ]:
        given = config(run, tmp_path, override)
        with pytest.raises(ValueError, match=told):
            trainer(given, Replies(given))
    PromptGPSDataset.training = None
    given = config(run, tmp_path, "data.custom_cls.path=null")
    made = trainer(given, Replies(given))
    with pytest.raises(RuntimeError, match="custom_cls must name PromptGPSDataset"):
        made.replay_buffer.sample(1, "train", 4)


def test_a_relaunch_is_stopped_or_does_what_is_said(run: Run, tmp_path: Path) -> None:
    def started(name: str, *overrides: str, seed: int = 0) -> tuple[Any, Replies]:
        folder = f"trainer.default_local_dir={tmp_path}/{name}"
        given = config(run, tmp_path, folder, *overrides)
        replies = Replies(given, seed=seed)
        return trainer(given, replies), replies

    made, replies = started("first")
    step(made)
    killed(made, replies)
    before = reported(run)

    made, replies = started("second", seed=1)
    with pytest.raises(ExistingRun, match="has been trained on before"):
        step(made)
    killed(made, replies)
    assert reported(run) == before

    made, replies = started("third", "+data.promptgps.on_existing=resume", seed=2)
    step(made)
    killed(made, replies)
    assert len(reported(run)) == 2 * len(before)
    assert before.items() <= reported(run).items()

    second = Run(f"{run.name}-2", run.server, run.client, run.database)
    made, replies = started("fourth", "+data.promptgps.on_existing=new", seed=3)
    step(made)
    save(made)
    killed(made, replies)
    assert len(reported(second)) == len(before)
    # from its checkpoint
    made, replies = started("fourth", "+data.promptgps.on_existing=new", seed=4)
    step(made)
    made.train_dataset.seam.close()
    assert len(reported(second)) == 2 * len(before)
    assert len(reported(run)) == 2 * len(before)


def test_files_that_each_count_anew_are_pools_of_their_own(run: Run, tmp_path: Path) -> None:
    sources = {"openai/gsm8k": f"{run.name}-gsm8k", "lighteval/MATH": f"{run.name}-math"}
    files = []
    for source, pool in sources.items():
        texts = [f"{source}: {text}" for text in TEXTS[:8]]
        run.client.create_pool(pool)
        run.client.add_prompts(pool, keys=range(8), texts=texts)
        path = tmp_path / f"{pool}.parquet"
        Dataset.from_list(
            [
                {
                    "data_source": source,
                    "prompt": [{"role": "user", "content": text}],
                    "reward_model": {"ground_truth": "0"},
                    "extra_info": {"index": index},
                }
                for index, text in enumerate(texts)
            ]
        ).to_parquet(path)
        files.append(str(path))
    name = f"{run.name}-pools"
    run.client.create_run(
        name=name, pools=[{"pool": pool} for pool in sources.values()], rollouts_per_prompt=ROLLOUTS
    )
    own = Run(name, run.server, run.client, run.database)
    given = (f"data.train_files={files}", f"data.promptgps.run={name}")
    with pytest.raises(ValueError, match=r"'0' is there twice.*pool: \{SOURCE: POOL"):
        trainer(config(run, tmp_path, *given), Replies(config(run, tmp_path, *given)))
    mapping = ",".join(f"{source}:{pool}" for source, pool in sources.items())
    mapped = config(run, tmp_path, *given, f"+data.promptgps.pool={{{mapping}}}")
    replies = Replies(mapped)
    made = trainer(mapped, replies)
    for _ in range(3):
        step(made)
    made.train_dataset.seam.close()
    drawn = {number(info["promptgps_draw_id"]): info["index"] for info in replies.infos}
    assert drawn == {row["draw"]: row["row"] % 8 for row in own.outcomes()}
    assert len(reported(own)) == 3 * 4 * ROLLOUTS
    assert {row["row"] // 8 for row in own.outcomes()} == {0, 1}


def test_rewards_that_come_later_are_told(run: Run, tmp_path: Path) -> None:
    given = config(run, tmp_path)
    with pytest.raises(RuntimeError, match="without rm_scores: a reward model that shares"):
        step(trainer(given, Replies(given, scored=False)))


def test_the_example(run: Run, tmp_path: Path) -> None:
    told = program(
        str(ROOT / "examples/verl_grpo.py"), folder=tmp_path, PROMPTGPS_URL=run.server.url
    )
    assert "custom_sampler.name=PromptGPSReplayBuffer" in told
    assert run.client.run("verl-example").log_position == 3 * 16 * ROLLOUTS

"""The sampler in the real training loop of verl 0.7.1, `RayPPOTrainer.fit`, against a real service.

Simulated are only the replies and the workers that would compute with weights.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from hydra import compose, initialize_config_module
from promptgps_client import ExistingRun
from promptgps_client.adapters.seam import Seam
from verl import DataProto
from verl.trainer.ppo.ray_trainer import RayPPOTrainer
from verl.trainer.ppo.utils import Role

from tests.adapters.processes import ROOT, program
from tests.adapters.sums import KEYS, Run
from tests.adapters.verl_data import rows, tokenizer

ROLLOUTS = 4


def config(run: Run, folder: Path, *overrides: str, steps: int = 3) -> Any:
    """The configuration as `python -m verl.trainer.main_ppo` composes it."""
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose(
            "ppo_trainer",
            [
                "data.sampler.class_path=pkg://promptgps_client.adapters.verl_curriculum",
                "data.sampler.class_name=PromptGPSSampler",
                "data.dataloader_num_workers=0",
                f"+data.promptgps.run={run.name}",
                "+data.promptgps.spool='${trainer.default_local_dir}/promptgps'",
                "+data.promptgps.rollouts='${actor_rollout_ref.rollout.n}'",
                # Of the test:
                f"+data.promptgps.service={run.server.url}",
                "+data.promptgps.deadline=2.0",
                f"data.train_files={rows(folder, 'train', KEYS)}",
                f"data.val_files={rows(folder, 'val', KEYS[:4])}",
                "data.train_batch_size=6",
                f"actor_rollout_ref.rollout.n={ROLLOUTS}",
                "algorithm.adv_estimator=grpo",
                f"+data.cache_dir={folder}",
                "data.filter_overlong_prompts_workers=1",
                "trainer.logger=[console]",
                f"trainer.default_local_dir={folder}/checkpoints",
                "trainer.save_freq=2",
                "trainer.test_freq=-1",
                "trainer.val_before_train=false",
                f"trainer.total_training_steps={steps}",
                "trainer.total_epochs=9",
                "trainer.balance_batch=false",
                "critic.enable=false",
                "trainer.nnodes=1",
                *overrides,
            ],
        )


class Trainer(RayPPOTrainer):
    """verl's trainer, whose policy replies right or wrong by chance and dies where told to."""

    def __init__(self, config: Any, seed: int = 0, dies_at: int = 0) -> None:
        resources = SimpleNamespace(get_n_gpus=lambda: 1)
        super().__init__(config, tokenizer(), {Role.ActorRollout: None}, resources)
        nothing = lambda *_, **__: None  # noqa: E731
        self.actor_rollout_wg = SimpleNamespace(save_checkpoint=nothing, load_checkpoint=nothing)
        self.checkpoint_manager = SimpleNamespace(update_weights=nothing, sleep_replicas=nothing)
        self.async_rollout_manager = self
        self._seed = seed
        self._dies_at = dies_at
        self.rolled_out: list[list[str]] = []  # keys by step
        self.rewards: dict[str, list[float]] = {}  # of the group of each prompt's last roll-out

    def generate_sequences(self, prompts: DataProto) -> DataProto:
        """`AgentLoopManager`'s part, on the prompts as the trainer has repeated them."""
        if self.global_steps == self._dies_at:
            raise KeyboardInterrupt
        infos = prompts.non_tensor_batch["extra_info"]
        self.rolled_out.append([info["index"] for info in infos[::ROLLOUTS]])
        scores = torch.zeros(len(infos), 2)
        for row in range(len(infos)):
            scores[row, -1] = float(
                Random(f"{self._seed}-{self.global_steps}-{row}").random() < 0.5
            )
        for at in range(0, len(infos), ROLLOUTS):
            self.rewards[infos[at]["index"]] = scores[at : at + ROLLOUTS, -1].tolist()
        tokens = torch.ones(len(infos), 4, dtype=torch.int64)
        return DataProto.from_dict(
            {
                "prompts": tokens[:, :2],
                "responses": tokens[:, 2:],
                "input_ids": tokens,
                "attention_mask": tokens,
                "position_ids": tokens,
                "response_mask": tokens[:, 2:],
                "rm_scores": scores,
            },
            non_tensors={"multi_modal_inputs": numpy.array([{} for _ in infos], dtype=object)},
            meta_info={"timing": {}, "reward_extra_keys": []},
        )

    def _compute_old_log_prob(self, batch: DataProto) -> tuple[DataProto, float]:
        zeros = torch.zeros_like(batch.batch["rm_scores"])
        return DataProto.from_dict({"old_log_probs": zeros, "entropys": zeros.clone()}), 0.0

    def _update_actor(self, batch: DataProto) -> DataProto:
        return DataProto(meta_info={"metrics": {"actor/grad_norm": [1.0]}})

    @property
    def seam(self) -> Seam:
        return self.train_dataloader.sampler._seam


def trained(given: Any, **options: Any) -> Trainer:
    made = Trainer(given, **options)
    try:
        made.fit()
    except KeyboardInterrupt:
        assert options["dies_at"]
    made.seam.close()
    return made


def reported(run: Run) -> dict[int, list[float]]:
    """Rewards by draw, as the service has them."""
    told: dict[int, list[float]] = {}
    for row in run.outcomes():
        told.setdefault(row["draw"], []).append(row["reward"])
    return told


def test_every_rollout_of_a_draw_is_reported_once(run: Run, tmp_path: Path) -> None:
    made = trained(config(run, tmp_path))
    assert [(row["size"], row["policy_version"]) for row in run.selections()] == [
        (6, 0),
        (6, 1),
        (6, 2),
    ]
    drawn = {row["draw"]: KEYS[row["row"]] for row in run.outcomes()}
    assert [drawn[draw] for draw in range(18)] == [key for step in made.rolled_out for key in step]
    assert len(run.outcomes()) == 18 * ROLLOUTS
    assert {key: reported(run)[draw] for draw, key in sorted(drawn.items())} == made.rewards
    assert {row["draw"]: row["policy_version"] for row in run.outcomes()} == {
        draw: draw // 6 for draw in range(18)
    }


def test_no_draw_is_lost_between_epochs(run: Run, tmp_path: Path) -> None:
    # 10 whole batches of 6 are in 64 rows
    made = trained(config(run, tmp_path, "trainer.save_freq=-1", steps=12))
    assert len(made.rolled_out) == 12
    assert [row["size"] for row in run.selections()] == [6] * 12
    assert len(run.outcomes()) == 12 * 6 * ROLLOUTS


@pytest.mark.parametrize("put_back", [True, False])
def test_resumed_from_a_checkpoint(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put_back: bool
) -> None:
    if not put_back:
        monkeypatch.setattr(Seam, "snapshot", lambda *_: None)
    first = trained(config(run, tmp_path, steps=5), dies_at=4)
    before = reported(run)
    assert sorted(before) == list(range(18))
    second = trained(config(run, tmp_path, steps=5), seed=1)
    assert [row["size"] for row in run.selections()] == [6] * 5
    assert (
        len(run.outcomes())
        == sum(map(len, reported(run).values()))
        == (24 if put_back else 30) * ROLLOUTS
    )
    if put_back:  # the checkpoint's own step was reported after its snapshot
        assert len(second.rolled_out) == 3
    else:
        assert second.rolled_out[0] == first.rolled_out[2]
        assert before.items() <= reported(run).items()


def test_without_the_service_it_trains_on_and_tells_it_later(run: Run, tmp_path: Path) -> None:
    made = trained(
        config(
            run,
            tmp_path,
            "data.promptgps.service=http://127.0.0.1:9",
            "data.promptgps.deadline=0.5",
        )
    )
    assert run.outcomes() == []
    later = Seam(
        run.server.url,
        run=run.name,
        spool=f"{tmp_path}/checkpoints/promptgps",
        prompts=KEYS,
        batch_size=6,
    )
    assert later.selector.flush(30.0)
    later.close()
    told = sorted(KEYS[row["row"]] for row in run.outcomes())
    assert told == sorted(key for step in made.rolled_out for key in step)
    assert sum(row["trials"] for row in run.outcomes()) == 18 * ROLLOUTS


def test_a_relaunch_is_stopped_or_does_what_is_said(run: Run, tmp_path: Path) -> None:
    trained(config(run, tmp_path, steps=2))
    before = reported(run)
    again = f"trainer.default_local_dir={tmp_path}/again"
    made = Trainer(config(run, tmp_path, again, steps=2), seed=1)
    with pytest.raises(ExistingRun, match="has been trained on before"):
        made.fit()
    made.seam.close()
    assert reported(run) == before
    trained(config(run, tmp_path, again, "+data.promptgps.on_existing=new", steps=2), seed=2)
    assert reported(run) == before
    second = Run(f"{run.name}-2", run.server, run.client, run.database)
    assert len(reported(second)) == len(before)


def test_what_cannot_be_is_told(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"row 0 of the data set has no extra_info\.name"):
        Trainer(config(run, tmp_path, "+data.promptgps.key=name"))


def test_the_example(run: Run, tmp_path: Path) -> None:
    told = program(
        str(ROOT / "examples/verl_curriculum.py"), folder=tmp_path, PROMPTGPS_URL=run.server.url
    )
    assert "data.sampler.class_name=PromptGPSSampler" in told
    assert run.client.run("verl-0.7-example").log_position == 3 * 16 * ROLLOUTS

"""verl's own V1 trainer on sums without any model.

Its data, replay buffer, queue and checkpoints are real.

Simulated are only the replies, in a real agent loop worker, and the workers that would save and
load weights.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import transfer_queue
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
from verl.trainer.ppo.v1 import AgentLoopWorkerTQ, PPOTrainer, get_trainer_cls

from tests.adapters.sums import KEYS, Run
from tests.adapters.verl_data import rows, tokenizer

ROLLOUTS = 4
ADAPTER = "promptgps_client.adapters.verl"


def config(
    run: Run, folder: Path, *overrides: str, mode: str = "sync", batch_size: int = 4
) -> DictConfig:
    """The configuration as `python -m verl.trainer.main_ppo` composes it."""
    buffer = "PromptGPSReplayBuffer" if mode == "sync" else "PromptGPSReplayBufferAsync"
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose(
            "ppo_trainer",
            [
                f"data.custom_cls.path=pkg://{ADAPTER}",
                "data.custom_cls.name=PromptGPSDataset",
                "data.dataloader_num_workers=0",
                f"+data.promptgps.run={run.name}",
                "+data.promptgps.spool='${trainer.default_local_dir}/promptgps'",
                "+data.promptgps.rollouts='${actor_rollout_ref.rollout.n}'",
                f"trainer.v1.sampler.custom_sampler.path=pkg://{ADAPTER}",
                f"trainer.v1.sampler.custom_sampler.name={buffer}",
                f"trainer.checkpoint_callback_class={ADAPTER}.PromptGPSCheckpoint",
                # Of the test:
                f"+data.promptgps.service={run.server.url}",
                "+data.promptgps.deadline=2.0",
                "+trainer.v1.sampler.sampler_kwargs.poll_interval=0.02",
                f"trainer.v1.trainer_mode={mode}",
                f"data.train_files={rows(folder, 'train', KEYS)}",
                f"data.val_files={rows(folder, 'val', KEYS[:4])}",
                f"data.train_batch_size={batch_size}",
                f"actor_rollout_ref.rollout.n={ROLLOUTS}",
                f"+data.cache_dir={folder}",
                "data.filter_overlong_prompts_workers=1",
                f"trainer.default_local_dir={folder}/checkpoints",
                "trainer.nnodes=1",
                *overrides,
            ],
        )


def trainer(config: DictConfig, replies: Replies) -> PPOTrainer:
    """A trainer as `TaskRunnerV1` makes it, as far as `init` needs no GPU."""
    made = get_trainer_cls(config.trainer.v1.trainer_mode)(config)
    made.tokenizer = tokenizer()
    made.processor = None
    made.use_critic = False
    made._init_dataloader()
    made.actor_rollout_wg = _Weights()
    made.agent_loop_manager = replies
    made._load_checkpoint()
    made.global_steps += 1
    made._reissue_inflight_prompts()
    made.on_train_begin()
    return made


def step(made: PPOTrainer) -> list[str]:
    """One step of `PPOTrainer.fit` but for the training.

    Answers the keys of the trajectories it would train on.
    """
    made.prepare_step()
    batch, _ = made.replay_buffer.sample(
        made.global_steps, "train", made.config.data.train_batch_size
    )
    transfer_queue.kv_clear(keys=batch.keys, partition_id="train")
    made.global_steps += 1
    return batch.keys


def killed(made: PPOTrainer, replies: Replies) -> None:
    """What a killed trainer leaves behind: checkpoints, and reports on disk or at the service."""
    replies.end()
    made.train_dataset.seam.close()
    clear()


def clear() -> None:
    """An empty queue."""
    for partition, items in (transfer_queue.kv_list() or {}).items():
        if items:
            transfer_queue.kv_clear(keys=list(items), partition_id=partition)


def save(made: PPOTrainer) -> None:
    """A checkpoint of the step before, as `fit` makes it at the end of a step."""
    made.global_steps -= 1
    Path(made.config.trainer.default_local_dir).mkdir(exist_ok=True)
    made._save_checkpoint()
    made.global_steps += 1


class Replies(AgentLoopWorkerTQ.__ray_metadata__.modified_class):  # type: ignore[misc]
    """Manager and worker of agent loops in one, whose model replies right or wrong by chance.

    Args:
        config: The trainer's.
        seed: Of the chance.
        fails: Whether a rollout fails, by the draw's number and the session.
        easy: Whether all rollouts of a draw are right, by its number.
        scored: Whether rewards are known as soon as a rollout ends.
    """

    def __init__(
        self,
        config: DictConfig,
        seed: int = 0,
        fails: Callable[[int, int], bool] = lambda *_: False,
        easy: Callable[[int], bool] = lambda _: False,
        scored: bool = True,
    ) -> None:
        self.config = config
        self.background_tasks = set()
        self._seed = seed
        self._fails = fails
        self._easy = easy
        self._scored = scored
        self.rewards: dict[tuple[int, int], float | None] = {}  # by draw and rollout
        self.versions: dict[int, int] = {}
        self.infos: list[dict[str, Any]] = []
        self._open = asyncio.Event()
        self._open.set()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def generate_sequences(self, prompts: Any) -> None:
        asyncio.run_coroutine_threadsafe(super().generate_sequences(prompts), self._loop).result()

    def hold(self) -> None:
        """Keep all replies back."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def release(self) -> None:
        self._loop.call_soon_threadsafe(self._open.set)

    def wait(self) -> None:
        """Until all prompts have ended."""
        asyncio.run_coroutine_threadsafe(asyncio.wait(self.background_tasks), self._loop).result()

    def end(self) -> None:
        """As a worker that is killed."""
        asyncio.run_coroutine_threadsafe(self._cancel(), self._loop).result()

    async def _cancel(self) -> None:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _run_agent_loop(
        self, sampling_params: Any, *, session_id: int, **prompt: Any
    ) -> None:
        await self._open.wait()
        info = prompt["extra_info"]
        draw = number(info["promptgps_draw_id"])
        self.infos.append(info)
        self.versions[draw] = prompt["global_steps"]
        if self._fails(draw, session_id):
            self.rewards[draw, session_id] = None
            raise RuntimeError("this rollout fails")
        reward = float(
            self._easy(draw) or Random(f"{self._seed}-{draw}-{session_id}").random() < 0.5
        )
        self.rewards[draw, session_id] = reward
        outputs = [
            AgentLoopOutput(
                prompt_ids=[1, 2],
                response_ids=[3, 4],
                response_mask=[1, 1],
                num_turns=2,
                metrics=AgentLoopMetrics(),
                reward_score=reward if self._scored else None,
                extra_fields={"reward_extra_info": {}},
            )
            for _ in range(1 + session_id % 2)  # some loops have several outputs
        ]
        del prompt["trajectory"], prompt["trace"]
        await self._agent_loop_postprocess(outputs, False, session_id=session_id, **prompt)

    async def _compute_score(self, outputs: Any, kwargs: Any) -> None: ...

    async def _compute_teacher_logprobs(self, *_: Any, **__: Any) -> None: ...

    def _compute_multi_modal_inputs(self, *_: Any) -> dict[str, Any]:
        return {}

    def _compute_position_ids(self, input_ids: Any, *_: Any) -> Any:
        return input_ids


def number(draw_id: str) -> int:
    return int(draw_id.split("-")[1] if draw_id.startswith("local-") else draw_id.rsplit("-", 1)[1])


class _Weights:
    def save_checkpoint(self, *_: Any, **__: Any) -> None: ...

    def load_checkpoint(self, *_: Any, **__: Any) -> None: ...

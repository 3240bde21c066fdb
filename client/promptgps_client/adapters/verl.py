"""verl 0.8 and later (V1 trainer): a dataset, a replay buffer and a callback.

The dataset draws, the replay buffer reports, and the callback marks the run.

```
data.custom_cls.path=pkg://promptgps_client.adapters.verl
data.custom_cls.name=PromptGPSDataset
data.dataloader_num_workers=0
+data.promptgps.run=exp-1
+data.promptgps.spool='${trainer.default_local_dir}/promptgps'
+data.promptgps.rollouts='${actor_rollout_ref.rollout.n}'
trainer.v1.sampler.custom_sampler.path=pkg://promptgps_client.adapters.verl
trainer.v1.sampler.custom_sampler.name=PromptGPSReplayBuffer      # or PromptGPSReplayBufferAsync
trainer.checkpoint_callback_class=promptgps_client.adapters.verl.PromptGPSCheckpoint
```

All three live in the trainer's own process. A draw's id travels in `extra_info`, through agent
loops and TransferQueue.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import isfinite
from typing import Any, ClassVar

import transfer_queue
from omegaconf import DictConfig, OmegaConf
from tensordict import NonTensorData
from verl.trainer.ppo.checkpoint_callback import CheckpointCallback
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync
from verl.utils.dataset.rl_dataset import RLHFDataset

from promptgps_client.adapters.rows import prompts
from promptgps_client.adapters.seam import DRAW_ID, Seam
from promptgps_client.wire import Status

KEY = "promptgps_key"
ROLLOUTS = "promptgps_rollouts"
PARTITION = "train"
# What verl gives to its own buffers alone, and ours take from `sampler_kwargs`.
STOCK = (
    "poll_interval",
    "filter_groups_metric",
    "train_batch_size",
    "gen_batch_size",
    "max_inflight_gen_batches",
    "sync_refill_failed_groups",
)


@dataclass(frozen=True)
class Group:
    """What came of a draw: rewards by session, and what is to be said of sessions without one."""

    draw_id: str
    rollouts: int
    rewards: Mapping[int, float]
    missing: Status
    policy_version: int | None

    def rows(self) -> Iterator[tuple[str, int, float | None, Status, int | None]]:
        """Draw, rollout, reward, status and version of each rollout."""
        for session in range(self.rollouts):
            reward = self.rewards.get(session)
            status = self.missing if reward is None else "ok" if isfinite(reward) else "error"
            yield (
                self.draw_id,
                session,
                reward if status == "ok" else None,
                status,
                self.policy_version,
            )


class PromptGPSDataset(RLHFDataset):
    """verl's dataset: training rows come in the order of the draws, whatever index is asked for.

    The data set made of `val_files` is verl's own. The position and the selector's state are in the
    state of the data loader; when that is loaded the run is put back to the snapshot that was taken
    beside it.

    `data.promptgps` has `run`, `spool`, and perhaps `service` (default: the environment's
    PROMPTGPS_URL), `key` (where a row has its prompt's key, default `extra_info.index`), `pool`
    (where the run has several pools: a column with their names or a field in one, the name of the
    one pool of all rows, or a mapping to pools from the values of `data_source`), `batch_size`
    (draws asked for at once, default `data.train_batch_size`), and any other setting of `Selector`,
    such as `on_existing`.

    Raises:
        ValueError: Keys or settings contradict each other, or are not those of the run.
    """

    training: ClassVar[PromptGPSDataset | None] = None  # the one that this process trains on

    def __init__(
        self, data_files: Any, tokenizer: Any, config: DictConfig, *others: Any, **named: Any
    ) -> None:
        super().__init__(data_files, tokenizer, config, *others, **named)
        self._seam: Seam | None = None

        if data_files != config.train_files:
            return
        if config.train_files == config.val_files:
            raise ValueError(
                "train_files and val_files are the same: which rows are for training cannot be told"
            )
        if config.dataloader_num_workers:
            raise ValueError(
                "data.dataloader_num_workers must be 0: draws are made in the trainer's own process"
            )

        settings: dict[str, Any] = OmegaConf.to_container(config.promptgps, resolve=True)
        names = prompts(
            self.dataframe, settings.pop("key", "extra_info.index"), settings.pop("pool", None)
        )
        settings.setdefault("batch_size", config.train_batch_size)
        self._seam = Seam(prompts=names, **settings)
        _ = self._seam.selector  # what cannot be is told here, not in the middle of a start
        self._position = 0
        self.open: dict[str, int] = {}  # draws without an outcome, and their rollouts
        PromptGPSDataset.training = self

    @property
    def seam(self) -> Seam:
        """To the service."""
        if self._seam is None:
            raise ValueError("this is the data set for validation")
        return self._seam

    def __getitem__(self, item: int) -> dict[str, Any]:
        if self._seam is None:
            return super().__getitem__(item)  # type: ignore[no-any-return]

        draw = next(self._seam.selector.draws(self._position))
        self._position += 1
        self.open[draw.draw_id] = draw.rollouts
        told: dict[str, Any] = super().__getitem__(draw.index)
        told["extra_info"] |= {DRAW_ID: draw.draw_id, KEY: draw.prompt, ROLLOUTS: draw.rollouts}
        told["__rollout_n__"] = draw.rollouts

        return told

    def report(self, groups: Sequence[Group]) -> None:
        """Report whole groups; their draws are open no more."""
        draw_id, rollout_index, reward, status, versions = zip(
            *chain(*(group.rows() for group in groups)), strict=True
        )
        self.seam.selector.report(
            draw_id,
            reward=reward,
            rollout_index=rollout_index,
            status=status,
            policy_version=None if None in versions else versions,
        )

        for group in groups:
            self.open.pop(group.draw_id, None)

    @property
    def tag(self) -> str:
        """Of the snapshot that belongs to the state as it is now."""
        return f"draw-{self._position}"

    def state_dict(self) -> dict[str, Any]:
        """For the data loader's."""
        if self._seam is None:
            return {}

        return {
            "position": self._position,
            "tag": self.tag,
            "selector": self._seam.selector.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put data set and run back, before the first row is read."""
        if self._seam is not None and state:
            self._position = state["position"]
            self.open.clear()
            self._seam.selector.load_state_dict(state["selector"])
            self._seam.restore(state["tag"])


class PromptGPSCheckpoint(CheckpointCallback):
    """Marks the run beside each checkpoint.

    Going back is the data set's part: there is no event for it.
    """

    def on_save(self, trainer: Any, **_: Any) -> None:
        """The state of the data loader has just been written, and names this snapshot."""
        # reports what has ended, and is saved as ended
        trainer.replay_buffer._sync_metadata_from_transfer_queue()
        dataset: PromptGPSDataset = trainer.train_dataset
        dataset.seam.flush()
        dataset.seam.snapshot(dataset.tag)


class _Reporting(ReplayBuffer):
    """Reports each training group when it is first seen to have ended, whatever becomes of it then.

    Rewards are the sums of `rm_scores`, the policy version is the trainer's step at dispatch. A
    rollout without output is an `error` in a group that failed, and `cancelled` in one that
    finished.
    """

    def __init__(self, *, sampler_kwargs: DictConfig, **given: Any) -> None:
        stock = {name: sampler_kwargs[name] for name in STOCK if name in sampler_kwargs}
        super().__init__(sampler_kwargs=sampler_kwargs, **given, **stock)

        if (self.trainer_mode == "sync") == isinstance(self, ReplayBufferAsync):
            raise ValueError(f"{type(self).__name__} is not for trainer_mode {self.trainer_mode}")

        self._seen: set[str] = set()

    def _sync_metadata_from_transfer_queue(self) -> None:
        super()._sync_metadata_from_transfer_queue()
        ended = self.finished_keys[PARTITION] | self.failure_keys[PARTITION]
        groups = self._groups(ended - self._seen)
        self._seen = ended

        if (
            self.trainer_mode == "sync"
            and not self.pending_keys[PARTITION] | self.running_keys[PARTITION]
        ):
            groups += self._lost({group.draw_id for group in groups})

        if groups:
            _dataset().report(groups)

    def _groups(self, uids: set[str]) -> list[Group]:
        """Groups that have ended, as far as TransferQueue has something of them."""
        outputs = _last_outputs(self.partitions[PARTITION], uids)
        last = [key for sessions in outputs.values() for key in sessions.values()]
        infos = dict(zip(last, _stored(last, "extra_info"), strict=True))
        scores = dict(zip(last, _stored(last, "rm_scores"), strict=True))
        groups = []

        for uid, sessions in outputs.items():
            rewards = {session: float(scores[key].sum()) for session, key in sessions.items()}
            groups.append(self._group(uid, infos[next(iter(sessions.values()))], rewards))

        if self.trainer_mode != "sync":  # which stores the prompts too
            silent = sorted(uids - outputs.keys())
            prompts = zip(silent, _stored(silent, "extra_info"), strict=True)
            groups += [self._group(uid, info, {}) for uid, info in prompts]

        return [group for group in groups if group is not None]

    def _group(self, uid: str, info: Mapping[str, Any], rewards: dict[int, float]) -> Group | None:
        """One group; None where the prompt was not drawn by us.

        An example is a queue restored from an older checkpoint.
        """
        if DRAW_ID not in info:
            return None

        missing: Status = "error" if uid in self.failure_keys[PARTITION] else "cancelled"
        version = self.prompt_global_steps[PARTITION][uid]
        return Group(info[DRAW_ID], info[ROLLOUTS], rewards, missing, version)

    def _lost(self, told: set[str]) -> list[Group]:
        """With nothing in flight, the draws with nothing stored: all their rollouts have failed."""
        version = max(self.prompt_global_steps[PARTITION].values(), default=None)
        lost = {
            draw_id: rollouts
            for draw_id, rollouts in _dataset().open.items()
            if draw_id not in told
        }

        return [
            Group(draw_id, rollouts, {}, "error", version) for draw_id, rollouts in lost.items()
        ]


class PromptGPSReplayBuffer(_Reporting):
    """For `trainer.v1.trainer_mode=sync`."""


class PromptGPSReplayBufferAsync(_Reporting, ReplayBufferAsync):
    """For the asynchronous modes."""


def _dataset() -> PromptGPSDataset:
    if PromptGPSDataset.training is None:
        raise RuntimeError(
            "nothing is drawn here: data.custom_cls must name PromptGPSDataset, by its pkg:// path"
        )
    return PromptGPSDataset.training


def _last_outputs(trajectories: Iterable[str], uids: set[str]) -> dict[str, dict[int, str]]:
    """Of the trajectories {uid}_{session}_{output} the last of each session, by group and session.

    The last one has the score.
    """
    last: dict[str, dict[int, tuple[int, str]]] = defaultdict(dict)
    for key in trajectories:
        uid, session, output = key.rsplit("_", 2)
        if uid in uids:
            last[uid][int(session)] = max(last[uid].get(int(session), (-1, "")), (int(output), key))

    return {uid: {session: key for session, (_, key) in told.items()} for uid, told in last.items()}


def _stored(entries: list[str], field: str) -> list[Any]:
    """One field of each entry of TransferQueue."""
    if not entries:
        return []

    told = transfer_queue.kv_batch_get(keys=entries, partition_id=PARTITION, select_fields=[field])
    if field not in told:
        raise RuntimeError(
            f"groups have ended without {field}: a reward model that shares the trainer's GPUs "
            "scores them later, it needs reward.reward_model.enable_resource_pool=true"
        )

    return [entry.data if isinstance(entry, NonTensorData) else entry for entry in told[field]]

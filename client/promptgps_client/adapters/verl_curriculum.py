"""verl up to 0.7.1: a curriculum sampler, which verl asks for the order of prompts and tells the trained batch.

```
data.sampler.class_path=pkg://promptgps_client.adapters.verl_curriculum
data.sampler.class_name=PromptGPSSampler
data.dataloader_num_workers=0
+data.promptgps.run=exp-1
+data.promptgps.spool='${trainer.default_local_dir}/promptgps'
+data.promptgps.rollouts='${actor_rollout_ref.rollout.n}'
```
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from verl import DataProto
from verl.experimental.dataset.sampler import AbstractCurriculumSampler

from promptgps_client.adapters.rows import keys
from promptgps_client.adapters.seam import Seam

_log = logging.getLogger(__name__)

OPEN = 4  # draws of a prompt that are remembered without an outcome; groups that a filter dropped never get one


class PromptGPSSampler(AbstractCurriculumSampler):
    """Rows in the order of the draws, an epoch at a time.

    Its state is in the data loader's, and names a snapshot of the run, which is taken as the state is asked for; the
    run is put back to it when the state is loaded. verl asks before it tells the batch of the step, so that step's
    outcomes come after the snapshot.

    `data.promptgps` has `run`, `spool`, and perhaps `service` (default: the environment's PROMPTGPS_URL), `key` (field
    of `extra_info` with the prompt's key, default `index`), `batch_size` (draws asked for at once, default
    `data.gen_batch_size` or `data.train_batch_size`), and any other setting of `Selector`.

    Raises:
        ValueError: Keys or settings contradict each other.
    """

    def __init__(self, data_source: Any, data_config: DictConfig) -> None:
        settings: dict[str, Any] = OmegaConf.to_container(data_config.promptgps, resolve=True)
        self._field = settings.pop("key", "index")
        prompts = list(keys(data_source.dataframe, f"extra_info.{self._field}"))
        fetched: int = data_config.get("gen_batch_size") or data_config.train_batch_size
        self._epoch = len(prompts) // fetched * fetched  # the loader drops the rest
        self._batch_size = settings.setdefault("batch_size", fetched)
        self._seam = Seam(prompts=prompts, **settings)
        self._position = 0
        self._open: dict[str, list[tuple[str, int]]] = {}  # by key: draws and their sequences

    def __len__(self) -> int:
        return self._epoch

    def __iter__(self) -> Iterator[int]:
        end = (self._position // self._epoch + 1) * self._epoch
        while self._position < end:
            sequence, row = divmod(self._position, self._batch_size)
            draw = self._seam.selector.batch_at(sequence, policy_version=sequence)[row]
            self._position += 1
            self._open[draw.prompt] = [*self._open.get(draw.prompt, []), (draw.draw_id, sequence)][-OPEN:]
            yield draw.index

    def update(self, batch: DataProto) -> None:
        """Report the rewards of a trained batch, before penalties; a group belongs to its prompt's last draw."""
        rewards = batch.batch["token_level_scores"].sum(dim=-1).tolist()
        infos = batch.non_tensor_batch["extra_info"]
        drawn: dict[str, tuple[str, int]] = {}
        rows = []
        for uid, info, reward in zip(batch.non_tensor_batch["uid"], infos, rewards, strict=True):
            if uid not in drawn:
                if not (waiting := self._open.get(str(info[self._field]))):
                    continue
                drawn[uid] = waiting.pop()
            rows.append((*drawn[uid], reward))
        if rows:
            draw_id, versions, reward = zip(*rows, strict=True)
            self._seam.selector.report(draw_id, reward=reward, policy_version=versions)
        if unknown := len(rewards) - len(rows):
            _log.warning("%d rollouts of prompts that were not drawn in this process are not reported", unknown)

    def state_dict(self) -> dict[str, Any]:
        """For the data loader's, with a snapshot beside it."""
        tag = f"draw-{self._position}"
        self._seam.flush()
        self._seam.snapshot(tag)
        selector = self._seam.selector.state_dict()
        return {"position": self._position, "open": self._open, "tag": tag, "selector": selector}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put sampler and run back, before the first prompt is asked for."""
        self._position = state["position"]
        self._open = {key: list(draws) for key, draws in state["open"].items()}
        self._seam.selector.load_state_dict(state["selector"])
        self._seam.restore(state["tag"])

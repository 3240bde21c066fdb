"""verl up to 0.7.1: a curriculum sampler.

verl asks it for the order of prompts and tells it the trained batch.

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

from promptgps_client.adapters.rows import DATA_SOURCE, key_of, pool_of, prompts
from promptgps_client.adapters.seam import Seam

_log = logging.getLogger(__name__)

INFO = "extra_info"
# Draws of a prompt that are remembered without an outcome; groups that a filter dropped never get
# one.
OPEN = 4


class PromptGPSSampler(AbstractCurriculumSampler):
    """Rows in the order of the draws, an epoch at a time.

    Its state is in the data loader's, and names a snapshot of the run, which is taken as the state
    is asked for; the run is put back to it when the state is loaded. verl asks before it tells the
    batch of the step, so that step's outcomes come after the snapshot.

    `data.promptgps` has `run`, `spool`, and perhaps `service` (default: the environment's
    PROMPTGPS_URL), `key` (field of `extra_info` with the prompt's key, default `index`), `pool`
    (where the run has several pools: the field of `extra_info` with their names, or `data_source`;
    the name of the one pool of all rows; or a mapping to pools from the values of `data_source`),
    `batch_size` (draws asked for at once, default `data.gen_batch_size` or
    `data.train_batch_size`), and any other setting of `Selector`, such as `on_existing`.

    Raises:
        ValueError: Keys or settings contradict each other, or are not those of the run.
    """

    def __init__(self, data_source: Any, data_config: DictConfig) -> None:
        settings: dict[str, Any] = OmegaConf.to_container(data_config.promptgps, resolve=True)
        self._field = settings.pop("key", "index")

        self._pool = settings.pop("pool", None)
        pool = None
        if isinstance(self._pool, str) and self._pool in data_source.dataframe[0][INFO]:
            pool = f"{INFO}.{self._pool}"

        names = prompts(data_source.dataframe, f"{INFO}.{self._field}", pool or self._pool)
        self._pool_is_field = pool is not None
        fetched: int = data_config.get("gen_batch_size") or data_config.train_batch_size
        self._epoch = len(names) // fetched * fetched  # the loader drops the rest
        self._batch_size = settings.setdefault("batch_size", fetched)
        self._seam = Seam(prompts=names, **settings)
        _ = self._seam.selector  # what cannot be is told here, not in the middle of a start
        self._position = 0
        self._open: dict[str, list[tuple[str, int]]] = {}  # by prompt: draws and their sequences

    def __len__(self) -> int:
        return self._epoch

    def __iter__(self) -> Iterator[int]:
        end = (self._position // self._epoch + 1) * self._epoch
        while self._position < end:
            sequence, row = divmod(self._position, self._batch_size)
            draw = self._seam.selector.batch_at(sequence, policy_version=sequence)[row]
            self._position += 1
            name = draw.prompt if self._pool is None else f"{draw.pool}:{draw.prompt}"
            self._open[name] = [*self._open.get(name, []), (draw.draw_id, sequence)][-OPEN:]
            yield draw.index

    def update(self, batch: DataProto) -> None:
        """Report the rewards of a trained batch, before penalties.

        A group belongs to its prompt's last draw.
        """
        rewards = batch.batch["token_level_scores"].sum(dim=-1).tolist()
        columns = batch.non_tensor_batch
        sources = columns.get(DATA_SOURCE, [None] * len(rewards))
        drawn: dict[str, tuple[str, int]] = {}
        rows = []

        for uid, info, source, reward in zip(
            columns["uid"], columns[INFO], sources, rewards, strict=True
        ):
            if uid not in drawn:
                if not (waiting := self._open.get(self._name(info, source))):
                    continue
                drawn[uid] = waiting.pop()
            rows.append((*drawn[uid], reward))

        if rows:
            draw_id, versions, reward = zip(*rows, strict=True)
            self._seam.selector.report(draw_id, reward=reward, policy_version=versions)

        if unknown := len(rewards) - len(rows):
            _log.warning(
                "%d rollouts of prompts that were not drawn in this process are not reported",
                unknown,
            )

    def _name(self, info: Mapping[str, Any], source: Any) -> str:
        """Name of a trained row's prompt."""
        key = key_of(info[self._field], "a trained row", self._field)
        if self._pool is None:
            return key
        if self._pool == DATA_SOURCE:
            return f"{source}:{key}"
        if isinstance(self._pool, Mapping):
            return f"{pool_of(source, self._pool, 'a trained row')}:{key}"

        return f"{info[self._pool] if self._pool_is_field else self._pool}:{key}"

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

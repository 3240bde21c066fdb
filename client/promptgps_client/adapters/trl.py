"""TRL's `GRPOTrainer` and `RLOOTrainer`: prompts come from the service, rewards go there.

```python
selection = PromptSelection(dataset, config, run="exp-1")
GRPOTrainer(model, selection.reported(reward), config, selection.stream, callbacks=[selection])
```

Where a rollout belongs is known from TRL's order. The stream's rows are repeated to generation
batches, each prompt `num_generations` times in a row, and each rank keeps a contiguous slice of
equal length (trl `repeat_iterable_dataset`, accelerate `IterableDatasetShard`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from inspect import iscoroutinefunction
from itertools import count
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset, IterableDataset
from torch.nn import Module
from transformers import TrainerCallback, TrainerState, TrainingArguments
from trl import GRPOConfig, RLOOConfig

from promptgps_client.adapters.rows import Pools, prompts
from promptgps_client.adapters.seam import DRAW_ID, Seam
from promptgps_client.errors import PromptGPSError
from promptgps_client.selector import Course

STATE = "promptgps"  # in the state that the trainer keeps with a checkpoint
RewardFunction = Callable[..., Any]


class PromptSelection(TrainerCallback):
    """Selection of prompts for one training.

    It has to be among the trainer's callbacks: it marks the run with each checkpoint, and puts it
    back to the one that training goes on from. It turns `shuffle_dataset` off in the configuration:
    the stream is in order.

    Training again from the start, with a run that has been trained on, is stopped (`ExistingRun`)
    on all ranks, unless `on_existing` says what is meant. Which run a training is in, as
    `on_existing="new"` may have opened it, is in the trainer's own checkpoints.

    Args:
        dataset: Rows as the trainer takes them, with a column of their prompts' keys.
        args: The trainer's configuration. It needs `max_steps`, as with every stream.
        run: The run's name.
        key: Name of that column, or of a field in one (`extra_info.index`): strings or whole
            numbers.
        pool: Where the run has several pools: a column with the pools' names, or the name of the
            one of all rows.
        service: Address of the service; default: the environment's PROMPTGPS_URL.
        spool: Folder for reports on their way; default: `promptgps` in `output_dir`.
        settings: Others of `Selector`, such as `on_existing`, `wait_seconds`, `deadline` or
            `fallback`.

    Raises:
        ValueError: Keys or settings contradict each other, or are not those of the run.
    """

    def __init__(
        self,
        dataset: Dataset,
        args: GRPOConfig | RLOOConfig,
        *,
        run: str,
        key: str = "key",
        pool: Pools = None,
        service: str | None = None,
        spool: str | Path | None = None,
        **settings: Any,
    ) -> None:
        if args.remove_unused_columns:
            raise ValueError(
                "remove_unused_columns must be off: rewards are reported by a column of the stream"
            )

        args.shuffle_dataset = False
        self._args = args
        self._reported = False
        self._seam = Seam(
            service,
            run=run,
            spool=spool or Path(args.output_dir) / "promptgps",
            prompts=prompts(dataset, key, pool),
            batch_size=args.generation_batch_size // args.num_generations,
            rollouts=args.num_generations,
            **settings,
        )

        _ = self._seam.selector  # what cannot be is told here, not in the middle of a start
        self._rows = _Rows(self._seam, dataset, args)
        self.stream = IterableDataset.from_generator(self._rows)

    def reported(self, reward: RewardFunction) -> RewardFunction:
        """The same reward function, sync or async, whose rewards in training are reported.

        None is no evidence.

        Raises:
            TypeError: It is a reward model.
            ValueError: Another one is reported already: a rollout has one outcome.
        """
        if isinstance(reward, str | Module):
            raise TypeError("a reward model cannot be reported, only a function")
        if self._reported:
            raise ValueError(
                "one reward is reported already; for a sum of several give one function that adds "
                "them"
            )

        self._reported = True

        def scored(**columns: Any) -> Any:
            return self._report(columns, reward(**columns))

        async def scored_later(**columns: Any) -> Any:
            return self._report(columns, await reward(**columns))

        wrapper: RewardFunction = scored_later if _is_async(reward) else scored
        # the trainer's metrics go by it
        wrapper.__name__ = getattr(reward, "__name__", type(reward).__name__)
        return wrapper

    def _report(
        self, columns: dict[str, Any], rewards: Sequence[float | None]
    ) -> Sequence[float | None]:
        if DRAW_ID in columns:  # else the rows are not from the stream, but of an evaluation
            draw_id = columns[DRAW_ID]
            first = self._args.process_index * len(draw_id)
            self._seam.selector.report(
                draw_id,
                reward=[None if reward is None else float(reward) for reward in rewards],
                rollout_index=[
                    at % self._args.num_generations for at in range(first, first + len(draw_id))
                ],
                policy_version=columns["trainer_state"].global_step,
            )

        return rewards

    # ---- the trainer's events --------------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any
    ) -> None:
        """Put the run back to the checkpoint that training goes on from."""
        if state.global_step:
            course = state.stateful_callbacks.get(STATE)
            self._seam.follow(Course(**course) if course else self._seam.course)
            if args.process_index == 0:
                self._seam.restore(_tag(state))
        self._rows.begin(state.global_step if args.ignore_data_skip else 0)

    def on_step_end(
        self, _args: TrainingArguments, state: TrainerState, *_: Any, **__: Any
    ) -> None:
        """Let the next checkpoint know which run it is of."""
        state.stateful_callbacks[STATE] = asdict(self._seam.course)

    def on_save(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Mark the run, once all ranks have reported."""
        self._seam.flush()
        PartialState().wait_for_everyone()
        if args.process_index == 0:
            self._seam.snapshot(_tag(state))

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Deliver the last reports."""
        self._seam.close()


class _Rows:
    """The stream's generator: rows in the order of the draws, without end, the same on all ranks.

    One rank asks and the others are told, since two ranks that ask while the service fails could be
    given different draws, and a group may be spread over ranks. All ranks read at the same point of
    the trainer's loop.
    """

    def __init__(self, seam: Seam, dataset: Dataset, args: GRPOConfig | RLOOConfig) -> None:
        self._seam = seam
        self._dataset = dataset
        self._asks = args.process_index == 0
        # by the trainer, of each sequence
        self._batches_read = args.steps_per_generation * args.num_iterations
        self._batches_in_step = args.gradient_accumulation_steps
        self._first = 0

    def begin(self, global_step: int) -> None:
        """Begin with the first sequence that no step before this one has rolled out."""
        self._first = -(-global_step * self._batches_in_step // self._batches_read)

    def __call__(self) -> Iterator[dict[str, Any]]:
        for sequence in count(self._first):
            for draw_id, index in self._draws(sequence):
                yield {**self._dataset[index], DRAW_ID: draw_id}

    def _draws(self, sequence: int) -> Iterator[tuple[str, int]]:
        news: list[Any] = [self._asked(sequence) if self._asks else None]
        broadcast_object_list(news)
        if isinstance(news[0], Exception):  # else the others would wait for draws for ever
            raise news[0]

        course, *columns = news[0]
        if not self._asks and course != self._seam.course:
            self._seam.follow(course)
        return zip(*columns, strict=True)

    def _asked(self, sequence: int) -> tuple[Course, list[str], list[int]] | Exception:
        # the step that rolls it out; the same when read again
        step = sequence * self._batches_read // self._batches_in_step
        try:
            batch = self._seam.selector.batch_at(sequence, policy_version=step)
        except (PromptGPSError, ValueError) as refusal:
            return refusal
        return self._seam.course, batch.draw_id, batch.index


def _is_async(reward: RewardFunction) -> bool:
    return iscoroutinefunction(reward) or iscoroutinefunction(type(reward).__call__)


def _tag(state: TrainerState) -> str:
    return f"step-{state.global_step}"

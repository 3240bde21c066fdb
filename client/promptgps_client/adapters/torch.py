"""A `DataLoader` whose batches come from the service, for loops of one's own.

```python
loader = DataLoader(DrawnRows(dataset), batch_sampler=DrawSampler(selector, first=step))
for step, batch in enumerate(loader, step):
    rewards = roll_out(batch)
    selector.report(batch[DRAW_ID], reward=rewards, policy_version=step)
```
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any, Protocol

from torch.utils.data import Dataset, Sampler

from promptgps_client.adapters.seam import DRAW_ID
from promptgps_client.selector import Draw, Selector


class Rows(Protocol):
    """A data set in the order of the selector's prompts, whose rows are mappings."""

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


class DrawSampler(Sampler[list[Draw]]):
    """A batch sampler without end: the draws of one sequence after another.

    It stays in the process of the loop, so the loader may have workers; these only fetch rows. A
    loader with workers asks `prefetch_factor` × `num_workers` batches ahead, whose draws miss the
    outcomes of the batches between.

    Args:
        selector: What draws; its prompts are in the order of the data set. A training that begins
            anew is not to inherit an old run: `on_existing` of the selector says what is to be
            done, and a training that goes on from a checkpoint loads the selector's state.
        first: Sequence to begin with: the number of batches that a checkpoint's training has had.
        rank: Of this process, whose share of each batch it is.
        world_size: Of all that share the batches; every one asks, and is given the same draws.
    """

    def __init__(
        self, selector: Selector, first: int = 0, *, rank: int = 0, world_size: int = 1
    ) -> None:
        self._selector = selector
        self._first = first
        self._rank = rank
        self._world_size = world_size

    def __iter__(self) -> Iterator[list[Draw]]:
        for sequence in count(self._first):
            yield list(
                self._selector.batch_at(sequence, policy_version=sequence).part(
                    self._rank, self._world_size
                )
            )


class DrawnRows(Dataset[dict[str, Any]]):
    """A data set's rows, by draw, each with its draw's id as `DRAW_ID` and number of `rollouts`."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        return {**self._rows[draw.index], DRAW_ID: draw.draw_id, "rollouts": draw.rollouts}

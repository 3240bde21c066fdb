"""Subsets of a run's prompts as masks over its rows, those used last kept in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

KEPT = 8  # masks of one run: trainers that share it each have their own prompts


@dataclass(frozen=True)
class Mask:
    """A subset of a run's rows.

    Attributes:
        subset: its id.
        rows: bool[N].
        prompts: how many rows it has.
    """

    subset: str
    rows: Tensor
    prompts: int


class Masks:
    """Masks of one run, by id of the subset; usable from any thread."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Mask] = OrderedDict()

    def find(self, subset: str) -> Mask | None:
        """The mask of a subset, if it is kept."""
        with self._lock:
            if subset in self._kept:
                self._kept.move_to_end(subset)
            return self._kept.get(subset)

    def keep(self, subset: str, rows: NDArray[np.int64]) -> Mask:
        """Make the mask of a subset of those rows, ascending."""
        mask = torch.zeros(int(rows[-1]) + 1, dtype=torch.bool)
        mask[torch.from_numpy(rows)] = True
        return self._put(Mask(subset, mask.to(self._device), int(rows.size)))

    def over(self, mask: Mask, rows: int) -> Mask:
        """The mask over all ``rows`` rows of the run; those that have come since are not in it."""
        missing = rows - mask.rows.numel()
        if missing == 0:
            return mask
        return self._put(
            Mask(mask.subset, torch.nn.functional.pad(mask.rows, (0, missing)), mask.prompts)
        )

    def _put(self, mask: Mask) -> Mask:
        with self._lock:
            self._kept[mask.subset] = mask
            self._kept.move_to_end(mask.subset)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return mask

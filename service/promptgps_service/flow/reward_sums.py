"""Continuous rewards of single rollouts, summed by draw.

The sums are all that the log keeps of how soft a prompt's rewards are.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from promptgps_service.acquisition.softness import Groups, softness
from promptgps_service.store.records import GROUP, LogSlice


class RewardSums:
    """A reader of the log that sums the rewards of single rollouts by draw.

    Of a group that was reported as a whole only the sum is known, so it says nothing here. Sums are
    by draw and not by prompt, since only rewards of one policy can be compared, and since the order
    in which reports came must not matter.
    """

    def __init__(self) -> None:
        self._sums = np.zeros((3, 0))  # rollouts, Σ r, Σ r(1 − r), by draw
        self._made: tuple[tuple[int, int], Tensor] | None = None

    def add(self, part: LogSlice) -> None:
        """Take in outcomes; draws whose rollouts all failed say nothing."""
        told = (part.draw >= 0) & (part.rollout != GROUP) & (part.trials > 0)
        draw = part.draw[told]
        reward = part.successes[told]
        missing = int(draw.max(initial=-1)) + 1 - self._sums.shape[1]
        if missing > 0:
            self._sums = np.pad(self._sums, ((0, 0), (0, max(missing, self._sums.shape[1]))))

        for sums, values in zip(
            self._sums, (np.ones_like(reward), reward, reward * (1.0 - reward)), strict=True
        ):
            np.add.at(sums, draw, values)

    def softness(self, row: NDArray[np.int64], rows: int, position: int) -> Tensor:
        """ρ of every row, float64[N]; made once for a position of the log.

        Args:
            row: int[draws], the row of each draw.
            rows: N.
            position: up to which the log was read.
        """
        key = (rows, position)
        if self._made is None or self._made[0] != key:
            count, total, soft = self._sums[:, : row.size]
            groups = Groups(row[: count.size], count, total, soft)
            self._made = key, torch.from_numpy(softness(groups, rows))
        return self._made[1]

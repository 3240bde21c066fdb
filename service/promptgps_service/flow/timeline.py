"""How old an outcome is: how many steps were learned that newer policies had made."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

OLDEST = 256  # steps; ages stay below


class Timeline:
    """The newest policy version of each step learned so far.

    Ages are counted in steps, not in versions: the model's random walks move once a step, whether
    the trainer counts optimiser steps, or draws one prompt at a time and many draws make a step.
    """

    def __init__(self, versions: Iterable[int] = ()) -> None:
        self._versions = list(versions)[-(OLDEST - 1) :]

    def ages(self, versions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Steps learned of newer versions than each of these, int64[L], below ``OLDEST``."""
        learned = np.sort(np.array(self._versions, np.int64))
        return learned.size - np.searchsorted(learned, versions, side="right")

    def add(self, version: int) -> None:
        """A step was learned."""
        self._versions = [*self._versions, version][-(OLDEST - 1) :]

    def dump(self) -> str:
        """As text, for a stored model's metadata."""
        return json.dumps(self._versions)

    @classmethod
    def load(cls, text: str) -> Timeline:
        """What ``dump`` gave.

        Raises:
            ValueError: it is not that.
        """
        versions = json.loads(text)
        if not isinstance(versions, list) or not all(type(one) is int for one in versions):
            raise ValueError("a timeline is a list of whole numbers")
        return cls(versions)

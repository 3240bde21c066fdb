"""MoPPS (arXiv 2507.04632) as it stands inside a trainer: a dictionary of Beta records.

It is there to measure latency against.

`PerPrompt` walks its candidates in Python with a draw each, the way such samplers are written;
`Vectorised` is the strongest form of the same rule, whole arrays in numpy. Both pick the B draws
nearest the target.
"""

from __future__ import annotations

import numpy as np


class PerPrompt:
    """Beta records in a dictionary, one draw a candidate."""

    def __init__(self, prompts: int, seed: int) -> None:
        self._records = {str(index): (1.0, 1.0) for index in range(prompts)}
        self._random = np.random.default_rng(seed)

    def select(self, size: int, target: float = 0.5) -> list[str]:
        """The ``size`` prompts whose draw is nearest the target."""
        keys = list(self._records)
        draws = np.array([self._random.beta(*self._records[key]) for key in keys])
        return [keys[index] for index in np.argsort(np.abs(draws - target))[:size]]

    def observe(self, keys: list[str], successes: list[int], trials: int) -> None:
        """Add to the records."""
        for key, s in zip(keys, successes, strict=True):
            alpha, beta = self._records[key]
            self._records[key] = (alpha + s, beta + trials - s)


class Vectorised:
    """The same records as two arrays, all draws at once."""

    def __init__(self, prompts: int, seed: int) -> None:
        self._alpha = np.ones(prompts)
        self._beta = np.ones(prompts)
        self._random = np.random.default_rng(seed)

    def select(self, size: int, target: float = 0.5) -> list[int]:
        """The ``size`` prompts whose draw is nearest the target."""
        draws = self._random.beta(self._alpha, self._beta)
        nearest: list[int] = np.argpartition(np.abs(draws - target), size)[:size].tolist()
        return nearest

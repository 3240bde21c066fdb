"""Local draws for when the service does not answer, the same on every rank."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from random import Random
from statistics import median
from typing import Literal

Fallback = Literal["uniform", "scores"]

CANDIDATES = (
    8  # a pick, as in the service's default strategy: a greedy choice over the whole pool narrows
)
PREDICTION_WEIGHT = 4  # rollouts that a prediction counts for, beside those reported
LONGEST_REST = 30  # batches, and never more than a quarter of the pool


class LocalDraws:
    """Draws batches of `size` of `prompts` prompts, which it knows by their index.

    With `scores` it prefers, as the service does, the prompts whose group would most likely be
    mixed, by the success rate last predicted for them and what was reported since; a prompt that
    was never drawn counts as the middling one.
    """

    def __init__(self, kind: Fallback, prompts: int, size: int, seed: int) -> None:
        self._kind = kind
        self._prompts = prompts
        self._size = size
        self._seed = seed
        self._rest = min(LONGEST_REST, prompts // (4 * size))
        self.known: dict[int, tuple[float | None, int]] = {}

    def learn(
        self, sequence: int, indexes: Iterable[int], predicted: Iterable[float | None]
    ) -> None:
        """Remember what was drawn, when, and with which prediction."""
        if self._kind == "scores":
            for index, rate in zip(indexes, predicted, strict=True):
                # else an old batch is read again
                if self.known.get(index, (None, 0))[1] <= sequence:
                    self.known[index] = rate, sequence

    def report(self, index: int, successes: float, trials: int) -> None:
        """Move the success rate of a prompt that was drawn towards what came of it."""
        if index in self.known and trials:
            rate, sequence = self.known[index]
            before = PREDICTION_WEIGHT * (0.5 if rate is None else rate)
            self.known[index] = (before + successes) / (PREDICTION_WEIGHT + trials), sequence

    def predicted(self, index: int) -> float | None:
        """What is known of the success rate of a prompt."""
        return self.known.get(index, (None, 0))[0]

    def draw(self, sequence: int, rollouts: int) -> Sequence[int]:
        """Distinct indexes, in an order, from (seed, sequence) and what was learned alone."""
        random = Random(f"promptgps-{self._seed}-{sequence}")
        if self._kind == "uniform":
            return random.sample(range(self._prompts), self._size)

        candidates = random.sample(
            range(self._prompts), min(CANDIDATES * self._size, self._prompts)
        )
        worth = {
            index: mixed(rate, rollouts)
            for index, (rate, _) in self.known.items()
            if rate is not None
        }
        middling = median(worth.values()) if worth else 0.0
        resting = {index for index in candidates if self._rests(index, sequence)}
        ranked = sorted(
            candidates, key=lambda index: (index in resting, -worth.get(index, middling))
        )

        return ranked[: self._size]

    def _rests(self, index: int, sequence: int) -> bool:
        return index in self.known and 0 < sequence - self.known[index][1] <= self._rest

    def replacements(self, sequence: int, taken: Collection[int], count: int) -> list[int]:
        """Distinct indexes that are not taken, from (seed, sequence) alone.

        They are fewer where there are no more.
        """
        random = Random(f"promptgps-{self._seed}-{sequence}-instead")
        free = random.sample(range(self._prompts), min(len(taken) + count, self._prompts))
        return [index for index in free if index not in taken][:count]

    def state(self, label: Callable[[int], str]) -> dict[str, list[float | int | None]]:
        """What was learned, by the labels of the prompts, for a checkpoint."""
        return {label(index): list(known) for index, known in self.known.items()}

    def restore(
        self, state: Mapping[str, Sequence[float | int | None]], index_of: Mapping[str, int]
    ) -> None:
        """Take back a state; prompts that are no longer there are passed over."""
        told = {index_of[key]: entry for key, entry in state.items() if key in index_of}
        self.known = {index: (rate, int(sequence or 0)) for index, (rate, sequence) in told.items()}


def mixed(rate: float, rollouts: int) -> float:
    """Probability that a group is mixed, 1 − γⁿ − (1 − γ)ⁿ; a group of one counts as a pair."""
    n = max(rollouts, 2)
    return 1.0 - rate**n - (1.0 - rate) ** n

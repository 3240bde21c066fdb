"""The prompts of a run: a pool to learn from and a held-out set.

Both have a fixed mix of difficulties.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.rl.policy import Policy
from benchmarks.rl.tasks import ALL_FAMILIES, Prompt, draw_prompt

EASY = 0.97
HARD = 0.03
MIX = {"easy": 0.25, "medium": 0.35, "hard": 0.40}
"""Shares by the base policy's success rate p: above EASY, between, below HARD."""
HELD_OUT = 600
MOST_DRAWS = 600_000
"""Drawn prompts at most.

Where a policy leaves one class so rare that this many don't fill it, it can't be the base.
"""


@dataclass(frozen=True)
class Pool:
    """Prompts with the keys that the service knows them by.

    Positions in `prompts` are what selectors speak of.
    """

    prompts: tuple[Prompt, ...]
    keys: tuple[str, ...]

    @classmethod
    def of(cls, prompts: Sequence[Prompt]) -> Pool:
        """Keys are hashes of the texts, as a trainer without ids of its own would have them."""
        return cls(
            tuple(prompts), tuple(hashlib.sha256(p.text.encode()).hexdigest()[:20] for p in prompts)
        )

    def __len__(self) -> int:
        return len(self.prompts)


def difficulty_class(rates: NDArray[np.float64]) -> list[str]:
    """`easy`, `medium` or `hard` for each success rate."""
    return ["easy" if p > EASY else "hard" if p < HARD else "medium" for p in rates]


def draw(
    policy: Policy,
    size: int,
    seed: int,
    families: tuple[str, ...],
    exclude: frozenset[str] = frozenset(),
) -> list[Prompt]:
    """`size` different prompts in the mix MIX, otherwise uniform over `families` and levels.

    They come shuffled. Texts in `exclude` are not drawn. Prompts are drawn at random and kept while
    their class has room.
    """
    rng = random.Random(seed)
    room = {name: round(share * size) for name, share in MIX.items()}
    room["medium"] += size - sum(room.values())
    seen = set(exclude)

    kept = list[Prompt]()
    for _ in range(MOST_DRAWS // 2048):
        fresh = {
            p.text: p
            for p in (draw_prompt(rng, families) for _ in range(2048))
            if p.text not in seen
        }
        seen |= fresh.keys()
        prompts = list(fresh.values())

        for prompt, kind in zip(
            prompts, difficulty_class(policy.success_rates(prompts)), strict=True
        ):
            if room[kind] > 0:
                room[kind] -= 1
                kept.append(prompt)

        if len(kept) == size:
            rng.shuffle(kept)
            return kept

    raise ValueError(
        f"the base policy leaves too few prompts of some class: {room} of {size} are missing"
    )


def draw_sets(
    policy: Policy,
    size: int,
    families: tuple[str, ...] = ALL_FAMILIES,
    seed: int = 0,
    held_out: int = HELD_OUT,
) -> tuple[Pool, list[Prompt]]:
    """A pool and held-out prompts without overlap.

    The held-out prompts are the same for pools of any size.
    """
    test = draw(policy, held_out, 2 * seed + 1, families)
    return Pool.of(draw(policy, size, 2 * seed, families, frozenset(p.text for p in test))), test

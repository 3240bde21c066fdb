"""What the loop gets: draws with their ids, whoever drew them, and the ids of local draws."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

Source = Literal["service", "replay", "fallback"]

# After the policy version comes the key, or `:pool:` and the key; a pool's name has no colon.
_LOCAL = re.compile(r"local-\d+-\d+-(\d*)(?:-|:([^:]+):)(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Draw:
    """One prompt to roll out. The fields are those of `DrawnBatch`, one row of each."""

    draw_id: str
    prompt: str
    pool: str | None
    index: int
    rollouts: int
    predicted_success: float | None
    row: Any


@dataclass(frozen=True, slots=True)
class DrawnBatch:
    """The draws of one sequence, in order, as columns of equal length.

    Attributes:
        sequence: Number of the batch.
        source: `service`; `replay` where the service had answered this sequence before (another
            rank, or before a restart); `fallback` where the draws are local.
        draw_id: What outcomes are reported by; unique over the run, local draws included.
        prompt: Keys.
        pool: Of each prompt, where the run has several or the selector's prompts name theirs; else
            None.
        index: Where the keys stand in the selector's prompts.
        rollouts: n of each.
        predicted_success: Success rates; None where a local draw has none.
        row: What the selector's prompts map the keys to; None where they are only keys.
        warnings: What the service, or the fallback, wants the user to know.
    """

    sequence: int
    source: Source
    draw_id: list[str]
    prompt: list[str]
    pool: list[str | None]
    index: list[int]
    rollouts: list[int]
    predicted_success: list[float | None]
    row: list[Any]
    warnings: list[str]

    def __len__(self) -> int:
        return len(self.draw_id)

    def __getitem__(self, position: int) -> Draw:
        return Draw(**{field.name: getattr(self, field.name)[position] for field in fields(Draw)})

    def __iter__(self) -> Iterator[Draw]:
        return (self[position] for position in range(len(self)))

    def part(self, rank: int, world_size: int) -> DrawnBatch:
        """The draws of one of `world_size` ranks.

        They are contiguous; sizes differ by at most one; all ranks make the whole.

        Raises:
            ValueError: There is no such rank.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not one of {world_size}")

        rows = slice(len(self) * rank // world_size, len(self) * (rank + 1) // world_size)
        return replace(
            self, **{field.name: getattr(self, field.name)[rows] for field in fields(Draw)}
        )


class LocalDraw(NamedTuple):
    """What the id of a local draw says."""

    pool: str | None
    key: str
    policy_version: int | None


def local_id(
    sequence: int, position: int, policy_version: int | None, pool: str | None, key: str
) -> str:
    """Id of a local draw. It says all that its report needs, so that any process can report it."""
    version = "" if policy_version is None else policy_version
    return f"local-{sequence}-{position}-{version}{'-' if pool is None else f':{pool}:'}{key}"


def local_draw(draw_id: object) -> LocalDraw | None:
    """What a local draw's id says; None where the service drew."""
    parts = _LOCAL.fullmatch(draw_id) if isinstance(draw_id, str) else None
    return LocalDraw(parts[2], parts[3], int(parts[1]) if parts[1] else None) if parts else None

"""Look-ups of many values: as many in one query as every database takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

LOOKUP = 8_192  # bound parameters in one query; SQLite takes 32,766, PostgreSQL 65,535


def in_parts(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """The values, ``LOOKUP`` at a time."""
    for start in range(0, len(values), LOOKUP):
        yield values[start : start + LOOKUP]

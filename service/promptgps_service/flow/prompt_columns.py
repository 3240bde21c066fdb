"""Prompts on their way in: the columns of one chunk, whatever format they came in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class PromptChunk:
    """Columns of M rows side by side; a column that was not sent is None.

    Attributes:
        first_row: place of the first row in the whole request, for errors.
        vectors: float32[M, d].
    """

    first_row: int
    keys: list[str] | None = None
    texts: list[str] | None = None
    vectors: np.ndarray | None = None
    domains: list[str | None] | None = None
    prior_successes: list[float | None] | None = None
    prior_trials: list[float | None] | None = None

    @property
    def columns(self) -> dict[str, Sequence[Any] | np.ndarray]:
        """The columns that are there, by name."""
        found = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name != "first_row"
        }
        return {name: column for name, column in found.items() if column is not None}

    @property
    def rows(self) -> int:
        """M."""
        return len(next(iter(self.columns.values()), ()))

    def parts(self, rows: int) -> Iterator[PromptChunk]:
        """The same columns in pieces of at most ``rows`` rows."""
        for start in range(0, self.rows, rows):
            piece: dict[str, Any] = {
                name: column[start : start + rows] for name, column in self.columns.items()
            }
            yield replace(self, first_row=self.first_row + start, **piece)

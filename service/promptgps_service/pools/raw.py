"""Columns on their way from a file.

Here is what its first row settles, and chunks bounded by rows and by bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from promptgps_service.errors import Fault, Invalid, TooMuch
from promptgps_service.pools.mapping import nothing_to_embed

CHUNK_ROWS = 4_096
# So that a chunk is embedded and stored in a moment, after which others have their turn.
CHUNK_BYTES = 2**20
ROW_BYTES = 64  # that a row takes besides its texts and its vector
MAX_VALUE = float(np.finfo(np.float32).max)  # of a number in a vector

Vectors: TypeAlias = NDArray[np.float32]
Values: TypeAlias = Mapping[str, list[Any] | Vectors | None]


@dataclass(frozen=True)
class Bounds:
    """What one file may bring.

    Attributes:
        key: characters of a key; `text` and `domain` alike.
        dimension: numbers of a vector.
        unpacked: bytes of all rows together; None where nothing is packed.
    """

    key: int
    text: int
    domain: int
    dimension: int
    unpacked: int | None = None


@dataclass(frozen=True)
class RawChunk:
    """Values of M rows by field; a field without a value in any of them is None.

    Attributes:
        vector: float32[M, d].
    """

    rows: int
    key: list[str] | None = None
    text: list[str] | None = None
    vector: Vectors | None = None
    domain: list[str | None] | None = None
    prior_successes: list[float | None] | None = None
    prior_trials: list[float | None] | None = None


class Assembly:
    """Makes chunks of what a file's parser read, and holds what its first row settled for it.

    Attributes:
        rows: how many rows have gone by; the next one's number.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.rows = 0
        self._bounds = bounds
        self._settled: dict[str, bool] = {}
        self._dimension: int | None = None
        self._unpacked = 0

    def chunks(self, values: Values, rows: int, columns: Sequence[str]) -> Iterator[RawChunk]:
        """The next rows.

        Args:
            values: by field, a list with None for what is missing; vectors as lists or
                float32[M, d].
            rows: M.
            columns: of the file, for the refusal where none of them is text or vector.

        Raises:
            Invalid: a row has not what the first one has; a value is longer than any; all together
                are.
        """
        present = {
            name: self._present(name, values.get(name), rows) for name in ("key", "text", "vector")
        }
        if not present["text"] and not present["vector"]:
            raise nothing_to_embed(columns, self.rows)

        kept = {name: column for name, column in values.items() if present.get(name, _any(column))}
        self._bound_strings(kept)
        if "vector" in kept:
            kept["vector"] = self._vectors(kept["vector"])
        yield from self._split(RawChunk(rows, **kept))  # type: ignore[arg-type]

    def _present(self, name: str, column: list[Any] | Vectors | None, rows: int) -> bool:
        """Whether a column is there, by the file's first row; refuse the first row that differs."""
        there = (
            [value is not None for value in column]
            if isinstance(column, list)
            else [column is not None] * rows
        )
        settled = self._settled.setdefault(name, there[0])
        if not all(here is settled for here in there):
            detail = (
                "is missing here, but row 0 has it" if settled else "is here, but row 0 has none"
            )
            raise Invalid.at(name, detail, self.rows + there.index(not settled))

        return settled

    def _bound_strings(self, values: Values) -> None:
        for name, most in (
            ("key", self._bounds.key),
            ("text", self._bounds.text),
            ("domain", self._bounds.domain),
        ):
            for row, value in enumerate(values.get(name) or ()):
                if value is not None and len(value) > most:
                    raise Invalid.at(
                        name,
                        f"must not be over {most} characters, not {len(value)}",
                        self.rows + row,
                    )

    def _vectors(self, column: list[Any] | Vectors | None) -> Vectors:
        assert column is not None
        vectors = (
            column
            if isinstance(column, np.ndarray)
            else vectors_from_lists(
                column, field="vector", first_row=self.rows, most=self._bounds.dimension
            )
        )
        self._dimension = self._dimension or vectors.shape[1]
        if vectors.shape[1] != self._dimension:
            detail = f"has {vectors.shape[1]} numbers, but row 0 has {self._dimension}"
            raise Invalid.at("vector", detail, self.rows)

        return vectors

    def _split(self, chunk: RawChunk) -> Iterator[RawChunk]:
        """The same rows in chunks of at most `CHUNK_ROWS` and, save single rows, `CHUNK_BYTES`."""
        ends = np.cumsum(_sizes(chunk))
        start = 0

        while start < chunk.rows:
            before = int(ends[start - 1]) if start else 0
            stop = int(np.searchsorted(ends, before + CHUNK_BYTES, side="right"))
            stop = min(max(stop, start + 1), start + CHUNK_ROWS, chunk.rows)
            self._unpacked += int(ends[stop - 1]) - before
            most = self._bounds.unpacked
            if most is not None and self._unpacked > most:
                detail = f"unpacks to over {most / 1e6:.0f} MB"
                raise TooMuch(detail, (Fault("file", detail, self.rows),))
            self.rows += stop - start
            yield _part(chunk, start, stop)
            start = stop


def _any(column: list[Any] | Vectors | None) -> bool:
    return (
        column is not None
        and len(column) != 0
        and (isinstance(column, np.ndarray) or column.count(None) != len(column))
    )


def _sizes(chunk: RawChunk) -> NDArray[np.int64]:
    """Bytes of each row, about."""
    sizes = np.full(chunk.rows, ROW_BYTES, np.int64)
    for column in (chunk.key, chunk.text, chunk.domain):
        if column is not None:
            sizes += np.fromiter((_size(value) for value in column), np.int64, chunk.rows)

    if chunk.vector is not None:
        sizes += chunk.vector.itemsize * chunk.vector.shape[1]
    return sizes


def _size(value: str | None) -> int:
    """Bytes that a string takes in memory, about."""
    return 0 if value is None else len(value) if value.isascii() else 4 * len(value)


def _part(chunk: RawChunk, start: int, stop: int) -> RawChunk:
    columns = {
        part.name: getattr(chunk, part.name) for part in fields(chunk) if part.name != "rows"
    }
    cut = {name: None if column is None else column[start:stop] for name, column in columns.items()}
    return RawChunk(stop - start, **cut)


def vectors_from_lists(
    lists: Sequence[Any], *, field: str = "vectors", first_row: int = 0, most: int | None = None
) -> Vectors:
    """Vectors float32[M, D] of M lists of D numbers; a number beyond float32 becomes an infinity.

    Args:
        lists: what was sent.
        field: what the caller calls them.
        first_row: the number of the first list in the whole request.
        most: numbers that a vector may have.

    Raises:
        Invalid: a row that is no list, is empty, has another length than the first, or holds no
            numbers.
    """
    for row, values in enumerate(lists, first_row):
        if type(values) is not list or not values:
            raise Invalid.at(field, "must be a list of numbers, not empty", row)
        if most is not None and len(values) > most:
            raise Invalid.at(field, f"must have from 1 to {most} numbers, not {len(values)}", row)
        if len(values) != len(lists[0]):
            raise Invalid.at(
                field, f"has {len(values)} numbers, but the first {len(lists[0])}", row
            )
        if not set(map(type, values)) <= {int, float}:
            raise Invalid.at(field, "must hold numbers only", row)

    try:
        return float32(np.array(lists, dtype=np.float64))
    except OverflowError:  # an integer beyond float64
        row = next(
            row
            for row, values in enumerate(lists)
            if any(abs(value) > MAX_VALUE for value in values)
        )
        raise Invalid.at(field, "must not hold a number beyond float32", first_row + row) from None


def float32(wide: NDArray[Any]) -> Vectors:
    """The same numbers as float32; what does not fit becomes an infinity, which checks refuse."""
    with np.errstate(over="ignore"):
        return wide.astype(np.float32)

"""Columns of any kind as Python's lists, and long ones cut into requests. No array library is imported."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

ROWS_IN_REQUEST = 20_000
BYTES_IN_REQUEST = 32_000_000
BYTES_OF_NUMBER = 22  # a float32 written out as a double, with sign and comma
BYTES_OF_OTHERS = 8

_PLAIN = {str, float, int, bool, type(None)}


class Array(Protocol):
    """An array of any library, as far as the client looks."""

    def tolist(self) -> Any:
        """Its content as Python's own lists and numbers."""

    def __len__(self) -> int: ...


Strings: TypeAlias = Sequence[str] | Array
Numbers: TypeAlias = Sequence[float] | Array
Integers: TypeAlias = Sequence[int] | Array
Vectors: TypeAlias = Sequence[Sequence[float]] | Sequence[Array] | Array


def plain(value: Any) -> Any:
    """Python's own lists and numbers; what is neither list nor array stays, for the wire model to judge."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "__array__"):
        return value.__array__().tolist()
    if isinstance(value, list | tuple | range):
        return [item if type(item) in _PLAIN else plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value


def in_order(keys: Collection[str] | Array | None) -> Any:
    """Sets in one order: another rank's, or a restarted trainer's, must be the same request."""
    return sorted(keys) if isinstance(keys, set | frozenset) else keys


def agree(columns: Mapping[str, Any]) -> bool:
    """Whether these are columns of one length."""
    lists = all(hasattr(column, "__len__") and not isinstance(column, str | Mapping) for column in columns.values())
    return lists and len({len(column) for column in columns.values()}) == 1


def parts(columns: Mapping[str, Any]) -> Iterator[slice]:
    """Cut columns of one length into requests, by rows and by an estimate of their bytes; at least one."""
    small = [column for name, column in columns.items() if name != "vectors"]
    of_vector = BYTES_OF_NUMBER * _width(columns.get("vectors", ()))
    rows = len(next(iter(columns.values())))
    start = size = 0
    for row in range(rows):
        more = of_vector + sum(_bytes(column[row]) for column in small)
        if row - start == ROWS_IN_REQUEST or (row > start and size + more > BYTES_IN_REQUEST):
            yield slice(start, row)
            start, size = row, 0
        size += more
    yield slice(start, rows)


def _width(vectors: Any) -> int:
    if len(getattr(vectors, "shape", ())) == 2:
        return int(vectors.shape[1])
    return len(vectors[0]) if len(vectors) and hasattr(vectors[0], "__len__") else 0


def _bytes(value: object) -> int:
    if not isinstance(value, str):
        return BYTES_OF_OTHERS
    return 3 + (len(value) if value.isascii() else len(value.encode(errors="replace")))

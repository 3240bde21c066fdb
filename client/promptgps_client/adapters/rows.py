"""Prompts of a data set by the names that its rows give them: keys, or (pool, key) pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from promptgps_client.columns import KEYS, items, shown

Pools: TypeAlias = str | Mapping[str, str] | None
DATA_SOURCE = "data_source"  # verl's column, by which a mapping names pools


def prompts(rows: Any, path: str, pool: Pools = None) -> list[str] | list[tuple[str, str]]:
    """Names of all rows in order.

    Args:
        rows: A Hugging Face data set.
        path: Column of the keys, or a field in one (`extra_info.index`).
        pool: None where the run has one pool. Else a column of the pools' names, or a field in one;
            or the name of the one pool of all rows; or a mapping to pools from the values of the
            column `data_source`.

    Raises:
        ValueError: There is no such column; a row has no key, or one that is neither a string nor a
            whole number; two rows have the same; or a row has no pool.
    """
    names = list(keys(rows, path))
    if pool is None:
        _check_distinct(names, path, DATA_SOURCE in rows.column_names)
        return names

    pairs = list(zip(_pools(rows, pool), names, strict=True))
    _check_distinct(pairs, path, by_source=False)
    return pairs


def keys(rows: Any, path: str) -> Iterator[str]:
    """Keys of all rows in order.

    Raises:
        ValueError: As `prompts`.
    """
    for number, value in enumerate(_column(rows, path, "the keys of prompts")):
        yield key_of(value, f"row {number} of the data set", path)


def key_of(value: Any, where: str, path: str) -> str:
    """A key of a row, as everywhere: a whole number is its decimal string.

    Raises:
        ValueError: It is none.
    """
    if value is None:
        raise ValueError(f"{where} has no {path}, its prompt's key")

    key = KEYS.cell(items([value])[0])
    if not isinstance(key, str) or not key:
        raise ValueError(
            f"{where}: {path} is {shown(value)}, and a key is a string or a whole number"
        )

    return key


def pool_of(source: Any, pool: Mapping[str, str], where: str) -> str:
    """The pool of a row by its data source.

    Raises:
        ValueError: The mapping does not have it.
    """
    if source not in pool:
        raise ValueError(
            f"{where} is of the data source {shown(source)}, for which `pool` names none: "
            f"{dict(pool)}"
        )

    return pool[source]


def field_of(value: Any, path: list[str]) -> Any:
    """A field in a value, None where it is not there."""
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def is_column(rows: Any, path: str) -> bool:
    """Whether the data set has the column, or the one that the path begins with."""
    return path in rows.column_names or path.split(".")[0] in rows.column_names


def _pools(rows: Any, pool: str | Mapping[str, str]) -> list[str]:
    if isinstance(pool, Mapping):
        sources = _column(rows, DATA_SOURCE, "the sources by which `pool` names pools")
        return [
            pool_of(source, pool, f"row {number} of the data set")
            for number, source in enumerate(sources)
        ]

    if not is_column(rows, pool):
        return [pool] * len(rows)

    found = list(_column(rows, pool, "the pools of prompts"))
    for number, name in enumerate(found):
        if not isinstance(name, str):
            raise ValueError(
                f"row {number} of the data set: {pool} is {shown(name)}, and a pool has a name"
            )

    return found


def _column(rows: Any, path: str, what: str) -> Iterator[Any]:
    """Values of a column; its name may have dots itself."""
    name, fields = (
        (path, []) if path in rows.column_names else (path.split(".")[0], path.split(".")[1:])
    )
    if name not in rows.column_names:
        there = ", ".join(rows.column_names)
        raise ValueError(
            f"the data set has no column {name}, where {what} should be ({path}); it has {there}"
        )

    return (field_of(value, fields) for value in rows[name])


def _check_distinct(names: list[Any], path: str, by_source: bool) -> None:
    seen: dict[Any, int] = {}
    for number, name in enumerate(names):
        first = seen.setdefault(name, number)
        if first != number:
            advice = (
                "; where each file counts anew, put each in a pool of its own and name it: pool: "
                "{SOURCE: POOL, …} by the column "
                f"{DATA_SOURCE}, or a column of the pools' names"
                if by_source
                else ""
            )

            raise ValueError(
                f"{name!r} is there twice, as {path} of the rows {first} and {number}{advice}"
            )

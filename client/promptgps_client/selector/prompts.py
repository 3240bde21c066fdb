"""The prompts that a selector may draw.

Each is known by its key; where the run has several pools, by pool and key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from pydantic import TypeAdapter, ValidationError

from promptgps_client.columns import KEYS, Array, NoColumn, items, shown
from promptgps_client.wire import Key, Name

# keys, (pool, key) pairs, or a mapping from them to rows
Given: TypeAlias = Iterable[str | int] | Iterable[tuple[str, str | int]] | Array | Mapping[Any, Any]

_KEYS: TypeAdapter[list[str]] = TypeAdapter(list[Key])
_NAMES: TypeAdapter[list[str]] = TypeAdapter(list[Name])


class Prompts:
    """Prompts in the order of the caller's data set.

    Args:
        given: Keys, or (pool, key) pairs, or a mapping from these to rows of any kind. A whole
            number is its decimal string.

    Attributes:
        keys: Of each prompt.
        pools: Of each prompt; None where only keys were given.
        rows: What each is mapped to; None where there is no mapping.

    Raises:
        ValueError: Naming the row that is no key, or the two rows with the same one.
    """

    def __init__(self, given: Given) -> None:
        named = list(given) if isinstance(given, Mapping) else _read(given)
        self.rows: list[Any] = (
            list(given.values()) if isinstance(given, Mapping) else [None] * len(named)
        )

        pairs = [name for name in named if isinstance(name, tuple | list)]
        if pairs and len(pairs) < len(named):
            raise ValueError("prompts: give (pool, key) pairs for all rows, or keys alone for all")

        for row, pair in enumerate(pairs):
            if len(pair) != 2:
                raise ValueError(
                    f"prompts, row {row}: {shown(pair)} is no key, and no pair of pool and key"
                )

        self.pools: list[str] | None = (
            _checked(_NAMES, [pool for pool, _ in pairs], "pool") if pairs else None
        )
        found = [key for _, key in pairs] if pairs else named
        self.keys: list[str] = _checked(_KEYS, _read(found), "key")
        self._index: dict[Any, int] = {name: row for row, name in enumerate(self._names)}
        if len(self._index) < len(self.keys):
            self._refuse_duplicate()

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def _names(self) -> Sequence[Any]:
        return self.keys if self.pools is None else list(zip(self.pools, self.keys, strict=True))

    def find(self, pool: str | None, key: str) -> int | None:
        """Row of a prompt of the run; None where it is not among these."""
        return self._index.get(key if self.pools is None else (pool, key))

    def pool(self, row: int) -> str | None:
        """Pool of a row, where it is known."""
        return None if self.pools is None else self.pools[row]

    def label(self, row: int) -> str:
        """Name of a row in a checkpoint. A pool's name has no colon."""
        return self.keys[row] if self.pools is None else f"{self.pools[row]}:{self.keys[row]}"

    def labelled(self, labels: Iterable[str]) -> dict[str, int]:
        """Rows by their names in a checkpoint, as far as they are still there."""
        if self.pools is None:
            return {label: self._index[label] for label in labels if label in self._index}
        pairs = {label: tuple(label.split(":", 1)) for label in labels}
        return {label: self._index[pair] for label, pair in pairs.items() if pair in self._index}

    def _refuse_duplicate(self) -> None:
        seen: dict[Any, int] = {}
        for row, name in enumerate(self._names):
            if name in seen:
                advice = (
                    "; of prompts of several pools give (pool, key) pairs"
                    if self.pools is None
                    else ""
                )
                raise ValueError(
                    f"prompts: {name!r} is there twice, in rows {seen[name]} and {row}{advice}"
                )

            seen[name] = row


def _read(given: Any) -> list[Any]:
    try:
        return [
            name if isinstance(name, tuple | list) else KEYS.cell(name) for name in items(given)
        ]
    except NoColumn as fault:
        raise ValueError(f"prompts: {fault}") from fault


def _checked(kind: TypeAdapter[list[str]], values: list[Any], what: str) -> list[str]:
    try:
        return kind.validate_python(values, strict=True)
    except ValidationError as refused:
        first = refused.errors(include_url=False)[0]
        row = first["loc"][0] if first["loc"] else "?"
        raise ValueError(
            f"prompts, row {row}: {shown(first['input'])} is no {what}: {first['msg']}"
        ) from None

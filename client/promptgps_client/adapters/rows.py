"""Keys of the prompts of a Hugging Face data set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def keys(rows: Any, path: str) -> Iterator[str]:
    """Keys of all rows in order, from a column (`key`) or a field in it (`extra_info.index`).

    Raises:
        ValueError: There is no such column, or a row has no key.
    """
    name, *fields = path.split(".")
    if name not in rows.column_names:
        raise ValueError(f"the data set has no column {name}, where the keys of prompts should be ({path})")
    for number, told in enumerate(rows[name]):
        for field in fields:
            told = told.get(field) if isinstance(told, dict) else None
        if told is None:
            raise ValueError(f"row {number} of the data set has no {path}, its prompt's key")
        yield str(told)

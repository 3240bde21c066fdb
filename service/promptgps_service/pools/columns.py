"""Prompts in JSON columns, made into chunks without ever holding all of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from promptgps_client.wire import AddPrompts

from promptgps_service.flow.prompt_columns import PromptChunk
from promptgps_service.pools.checks import check_columns
from promptgps_service.pools.raw import CHUNK_BYTES, CHUNK_ROWS, float32, vectors_from_lists

SCALARS = ("keys", "domains", "prior_successes", "prior_trials")
STEP = 64  # rows that are taken before their size is looked at again


def chunks_of(columns: AddPrompts) -> Iterator[PromptChunk]:
    """Chunks of a request, bounded by rows and by bytes.

    Args:
        columns: the request; its columns are lists, or `Rows` of `reading.json_model` that are read
            as they are needed.

    Raises:
        Invalid: names the field and the row.
    """
    given = {name: getattr(columns, name) for name in ("texts", "vectors", *SCALARS)}
    sources = {name: iter(column) for name, column in given.items() if column is not None}
    first_row = 0

    while True:
        values = _next_rows(sources)
        rows = len(next(iter(values.values())))
        if not rows:
            return
        vectors = _vectors(values.pop("vectors"), first_row) if "vectors" in values else None
        chunk = PromptChunk(first_row, vectors=vectors, **values)
        check_columns(chunk)
        yield chunk
        first_row += rows


def _next_rows(sources: dict[str, Iterator[Any]]) -> dict[str, list[Any]]:
    """The next rows of every column, as many as a chunk may have."""
    values: dict[str, list[Any]] = {name: [] for name in sources}
    size = taken = 0
    while size < CHUNK_BYTES and taken < CHUNK_ROWS:
        step = STEP if size else 1  # the same for every column
        for name, source in sources.items():
            fresh = list(islice(source, step))
            values[name] += fresh
            if name == "texts":
                size += sum(map(_memory, fresh))
            elif name == "vectors":
                size += 8 * sum(map(len, fresh))

        before = taken
        taken = len(next(iter(values.values())))
        if taken == before:
            break

    return values


def _memory(text: str) -> int:
    return len(text) if text.isascii() else 4 * len(text)


def _vectors(lists: list[Any], first_row: int) -> np.ndarray:
    if lists and isinstance(lists[0], np.ndarray) and len({len(vector) for vector in lists}) == 1:
        return float32(np.stack(lists))
    plain = [vector.tolist() if isinstance(vector, np.ndarray) else vector for vector in lists]
    return vectors_from_lists(plain, first_row=first_row)

"""JSON columns in chunks: whole rows of every column, however many there are."""

from __future__ import annotations

from typing import Any

import pytest
from promptgps_client.wire import AddPrompts
from promptgps_service.pools.columns import chunks_of
from promptgps_service.pools.raw import CHUNK_ROWS


@pytest.mark.parametrize("rows", [1, 64, 65, CHUNK_ROWS, CHUNK_ROWS + 1, 2 * CHUNK_ROWS + 77])
@pytest.mark.parametrize("names", [("texts",), ("vectors",), ("texts", "vectors")])
def test_every_chunk_has_the_same_rows_of_every_column(rows: int, names: tuple[str, ...]) -> None:
    columns: dict[str, Any] = {
        "keys": [f"k{row}" for row in range(rows)],
        "texts": [f"text {row}" for row in range(rows)],
        "vectors": [[float(row)] for row in range(rows)],
        "domains": [None if row % 3 else "maths" for row in range(rows)],
    }
    request = AddPrompts(**{name: columns[name] for name in ("keys", "domains", *names)})
    read: dict[str, list[Any]] = {name: [] for name in columns}
    for chunk in chunks_of(request):
        assert chunk.first_row == len(read["keys"])
        read["keys"] += chunk.keys or []
        read["domains"] += chunk.domains or []
        read["texts"] += chunk.texts or []
        read["vectors"] += [] if chunk.vectors is None else chunk.vectors.tolist()
    assert read == {
        name: column if name in ("keys", "domains", *names) else []
        for name, column in columns.items()
    }

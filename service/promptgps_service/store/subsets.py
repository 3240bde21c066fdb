"""Subsets of runs' prompts, known by what is in them."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, bindparam, insert, select

from promptgps_service.store.clock import utc_now
from promptgps_service.store.named import insert_named
from promptgps_service.store.tables import SUBSET_ROWS, run_subsets

_ROWS = select(run_subsets.c.rows).where(
    run_subsets.c.run_id == bindparam("run"), run_subsets.c.id == bindparam("subset")
)


def subset_id(rows: NDArray[np.int64]) -> str:
    """What a subset of those rows, ascending, is known by, whoever sends it."""
    return hashlib.blake2b(rows.astype(SUBSET_ROWS).tobytes(), digest_size=16).hexdigest()


class Subsets:
    """Subsets over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def find(self, run_id: int, subset: str) -> NDArray[np.int64] | None:
        """Rows of the subset of that id, ascending; None where there is none."""
        packed = self._connection.execute(
            _ROWS, {"run": run_id, "subset": subset}
        ).scalar_one_or_none()
        return None if packed is None else np.frombuffer(packed, SUBSET_ROWS).astype(np.int64)

    def add(self, run_id: int, subset: str, rows: NDArray[np.int64]) -> None:
        """Keep a subset; one that is there stays."""
        values = {
            "run_id": run_id,
            "id": subset,
            "size": rows.size,
            "rows": rows.astype(SUBSET_ROWS).tobytes(),
        }
        insert_named(self._connection, insert(run_subsets).values(created_at=utc_now(), **values))

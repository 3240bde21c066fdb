"""Keys of prompts to rows of a run, and back, through the run's segments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from promptgps_service.errors import Fault, NotFound
from promptgps_service.store.records import Segment
from promptgps_service.store.unit import Unit

FAULTS_NAMED = 20


def rows_of(unit: Unit, segments: Sequence[Segment], keys: Sequence[str], field: str) -> NDArray[np.int64]:
    """Rows of keys, int64[M]; of two pools that have the same key, the run's first one counts.

    Raises:
        NotFound: naming the rows of the request whose key no pool of the run has.
    """
    found: dict[str, int] = {}
    lengths: dict[int, int] = {}
    for segment in segments:
        lengths[segment.pool_id] = segment.start + segment.count
    for pool_id, length in lengths.items():
        missing = [key for key in keys if key not in found]
        own = [segment for segment in segments if segment.pool_id == pool_id]
        for key, position in unit.pools.positions(pool_id, missing, length).items():
            segment = next(s for s in own if s.start <= position < s.start + s.count)
            found[key] = segment.offset + position - segment.start
    unknown = [row for row, key in enumerate(keys) if key not in found]
    if unknown:
        faults = tuple(Fault(field, f"no prompt has the key {keys[row]!r}", row) for row in unknown[:FAULTS_NAMED])
        raise NotFound(f"{len(unknown)} of {len(keys)} keys are not in the run's pools", faults)
    return np.fromiter((found[key] for key in keys), np.int64, len(keys))


def prompts_at(
    unit: Unit, segments: Sequence[Segment], rows: NDArray[np.int64], *, text: bool
) -> list[tuple[str, str | None]]:
    """Key and, if asked for, text of rows, in their order."""
    offsets = np.array([segment.offset for segment in segments])
    which = np.searchsorted(offsets, rows, side="right") - 1
    answer: dict[int, tuple[str, str | None]] = {}
    for index in np.unique(which):
        segment = segments[int(index)]
        shift = segment.offset - segment.start
        positions = [int(row) - shift for row in rows[which == index]]
        for position, prompt in unit.pools.keys_at(segment.pool_id, positions, text=text).items():
            answer[position + shift] = prompt
    return [answer[int(row)] for row in rows]

"""Draw ids: the only place that makes or reads one. `d{run}-{number}` is short, unique and needs no index."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from promptgps_service.errors import Fault, NotFound

FAULTS_NAMED = 20
_FORM = re.compile(r"d(\d{1,12})-(\d{1,15})", re.ASCII)


def draw_ids(run_id: int, first: int, size: int) -> list[str]:
    """Ids of ``size`` draws from number ``first`` on."""
    return [f"d{run_id}-{number}" for number in range(first, first + size)]


def draw_numbers(run_id: int, ids: Sequence[str], issued: int) -> NDArray[np.int64]:
    """Numbers of draws, int64[M].

    Raises:
        NotFound: naming the rows whose id is not one of the run's draws.
    """
    numbers = np.full(len(ids), -1, np.int64)
    prefix = f"d{run_id}-"
    for row, draw_id in enumerate(ids):
        if draw_id.startswith(prefix) and (form := _FORM.fullmatch(draw_id)) and int(form[2]) < issued:
            numbers[row] = int(form[2])
    unknown = np.flatnonzero(numbers < 0)
    if unknown.size:
        faults = tuple(
            Fault("draw_id", f"{ids[row]!r} is not a draw of this run", int(row)) for row in unknown[:FAULTS_NAMED]
        )
        raise NotFound(f"{unknown.size} of {len(ids)} draw ids are not of this run", faults)
    return numbers

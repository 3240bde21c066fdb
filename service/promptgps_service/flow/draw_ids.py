"""Draw ids: the only place that makes or reads one.

`d{run}-{number}` is short, unique and needs no index. After a restore numbers come again, so that
from then on the id says in which epoch of the run the draw was issued: `d{run}.{epoch}-{number}`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from promptgps_service.errors import Fault, NotFound

FAULTS_NAMED = 20
_FORM = re.compile(r"d(\d{1,12})(?:\.([1-9]\d{0,8}))?-(\d{1,15})", re.ASCII)


def draw_ids(run_id: int, epoch: int, first: int, size: int) -> list[str]:
    """Ids of ``size`` draws from number ``first`` on."""
    prefix = f"d{run_id}.{epoch}" if epoch else f"d{run_id}"
    return [f"{prefix}-{number}" for number in range(first, first + size)]


def draw_numbers(run_id: int, ids: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Epoch and number of draws, int64[M] each; the number is -1 where the id is not of the run."""
    epochs = np.zeros(len(ids), np.int64)
    numbers = np.full(len(ids), -1, np.int64)
    run = str(run_id)

    for row, draw_id in enumerate(ids):
        form = _FORM.fullmatch(draw_id)
        if form is not None and form[1] == run:
            epochs[row] = int(form[2] or 0)
            numbers[row] = int(form[3])

    return epochs, numbers


def not_drawn(ids: Sequence[str], rows: NDArray[np.int64]) -> NotFound:
    """The error that names the rows whose id is not one of the run's draws."""
    faults = tuple(
        Fault("draw_id", f"{ids[row]!r} is not a draw of this run", int(row))
        for row in rows[:FAULTS_NAMED]
    )
    return NotFound(f"{rows.size} of {len(ids)} draw ids are not of this run", faults)

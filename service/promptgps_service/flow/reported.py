"""Which draws and rows of the run a report is about; a restore may have superseded some of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from promptgps_client.wire import ReportOutcomes

from promptgps_service.flow.draw_ids import draw_numbers, not_drawn
from promptgps_service.flow.run_state import RunState
from promptgps_service.store.unit import Unit


@dataclass(frozen=True)
class Reported:
    """What each row of a report is about, int64[M] each.

    Attributes:
        draw: number of the draw; None for outcomes by prompt.
        row: of the run.
        rollouts: of the draw.
        superseded_in: epoch whose beginning superseded the draw; 0 for the others.
    """

    draw: NDArray[np.int64] | None
    row: NDArray[np.int64]
    rollouts: NDArray[np.int64]
    superseded_in: NDArray[np.int64]


def reported_of(
    unit: Unit, state: RunState, request: ReportOutcomes, rows: NDArray[np.int64] | None
) -> Reported:
    """What a report is about; the run must be locked and its state up to date.

    Args:
        unit: in which the run is locked.
        state: of the run.
        request: the report.
        rows: int64[M] of a report by prompt; None of one by draw.

    Raises:
        NotFound: naming the rows whose draw is not of the run.
    """
    if request.draw_id is None:
        assert rows is not None
        return Reported(None, rows, np.zeros_like(rows), np.zeros_like(rows))

    epochs, draws = draw_numbers(state.id, request.draw_id)
    about = Reported(draws, np.zeros_like(draws), np.zeros_like(draws), np.zeros_like(draws))
    issued = np.flatnonzero((draws >= 0) & (draws < state.draws))
    selections = state.issued.selection_of(draws[issued])
    # Else the number has come again since.
    same = state.issued.epoch.view[selections] == epochs[issued]
    standing = issued[same]
    about.row[standing] = state.issued.row.view[draws[standing]]
    about.rollouts[standing] = state.issued.rollouts.view[selections[same]]

    if standing.size < draws.size:
        rest = np.setdiff1d(np.arange(draws.size), standing)
        _find_superseded(unit, state, about, draws, epochs, rest)
        unknown = rest[about.superseded_in[rest] == 0]
        if unknown.size:
            raise not_drawn(request.draw_id, unknown)

    return about


def _find_superseded(
    unit: Unit,
    state: RunState,
    about: Reported,
    draws: NDArray[np.int64],
    epochs: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> None:
    asked = rows[(draws[rows] >= 0) & (epochs[rows] <= state.epoch)]
    for epoch in np.unique(epochs[asked]).tolist():
        of_epoch = asked[epochs[asked] == epoch]
        found = unit.superseded.draws(state.id, epoch, draws[of_epoch].tolist())
        for row in of_epoch.tolist():
            draw = found.get(int(draws[row]))
            if draw is not None:
                about.row[row] = draw.row
                about.rollouts[row] = draw.rollouts
                about.superseded_in[row] = draw.superseded_in

"""From lines of the log to steps: which outcomes are learned from together, and when.

That is when there are enough of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from promptgps_service.flow.run_state import RunState
from promptgps_service.flow.timeline import OLDEST, Timeline
from promptgps_service.model.predictor import Visits
from promptgps_service.model.staleness import temper
from promptgps_service.store.records import LogSlice

MOST_SELECTIONS = 128  # learned from before something is published


@dataclass(frozen=True)
class Groups:
    """What each draw of a step came to, and what came from elsewhere as it was reported.

    Both are as observed.

    Attributes:
        successes: float64[G].
        trials: float64[G], of those that count.
        uniform: bool[G], whether the draw was a uniform pick.
    """

    successes: Tensor
    trials: Tensor
    uniform: Tensor


@dataclass(frozen=True)
class Step:
    """H_t with its clock.

    Attributes:
        clock: of its newest draws.
        visits: what is learned from.
        uniform: bool[M], which of the visits were uniform picks.
        groups: what was observed.
    """

    clock: int
    visits: Visits
    uniform: NDArray[np.bool_]
    groups: Groups


def due(part: LogSlice, state: RunState, groups: int) -> int:
    """Position of the log up to which a slice is worth learning from now.

    It is where the slice starts if none of it is. A trainer that waits for the model sets the pace:
    nothing is learned before its step is whole, or it asks. What the model has learned together
    then depends on the log alone, not on when the model found the time, so that a run that is put
    back to a snapshot goes on as it did the first time.
    """
    if not waits(state):
        return part.head if ready(part, state, groups) else part.start
    with state.lock:
        newest = len(state.issued.size) - 1
        whole = bool(state.issued.complete(np.array([newest])).all())
        lines = np.flatnonzero(part.draw >= state.issued.first_draw.view[newest])

    return part.start + int(lines[-1]) + 1 if whole and lines.size else part.start


def at_most(part: LogSlice, state: RunState, position: int) -> int:
    """``position``, or where before it the slice comes to more selections than are learned at once.

    A worker that is far behind publishes on its way: if it is killed, the next one does not begin
    where it began.
    """
    drawn = np.flatnonzero(part.draw[: position - part.start] >= 0)
    with state.lock:
        _, first = np.unique(state.issued.selection_of(part.draw[drawn]), return_index=True)
    if first.size <= MOST_SELECTIONS:
        return position
    return part.start + int(drawn[np.sort(first)[MOST_SELECTIONS]])


def waits(state: RunState) -> bool:
    """Whether the run's trainer waits for the model: it did for its newest batch."""
    with state.lock:
        return bool(state.issued.waited.view[-1:].any())


def ready(part: LogSlice, state: RunState, groups: int) -> bool:
    """Whether a slice is worth learning from now: its steps are complete, or enough groups."""
    draws = np.unique(part.draw[part.draw >= 0])
    if draws.size == 0:
        return True

    with state.lock:
        ordinals = np.unique(state.issued.selection_of(draws))
        if bool(state.issued.complete(ordinals).all()):
            return True
        done = (
            state.issued.reported.view[draws]
            >= state.issued.rollouts.view[state.issued.selection_of(draws)]
        )

    return int(done.sum()) >= groups


def split_steps(part: LogSlice, state: RunState, least: int, timeline: Timeline) -> Iterator[Step]:
    """Cut a slice into steps by the clock of its draws.

    Each step but the last is of at least ``least`` prompts. A trainer that draws one prompt at a
    time makes a step of many draws, not many steps of one: the model's time would run away
    otherwise. Outcomes that say nothing (errors, time-outs) are left out. An outcome is as old as
    the ``timeline`` says by the policy version that made it, or else by the clock of its draw; the
    steps are added to it.
    """
    drawn = part.draw >= 0
    with state.lock:
        clock = np.where(part.policy_version >= 0, part.policy_version, _newest(state, part))
        clock[drawn] = state.issued.clock.view[state.issued.selection_of(part.draw[drawn])]
        uniform = np.zeros(part.draw.size, np.bool_)
        uniform[drawn] = state.issued.uniform.view[part.draw[drawn]] > 0

    version = np.where(part.policy_version >= 0, part.policy_version, clock)
    told = np.flatnonzero(part.trials > 0)
    told = told[np.argsort(clock[told], kind="stable")]
    edges = np.flatnonzero(np.diff(clock[told])) + 1
    start = 0

    for edge in [*edges, told.size]:
        if edge == told.size or np.unique(part.row[told[start:edge]]).size >= least:
            if edge > start:
                lines = told[start:edge]
                visits = _visits(part, lines, timeline.ages(version[lines]))
                monitor = np.isin(visits.rows.numpy(), part.row[lines[uniform[lines]]])
                groups = _groups(part, lines, uniform[lines])
                yield Step(int(clock[lines].max()), visits, monitor, groups)
                timeline.add(int(version[lines].max()))
            start = edge


def _newest(state: RunState, part: LogSlice) -> int:
    clocks = state.issued.clock.view
    newest = int(clocks[-1]) if len(clocks) else 0
    return max(newest, int(part.policy_version.max(initial=0)))


def _visits(part: LogSlice, lines: NDArray[np.int64], ages: NDArray[np.int64]) -> Visits:
    """Lines merged so that a prompt stands in them once, at the youngest of its ages.

    What lines of one age say of a prompt is one observation. Those of older ages are tempered to
    what they would have said at the youngest, as if at a success rate of one half, where a trial
    says most.
    """
    counts = np.stack([part.successes[lines], part.trials[lines]])
    keys, by_age = _summed(part.row[lines] * OLDEST + ages, torch.from_numpy(counts))
    row = keys // OLDEST
    age = keys % OLDEST
    # Keys ascend: the first of a row is its youngest.
    rows, first = np.unique(row, return_index=True)
    youngest = age[first]
    lag = age - youngest[np.searchsorted(rows, row)]
    _, merged = _summed(row, torch.stack(temper(by_age[0], by_age[1], torch.from_numpy(lag), 0.5)))
    observed = _summed(row, by_age)[1] if lag.any() else None
    ages_of_rows = torch.from_numpy(youngest).double()

    return Visits(torch.from_numpy(rows), merged[0], merged[1], ages_of_rows, observed)


def _groups(part: LogSlice, lines: NDArray[np.int64], uniform: NDArray[np.bool_]) -> Groups:
    """Lines added up by draw; those from elsewhere are a group each."""
    draw = part.draw[lines]
    draw = np.where(draw < 0, -1 - np.arange(draw.size), draw)
    counts = np.stack([part.successes[lines], part.trials[lines], uniform])
    _, (successes, trials, picks) = _summed(draw, torch.from_numpy(counts))
    return Groups(successes, trials, picks > 0)


def _summed(keys: NDArray[np.int64], values: Tensor) -> tuple[NDArray[np.int64], Tensor]:
    """The different keys, ascending, and for each the sums of its columns of ``values``.

    ``values`` are float64[C, L].
    """
    different, place = np.unique(keys, return_inverse=True)
    sums = torch.zeros(len(values), different.size, dtype=torch.float64)
    return different, sums.index_add_(1, torch.from_numpy(place), values)

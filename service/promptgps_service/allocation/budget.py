"""A total of samples spread over prompts by marginal gain.

Taking the steepest steps of all curves first is optimal where every curve is concave (Fox,
Operations Research 14, 1966). A curve that is not goes by its least concave majorant: then the
answer is optimal at every total at which no prompt stands inside an edge of its majorant, and at
the others one prompt at most does, so that no more than its distance from the majorant is lost. The
majorant is that of the columns looked at: four times the mean, 32 at least.

No step is taken one at a time: the steps taken are those above one level, found by partition,
O(N W) for curves of W columns. A prompt whose curve is used to its end gets a wider one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from promptgps_service.allocation.belief import Floats, Integers
from promptgps_service.allocation.curves import Curves
from promptgps_service.allocation.envelope import UNIT, envelope

FIRST_WIDTH = 8
FIRST_WIDTH_NOT_CONCAVE = 32  # such a curve may rise again where it has been flat
WIDER = 4


@dataclass(frozen=True)
class Plan:
    """An allocation.

    Attributes:
        samples: b, int64[N]; they sum to the total.
        value: mean of V(b) over the prompts.
        uniform: the same for the total spread evenly, what is left over by lot.
        next_gain: what the next sample would add to the sum of V.
    """

    samples: Integers
    value: float
    uniform: float
    next_gain: float


@dataclass(frozen=True)
class _Sheet:
    """Curves of the prompts ``rows`` to one width.

    It holds V, its steps in units of UNIT, and where their edges start.
    """

    rows: Integers
    values: Floats
    steps: Integers
    starts: Integers

    @classmethod
    def of(cls, curves: Curves, rows: Integers, minimum: int, width: int) -> _Sheet:
        # Nobody has to vote with all samples there are: what is worse than fewer is not used.
        values = np.maximum.accumulate(curves.values(rows, minimum, width), axis=1)
        if curves.concave:
            slopes = np.diff(values, axis=1)
            starts = np.broadcast_to(np.arange(width), (rows.size, width))
        else:
            slopes, starts = envelope(values)

        steps = np.minimum.accumulate(np.rint(slopes / UNIT).astype(np.int64), axis=1)
        return cls(rows, values, steps, starts)


def allocate(curves: Curves, *, total: int, minimum: int, maximum: int) -> Plan:
    """Spread ``total`` samples, at least ``minimum`` and at most ``maximum`` a prompt.

    Among equal gains the lower step comes first, then the prompt that was named first; so prompts
    that are equal get equally many but for one. What has no worth anywhere is spread evenly.

    Raises:
        ValueError: the total does not lie between N · minimum and N · maximum.
    """
    count = len(curves)
    if not count * minimum <= total <= count * maximum:
        raise ValueError(
            f"{count} prompts cannot have {total} samples, {minimum} to {maximum} each"
        )

    spare = total - count * minimum
    room = maximum - minimum
    least = FIRST_WIDTH if curves.concave else FIRST_WIDTH_NOT_CONCAVE
    width = min(room, max(least, WIDER * -(-spare // count)))
    sheets = [_Sheet.of(curves, np.arange(count), minimum, width)]
    uniform = _uniform(sheets[0].values, spare)

    while True:
        level = _level(sheets, spare)
        sheets, widened = _widen(sheets, curves, max(level, 1), minimum, room)
        if not widened:
            break

    taken = _take(sheets, count, level, spare)
    _spread_evenly(taken, spare - int(taken.sum()), room)
    value, following = _reached(sheets, taken)
    return Plan(taken + minimum, value / count, uniform, following * UNIT)


def _uniform(values: Floats, spare: int) -> float:
    """Mean value with every prompt at the mean, between two columns where that is not whole."""
    low, over = divmod(spare, len(values))
    share = over / len(values)
    high = low + (over > 0)
    return float((1.0 - share) * values[:, low].mean() + share * values[:, high].mean())


def _level(sheets: list[_Sheet], spare: int) -> int:
    """The step that is the spare-th largest of all; 0 where fewer are worth anything."""
    steps = np.concatenate([sheet.steps.ravel() for sheet in sheets])
    steps = steps[steps > 0]
    if steps.size <= spare:
        return 0
    if spare == 0:
        return int(steps.max()) + 1

    return int(np.partition(steps, steps.size - spare)[steps.size - spare])


def _widen(
    sheets: list[_Sheet], curves: Curves, level: int, minimum: int, room: int
) -> tuple[list[_Sheet], bool]:
    """Longer curves for the prompts whose last column is still worth the level."""
    answer = []
    widened = False
    for sheet in sheets:
        width = sheet.steps.shape[1]
        wants = (
            sheet.steps[:, -1] >= level if 0 < width < room else np.zeros(sheet.rows.size, np.bool_)
        )
        if wants.any():
            widened = True
            kept = ~wants
            answer.append(
                _Sheet(sheet.rows[kept], sheet.values[kept], sheet.steps[kept], sheet.starts[kept])
            )
            answer.append(_Sheet.of(curves, sheet.rows[wants], minimum, min(room, WIDER * width)))
        else:
            answer.append(sheet)

    return answer, widened


def _take(sheets: list[_Sheet], count: int, level: int, spare: int) -> Integers:
    """Steps above the level, and of those at it, edge by edge, as many as are left."""
    taken = np.zeros(count, np.int64)
    tied: list[Integers] = []
    for sheet in sheets:
        taken[sheet.rows] = (sheet.steps > level).sum(axis=1)
        if level > 0:
            row, column = np.nonzero(sheet.steps == level)
            tied.append(np.stack([column, sheet.rows[row], sheet.starts[row, column]]))

    if tied:
        columns = np.concatenate(tied, axis=1)
        first = np.lexsort(columns)[: spare - int(taken.sum())]
        np.add.at(taken, columns[1, first], 1)

    return taken


def _reached(sheets: list[_Sheet], taken: Integers) -> tuple[float, int]:
    """The sum of V, and the largest step that was not taken."""
    value = 0.0
    following = 0
    for sheet in sheets:
        at = taken[sheet.rows]
        last = sheet.steps.shape[1]
        own = np.arange(at.size)
        value += float(sheet.values[own, np.minimum(at, last)].sum())
        inside = at < last
        following = max(following, int(sheet.steps[own[inside], at[inside]].max(initial=0)))

    return value, following


def _spread_evenly(taken: Integers, surplus: int, room: int) -> None:
    """Raise the lowest, in place, until the surplus is spent; nobody over the room."""
    low = int(taken.min())
    high = room
    while low < high:  # the highest level that the surplus can bring everybody to
        middle = (low + high + 1) // 2
        if np.maximum(middle - taken, 0).sum() <= surplus:
            low = middle
        else:
            high = middle - 1

    surplus -= int(np.maximum(low - taken, 0).sum())
    np.maximum(taken, low, out=taken)
    taken[np.flatnonzero((taken == low) & (low < room))[:surplus]] += 1

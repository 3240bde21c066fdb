"""The least concave majorant of value curves, all rows at a time."""

from __future__ import annotations

import numpy as np

from promptgps_service.allocation.belief import Floats, Integers

UNIT = 1e-12  # of slopes: what lies below is rounding


def envelope(values: Floats) -> tuple[Floats, Integers]:
    """Slopes of the majorant, and where each edge of it starts.

    The upper hull by Andrew's monotone chain: a corner stays as long as the way on from it is not
    steeper than the way to it.

    Args:
        values: V at b = 0 … W, float64[N, W + 1].

    Returns:
        float64[N, W], not increasing along a row, and int64[N, W]: of the step from b to b + 1.
    """
    count, columns = values.shape
    every = np.arange(count)
    corner = np.zeros((count, columns), np.int64)
    top = np.zeros(count, np.int64)
    for column in range(1, columns):
        rows = every[top > 0]
        while rows.size:
            last = corner[rows, top[rows]]
            before = corner[rows, top[rows] - 1]
            here = values[rows, column]
            there = values[rows, last]
            first = values[rows, before]
            steeper = (here - there) / (column - last) > (there - first) / (last - before) + UNIT
            rows = rows[steeper]
            top[rows] -= 1
            rows = rows[top[rows] > 0]

        top += 1
        corner[every, top] = column
    return _edges(values, corner, top)


def _edges(values: Floats, corner: Integers, top: Integers) -> tuple[Floats, Integers]:
    count, columns = values.shape
    kept = np.arange(columns) <= top[:, None]
    is_corner = np.zeros((count, columns), np.bool_)
    is_corner[np.nonzero(kept)[0], corner[kept]] = True
    at = np.arange(columns)
    start = np.maximum.accumulate(np.where(is_corner, at, 0), axis=1)[:, :-1]
    end = np.minimum.accumulate(np.where(is_corner, at, columns)[:, ::-1], axis=1)[:, ::-1][:, 1:]
    rise = np.take_along_axis(values, end, 1) - np.take_along_axis(values, start, 1)

    return rise / (end - start), start

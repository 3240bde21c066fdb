"""The picture of `make bench-replay`: log-loss, effective share, and what a start is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from benchmarks.rl.plots import COLOURS, STYLE

Bars = Mapping[str, tuple[float, float]]
"""Arm to mean and half-width of its 95 % interval."""
TITLE_WIDTH = 46  # characters
SHADES = ("#8a8f98", "#3a9d6e", "#2b5fd9", "#d98a29", "#b3446c", "#6c5fc7")


def replay_figure(
    panels: Mapping[str, Bars], starts: Mapping[str, Sequence[Sequence[float]]], path: Path
) -> None:
    """A panel of bars for each title, and curves.

    The curves are the rank correlation before steps 0, 1, … of each kind of start.
    """
    count = len(panels) + bool(starts)
    columns = min(3, count)
    rows = -(-count // columns)

    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows, columns, figsize=(5.4 * columns, 3.6 * rows), layout="constrained"
        )
        flat = list(np.atleast_1d(axes).flat)
        for axis, (title, bars) in zip(flat, panels.items(), strict=False):
            _bars(axis, title, bars)
        if starts:
            _curves(flat[len(panels)], starts)
        for axis in flat[count:]:
            axis.set_axis_off()

        figure.savefig(path)
        plt.close(figure)


def _bars(axis: Axes, title: str, bars: Bars) -> None:
    names = list(bars)
    means, halves = (np.nan_to_num([bars[name][part] for name in names]) for part in (0, 1))
    colours = [COLOURS.get(name, SHADES[place % len(SHADES)]) for place, name in enumerate(names)]
    axis.barh(names, means, xerr=halves, color=colours, ecolor="#444", height=0.62)
    axis.invert_yaxis()

    least = max(0.0, float((means - halves).min()) * 0.8)
    most = float((means + halves).max())
    axis.set_xlim(least, most + 0.18 * (most - least))

    axis.set_title(fill(title, TITLE_WIDTH), fontsize=11)
    axis.grid(axis="y", visible=False)
    for place, (mean, half) in enumerate(zip(means, halves, strict=True)):
        axis.text(mean + half, place, f" {mean:.3f}", va="center", fontsize=9)


def _curves(axis: Axes, starts: Mapping[str, Sequence[Sequence[float]]]) -> None:
    for colour, (name, runs) in zip(SHADES, starts.items(), strict=False):
        axis.plot(np.mean(runs, axis=0), label=name, color=colour, linewidth=2)
    axis.set_title("rank correlation before each of the first steps", fontsize=11)
    axis.set_xlabel("step")
    axis.legend(fontsize=9)

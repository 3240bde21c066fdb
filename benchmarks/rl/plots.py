"""The pictures: accuracy against rollouts, effective share per step, predicted against realised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, PercentFormatter

from benchmarks.rl.analysis import accuracy_curve, calibration, smooth, target_accuracy
from benchmarks.rl.train import Record

Runs = Mapping[str, Sequence[Record]]
"""Arm to its records, one a seed."""

COLOURS = {
    "uniform": "#8a8f98",
    "mopps": "#d98a29",
    "gps": "#3a9d6e",
    "promptgps": "#2b5fd9",
    "oracle": "#b3446c",
}
STYLE: dict[Any, object] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e8eb",
    "axes.edgecolor": "#b0b5bd",
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.dpi": 150,
}


def demo_figure(runs: Runs, arm: str, title: str, path: Path) -> None:
    """Three panels for a demo in which `arm` meets uniform."""
    with mpl.rc_context(STYLE):
        figure, (left, middle, right) = plt.subplots(
            1, 3, figsize=(15.5, 4.8), layout="constrained"
        )
        accuracy_panel(left, runs)
        effective_panel(middle, runs)
        calibration_panel(right, runs[arm])
        figure.suptitle(title, x=0.01, ha="left", fontsize=14, fontweight="bold")
        figure.savefig(path)
        plt.close(figure)


def bench_figure(by_pool: Mapping[int, Runs], path: Path) -> None:
    """A row a pool size: accuracy and effective share of all arms."""
    with mpl.rc_context(STYLE):
        figure, rows = plt.subplots(
            len(by_pool), 2, figsize=(12.5, 4.6 * len(by_pool)), layout="constrained", squeeze=False
        )
        for (size, runs), (left, right) in zip(by_pool.items(), rows, strict=True):
            accuracy_panel(left, runs)
            effective_panel(right, runs)
            left.set_title(f"Pool of {size:,}: held-out accuracy")

        figure.savefig(path)
        plt.close(figure)


def accuracy_panel(axes: Axes, runs: Runs) -> None:
    """Means over seeds, one sample standard deviation to each side, and the target A."""
    for arm, records in runs.items():
        curves = np.stack([accuracy_curve(r) for r in records])
        at = records[0].eval_rollouts
        _line(axes, arm, at, curves)

    if "uniform" in runs:
        target = target_accuracy(runs["uniform"])
        axes.axhline(target, color="#555a63", linewidth=1, linestyle=(0, (4, 3)))
        across = axes.get_yaxis_transform()  # x in shares of the panel's width, y in data
        label = "A: 90% of uniform's gain"
        axes.text(0.01, target, label, transform=across, va="bottom", fontsize=9, color="#555a63")

    axes.set(title="Held-out accuracy (exact)", xlabel="rollouts generated")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k"))
    axes.legend(loc="lower right")


def effective_panel(axes: Axes, runs: Runs, window: int = 15) -> None:
    """Share of groups with a mixed outcome, smoothed over `window` steps."""
    for arm, records in runs.items():
        curves = np.stack([smooth(r.effective, window) for r in records])
        _line(axes, arm, list(range(1, curves.shape[1] + 1)), curves)

    axes.set(
        title="Effective prompts in a batch",
        xlabel=f"training step (mean of {window})",
        ylim=(0, 1),
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def calibration_panel(axes: Axes, records: Sequence[Record]) -> None:
    """The chosen prompts, predicted before their rollouts, and the whole pool at the end.

    The pool is set against the exact truth.
    """
    axes.plot([0, 1], [0, 1], color="#555a63", linewidth=1, linestyle=(0, (4, 3)))
    chosen = calibration(_flat(r.predicted for r in records), _flat(r.realised for r in records))
    whole = calibration(
        [p for r in records for p in r.pool_predicted or []],
        [t for r in records if r.pool_predicted is not None for t in r.pool_truth],
    )

    for bins, label, colour, marker in (
        (chosen, "chosen, before rollouts", "#2b5fd9", "o"),
        (whole, "whole pool at the end, exact", "#b3446c", "s"),
    ):
        if bins is not None:
            size = 25 + 200 * bins.weight
            label += f"\nrank correlation {bins.rank_correlation:.2f}, error {bins.error:.2f}"
            axes.plot(bins.predicted, bins.realised, color=colour, linewidth=1.2, alpha=0.6)
            axes.scatter(
                bins.predicted,
                bins.realised,
                size,
                color=colour,
                marker=marker,
                alpha=0.85,
                label=label,
            )

    axes.set(
        title="Predicted against realised",
        xlabel="predicted success rate",
        ylabel="realised success rate",
        xlim=(-0.03, 1.03),
        ylim=(-0.03, 1.03),
    )
    legend = axes.legend(loc="upper left", fontsize=9, labelspacing=0.9)
    for handle in legend.legend_handles:
        if handle is not None and hasattr(handle, "set_sizes"):
            handle.set_sizes([45])


def _flat(runs: Iterable[list[list[float]]]) -> list[float]:
    return [value for run in runs for step in run for value in step]


def _line(
    axes: Axes,
    arm: str,
    at: Sequence[int],
    curves: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> None:
    colour = COLOURS.get(arm, "#6b4fbb")
    mean = curves.mean(0)
    axes.plot(at, mean, color=colour, linewidth=2.2, label=arm)
    if len(curves) > 1:
        sd = curves.std(0, ddof=1)
        axes.fill_between(at, mean - sd, mean + sd, color=colour, alpha=0.13, linewidth=0)

"""The picture: prompts solved against mean budget, an axis a set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter
from numpy.typing import NDArray

from benchmarks.rl.plots import COLOURS, STYLE

LOOKS = {
    "uniform": (COLOURS["uniform"], "-"),
    "unsolved evenly, 4 rounds": (COLOURS["uniform"], "--"),
    "model, one-shot": (COLOURS["promptgps"], "-"),
    "model, 4 rounds": (COLOURS["promptgps"], "--"),
    "shuffled, 4 rounds": (COLOURS["mopps"], "--"),
    "oracle, one-shot": (COLOURS["oracle"], "-"),
    "oracle, 4 rounds": (COLOURS["oracle"], "--"),
}
Picture = tuple[Sequence[float], Mapping[str, NDArray[np.float64]]]


def figure(pictures: Mapping[str, Picture], path: Path) -> None:
    """Means over seeds with their 95 % intervals."""
    with rc_context(STYLE):
        drawn, axes = plt.subplots(
            1, len(pictures), figsize=(6.2 * len(pictures), 4.8), layout="constrained"
        )
        for (title, (means, curves)), own in zip(pictures.items(), axes, strict=True):
            _panel(own, title, means, curves)
        axes[0].legend(loc="lower right", fontsize=9)
        drawn.savefig(path)
        plt.close(drawn)


def _panel(
    axes: Axes, title: str, means: Sequence[float], curves: Mapping[str, NDArray[np.float64]]
) -> None:
    for name, (colour, line) in LOOKS.items():
        curve = curves[name]
        mean = curve.mean(0)
        half = 2.0 * curve.std(0, ddof=1) / np.sqrt(len(curve))
        axes.plot(means, mean, color=colour, linestyle=line, linewidth=1.8, label=name)
        axes.fill_between(means, mean - half, mean + half, color=colour, alpha=0.1, linewidth=0)

    axes.set(title=title.replace(", ", "\n", 1), xlabel="mean samples a prompt", xscale="log")
    axes.set_xticks(means)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.title.set_fontsize(10)
    axes.set_ylabel("prompts solved")

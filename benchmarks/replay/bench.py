"""`make bench-replay`: open and closed loop, on recorded histories and on a simulated learner.

Every figure is a mean over seeds ± the half-width of a 95 % confidence interval (Student's t). Runs
are kept as JSON in a cache folder by their settings and the code's version, so an interrupted bench
goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import torch
from promptgps_service.model.features import Features
from promptgps_service.model.registry import make_predictor
from scipy.stats import t as student

from benchmarks.arms import selection_of
from benchmarks.replay.closed_loop import closed_loop, oracle_loop
from benchmarks.replay.histories import DATA, History, read_history, text_features
from benchmarks.replay.open_loop import open_loop
from benchmarks.replay.plots import Bars, replay_figure
from benchmarks.replay.simulated_loop import simulated_loop
from benchmarks.replay.simulation import real_texts
from benchmarks.replay.starts import SHARE, STARTS, start

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RESULTS = Path(__file__).parents[1] / "results"
PACKAGE = Path(__file__).parents[2] / "service" / "promptgps_service"
CPU = torch.device("cpu")
FREE = "+cooldown=0+candidate_factor=null+uniform_share=0.0"
EIGHT = "+cooldown=0+candidate_factor=8+uniform_share=0.0"
COOL = "+cooldown=20+candidate_factor=null"
PREDICTORS = ("constant", "beta", "ridge", "neural", "hierarchical", "stack")
STRATEGIES = ("uniform", "mopps", "gps", "promptgps")
# visits that the rank correlation is with
HISTORIES = {"rl-run-dsr-a": 3, "reasoning-gym-ladder": 1}
SIMULATED = 40_315

Scores = dict[str, Any]
Panels = dict[str, Bars]
P = ParamSpec("P")


class Kept:
    """Results by what they are results of."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        sources = sorted([*PACKAGE.glob("model/**/*.py"), *PACKAGE.glob("acquisition/*.py")])
        self._code = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()

    def get(
        self, name: str, make: Callable[P, DataclassInstance], *args: P.args, **kwargs: P.kwargs
    ) -> Scores:
        """The kept scores, or new ones from ``make(*args, **kwargs)``."""
        path = (
            self._folder / f"{hashlib.sha256((name + self._code).encode()).hexdigest()[:24]}.json"
        )
        if not path.exists():
            started = time.perf_counter()
            scores = dataclasses.asdict(make(*args, **kwargs)) | {
                "seconds": time.perf_counter() - started
            }
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(scores))
            print(
                f"{name}: {next(iter(scores.values())):.3f}, {scores['seconds']:.0f} s", flush=True
            )

        answer: Scores = json.loads(path.read_text())
        return answer


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of the 95 % interval (NaN from a single value) of what is not NaN."""
    values = [value for value in values if not math.isnan(value)]
    if len(values) < 2:
        return (values[0] if values else math.nan), math.nan

    half = (
        float(student.ppf(0.975, len(values) - 1))
        * statistics.stdev(values)
        / math.sqrt(len(values))
    )

    return statistics.mean(values), half


def interval(values: Sequence[float]) -> str:
    """Mean ± half-width."""
    mean, half = spread(values)
    digits = 0 if mean > 20 else 3
    if math.isnan(mean):
        return "–"
    return f"{mean:.{digits}f}" + ("" if math.isnan(half) else f" ± {half:.{digits}f}")


def bars(rows: dict[str, list[Scores]], key: str) -> Bars:
    """One score of every arm, for the picture."""
    return {name: spread([run[key] for run in runs]) for name, runs in rows.items()}


def table(title: str, rows: dict[str, list[Scores]], columns: dict[str, str]) -> str:
    """Markdown: a row an arm, a column a score."""
    lines = [
        f"### {title}",
        "",
        "| |" + " | ".join(columns.values()) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for name, runs in rows.items():
        lines.append(
            f"| {name} | "
            + " | ".join(interval([run[key] for run in runs]) for key in columns)
            + " |"
        )

    return "\n".join([*lines, ""])


def open_tables(
    kept: Kept,
    histories: dict[str, tuple[History, Features]],
    predictors: Sequence[str],
    seeds: range,
    panels: Panels,
) -> str:
    """Open loop at 2 and 10 %."""
    columns = {
        "rho": "Spearman",
        "rho_early": "first tenth",
        "rho_new": "never observed",
        "log_loss": "log-loss",
        "log_loss_new": "never observed",
        "calibration_error_pooled": "ECE pooled",
        "calibration_error": "ECE per step",
        "covered": "within its 90 %",
        "covered_new": "never observed",
    }

    parts = []
    for name, (history, features) in histories.items():
        for share in (0.02, 0.1):
            rows = {
                predictor: [
                    kept.get(
                        f"open {name} {share} {predictor} {seed}",
                        open_loop,
                        history,
                        make_predictor(predictor, features, CPU),
                        share=share,
                        window=HISTORIES[name],
                        seed=seed,
                    )
                    for seed in seeds
                ]
                for predictor in predictors
            }
            parts.append(
                table(
                    f"{name}, {share:.0%} of {history.prompts:,} prompts observed a step",
                    rows,
                    columns,
                )
            )
            panels[f"log-loss, {name}, {share:.0%}"] = bars(rows, "log_loss")

    return "## Open loop: predicted before observed\n\n" + "\n".join(parts)


def closed_tables(
    kept: Kept,
    replayed: tuple[History, Features],
    strategies: Sequence[str],
    seeds: range,
    panels: Panels,
) -> str:
    """Closed loop on the recorded RL run."""
    history, features = replayed
    columns = {
        "effective": "effective share",
        "first_quarter": "first quarter",
        "last_quarter": "last quarter",
        "distinct": "different prompts",
        "top": "top 5 % of prompts",
    }
    parts = []
    cases = {
        "free reuse, whole pool": FREE,
        "free reuse, 8 random candidates a pick": EIGHT,
        "as it ships": "",
    }

    for title, change in cases.items():
        rows = {
            arm: [
                kept.get(
                    f"closed {arm}{change} {seed}",
                    closed_loop,
                    history,
                    features,
                    _selection(arm, change),
                    batch=32,
                    seed=seed,
                )
                for seed in seeds
            ]
            for arm in strategies
        }
        if change == FREE:
            rows["oracle"] = [kept.get("closed oracle", oracle_loop, history, batch=32)]

        parts.append(table(f"rl-run-dsr-a, 32 a step, {title}", rows, columns))
        if change == FREE:
            panels[f"effective share, rl-run-dsr-a, {title}"] = bars(rows, "effective")

    return "## Closed loop on a recorded RL run\n\n" + "\n".join(parts)


def simulated_tables(
    kept: Kept,
    texts: Sequence[str],
    strategies: Sequence[str],
    seeds: range,
    steps: int,
    panels: Panels,
) -> str:
    """Closed loop on the simulated learner."""
    features = text_features(tuple(texts))
    columns = {
        "mixed": "mixed groups",
        "first_tenth": "first tenth",
        "second_half": "second half",
        "distinct": "different prompts",
        "top": "top 5 % of prompts",
    }
    cases = [("cool-down 20, whole pool", COOL, 0.0), ("as it ships", "", 0.0)]
    cases += [("free reuse, whole pool", FREE, feedback) for feedback in (0.0, 0.03, 0.25)]

    parts = []
    for title, change, feedback in cases:
        rows = {
            arm: [
                kept.get(
                    f"simulated {features.rows} {steps} {arm}{change} {feedback} {seed}",
                    simulated_loop,
                    features,
                    _selection(arm, change),
                    batch=256,
                    steps=steps,
                    feedback=feedback,
                    seed=seed,
                    texts=texts,
                )
                for seed in seeds
            ]
            for arm in strategies
        }
        parts.append(
            table(
                f"{features.rows:,} real texts, 256 a step, feedback {feedback:g}, {title}",
                rows,
                columns,
            )
        )
        panels[f"mixed groups, {features.rows:,} texts, {title}, feedback {feedback:g}"] = bars(
            rows, "mixed"
        )

    return f"## Closed loop on a simulated learner, {steps} steps\n\n" + "\n".join(parts)


def start_table(
    kept: Kept, history: History, seeds: range
) -> tuple[str, dict[str, list[list[float]]]]:
    """What a start is worth; the table, and the curves of rank correlation."""
    rows = {
        name: [
            kept.get(f"start {history.name} {name} {seed}", start, history, name, seed)
            for seed in seeds
        ]
        for name in STARTS
    }
    columns = {"rho_mean": "Spearman, steps 0 to 20", "log_loss_mean": "log-loss, steps 0 to 20"}

    for step in (0, 1, 5, 20):
        columns[f"rho_{step}"] = f"Spearman before step {step}"
        for run in (run for runs in rows.values() for run in runs):
            run[f"rho_{step}"] = run["rho"][step]

    title = f"{history.name}, half of its prompts, {SHARE:.0%} observed a step"
    curves = {name: [run["rho"] for run in runs] for name, runs in rows.items()}

    return "## What a start is worth\n\n" + table(title, rows, columns), curves


def _selection(arm: str, change: str) -> dict[str, Any]:
    """Settings of an arm; uniform has no use for another way of reuse."""
    return selection_of(arm if arm == "uniform" else arm + change)


def main() -> None:
    """Run what is missing, write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replay.bench", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--simulated-seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100, help="of the simulated learner")
    parser.add_argument("--predictors", nargs="+", default=list(PREDICTORS))
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES))
    rooms = ("open", "closed", "starts", "simulated")
    parser.add_argument("--only", nargs="+", choices=rooms, default=list(rooms))
    parser.add_argument("--out", type=Path, default=RESULTS / "replay.md")
    parser.add_argument(
        "--runs", type=Path, default=Path.home() / ".cache" / "promptgps-bench-replay"
    )
    options = parser.parse_args()

    torch.set_num_threads(1)
    kept = Kept(options.runs)
    parts = []
    panels: Panels = {}
    curves: dict[str, list[list[float]]] = {}

    histories = {name: read_history(options.data / name) for name in HISTORIES}
    featured = {
        name: (history, text_features(history.texts)) for name, history in histories.items()
    }
    if "open" in options.only:
        parts.append(open_tables(kept, featured, options.predictors, range(options.seeds), panels))

    if "closed" in options.only:
        replayed = featured["rl-run-dsr-a"]
        parts.append(
            closed_tables(kept, replayed, options.strategies, range(options.seeds), panels)
        )

    if "starts" in options.only:
        part, curves = start_table(kept, histories["rl-run-dsr-a"], range(options.seeds))
        parts.append(part)

    if "simulated" in options.only:
        pool = real_texts(SIMULATED)
        seeds = range(options.simulated_seeds)
        parts.append(simulated_tables(kept, pool, options.strategies, seeds, options.steps, panels))

    head = (
        f"# Replay\n\n`make bench-replay`; means over {options.seeds} seeds "
        f"({options.simulated_seeds} on the "
        f"simulated learner) ± 95 % confidence; one thread, {os.cpu_count()} cores.\n"
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join([head, *parts]))
    replay_figure(panels, curves, options.out.with_suffix(".png"))
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()

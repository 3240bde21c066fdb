"""`python -m benchmarks.rl.demo`: a real RL run, with uniform prompts and the service's choice.

Starts the service itself (or uses --url), trains the same policy on the same pool with the same
seeds both ways, and shows what the choice was worth: a table, a picture and JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from promptgps_client import PromptGPS
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from benchmarks.rl.analysis import accuracy_curve, calibration, rollouts_to, spread, target_accuracy
from benchmarks.rl.contest import World
from benchmarks.rl.plots import demo_figure
from benchmarks.rl.train import Record, Settings
from benchmarks.rl.warmstart import FULL, QUICK, WarmStart
from benchmarks.service import service_at

ARMS = ("uniform", "promptgps")


@dataclass(frozen=True)
class Plan:
    """The size of the demo."""

    warm: WarmStart
    steps: int
    pool: int
    held_out: int


FULL_PLAN = Plan(FULL, steps=200, pool=4096, held_out=600)
QUICK_PLAN = Plan(QUICK, steps=60, pool=1024, held_out=300)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rl.demo", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="under a minute: fewer families, steps and prompts"
    )
    parser.add_argument("--steps", type=int, help="GRPO steps of 16 prompts x 8 rollouts")
    parser.add_argument("--pool", type=int, help="prompts to choose from")
    parser.add_argument("--seeds", type=int, default=1, help="paired runs, seeds 0, 1, ...")
    parser.add_argument(
        "--url", help="a running service; default: start one and stop it at the end"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo-output"), help="folder for the picture and the JSON"
    )
    options = parser.parse_args(argv)

    plan = QUICK_PLAN if options.quick else FULL_PLAN
    plan = replace(plan, steps=options.steps or plan.steps, pool=options.pool or plan.pool)
    torch.set_num_threads(1)  # the service computes at the same time
    # a policy grown sure of itself is full of them, and they are slow
    torch.set_flush_denormal(True)
    run(plan, options.seeds, options.url, options.out, Console())


def run(
    plan: Plan, seeds: int, url: str | None, out: Path, console: Console
) -> dict[str, list[Record]]:
    """The whole demo; the records by arm."""
    start = time.monotonic()
    runs: dict[str, list[Record]] = {arm: [] for arm in ARMS}
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(20),
        MofNCompleteColumn(),
    )

    with Progress(
        *columns, TimeElapsedColumn(), TextColumn("{task.fields[note]}"), console=console
    ) as bars:
        world = _build_world(plan, bars)
        with service_at(url) as address, PromptGPS(address) as gps:
            world.upload(gps)
            for seed in range(seeds):
                settings = Settings(steps=plan.steps, seed=seed, eval_every=5)
                for arm in ARMS:
                    runs[arm].append(_train(world, arm, settings, gps, bars))

    console.print(summary_table(runs))
    out.mkdir(parents=True, exist_ok=True)

    title = (
        f"Choosing prompts for GRPO: pool of {plan.pool:,}, {plan.steps} steps "
        "of 16 prompts × 8 rollouts"
    )
    demo_figure(runs, "promptgps", title, out / "demo.png")
    (out / "demo.json").write_text(
        json.dumps({arm: [r.to_json() for r in rs] for arm, rs in runs.items()})
    )
    console.print(
        f"{out / 'demo.png'}, {out / 'demo.json'}; {time.monotonic() - start:.0f} s in all"
    )

    return runs


def _build_world(plan: Plan, bars: Progress) -> World:
    warm = bars.add_task(
        "base policy (cached)", total=plan.warm.steps, note="supervised warm start"
    )

    def progress(done: int, total: int) -> None:
        bars.update(warm, description="base policy", completed=done, total=total)

    world = World.build(plan.warm, plan.pool, progress=progress, held_out=plan.held_out)
    bars.update(
        warm, completed=plan.warm.steps, note=f"{plan.pool:,} prompts drawn by what it can do"
    )

    return world


def _train(world: World, arm: str, settings: Settings, gps: PromptGPS, bars: Progress) -> Record:
    task = bars.add_task(f"{arm}, seed {settings.seed}", total=settings.steps, note="")

    def progress(record: Record) -> None:
        note = (
            f"held-out {record.accuracy[-1]:.3f}   effective {np.mean(record.effective[-30:]):.0%}"
        )
        bars.update(task, advance=1, note=note)

    return world.run(arm, settings, gps, progress)


def summary_table(runs: dict[str, list[Record]]) -> Table:
    """What the choice was worth, a column an arm."""
    target = target_accuracy(runs["uniform"])
    first = runs["uniform"][0]
    table = Table(
        title=f"Start {first.accuracy[0]:.3f}, {first.rollouts[-1]:,} rollouts each",
        title_justify="left",
    )
    table.add_column("")
    for arm in runs:
        table.add_column(arm, justify="right")

    needed = {arm: [rollouts_to(r, target) for r in records] for arm, records in runs.items()}
    every = runs.values()
    rows: dict[str, list[str]] = {
        "held-out accuracy at the end": [
            spread([accuracy_curve(r)[-1] for r in rs]) for rs in every
        ],
        f"rollouts to {target:.3f} (90% of uniform's gain)": [
            spread(needed[arm], 0) for arm in runs
        ],
        "effective prompts": [spread([float(np.mean(r.effective)) for r in rs]) for rs in every],
        "different prompts chosen": [spread([_distinct(r) for r in rs], 0) for rs in every],
        "families a batch": [spread([float(np.mean(r.families)) for r in rs], 1) for rs in every],
        "rank correlation, chosen": [spread([_chosen(r)[0] for r in rs], 2) for rs in every],
        "calibration error, chosen": [spread([_chosen(r)[1] for r in rs], 2) for rs in every],
        "rank correlation with truth, pool": [
            spread([r.pool_rank_correlation for r in rs], 2) for rs in every
        ],
        "mean absolute error, pool": [spread([r.pool_mae for r in rs], 2) for rs in every],
        "ms a step to choose and report": [
            spread([_milliseconds(r) for r in rs], 0) for rs in every
        ],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)

    return table


def _distinct(record: Record) -> float:
    return float(len({i for batch in record.picked for i in batch}))


def _chosen(record: Record) -> tuple[float | None, float | None]:
    bins = calibration(record.predicted, record.realised)
    return (None, None) if bins is None else (bins.rank_correlation, bins.error)


def _milliseconds(record: Record) -> float:
    return 1000 * record.select_seconds / len(record.rollouts)


if __name__ == "__main__":
    main()

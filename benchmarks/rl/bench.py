"""`python -m benchmarks.rl.bench`: how many rollouts each way of choosing prompts needs.

It runs over pools and seeds.

Every run is kept as JSON and not repeated, so an interrupted bench goes on where it stopped. A kept
run knows its settings but not the service's code: after a change there, use --fresh.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from promptgps_client import PromptGPS

from benchmarks.rl.analysis import mean_accuracy, rollouts_to, spread, target_accuracy
from benchmarks.rl.contest import World, needs_service
from benchmarks.rl.plots import Runs, bench_figure
from benchmarks.rl.train import Record, Settings
from benchmarks.rl.warmstart import FULL, default_cache
from benchmarks.service import service_at

RESULTS = Path(__file__).parents[1] / "results"
ARMS = ("uniform", "mopps", "gps", "promptgps", "oracle")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run what is missing, then write table and picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rl.bench", description=__doc__)
    parser.add_argument("--pools", type=int, nargs="+", default=[8192, 2048])
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ...")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument(
        "--strategies",
        nargs="+",
        default=list(ARMS),
        help="names of the service; uniform, mopps, oracle run here",
    )
    parser.add_argument("--url", help="a running service; default: start one")
    parser.add_argument(
        "--runs", type=Path, help="where runs are kept; default: in the demo's cache folder"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="run again what is kept of these strategies"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(argv)

    torch.set_num_threads(1)  # the service computes at the same time
    # a policy grown sure of itself is full of them, and they are slow
    torch.set_flush_denormal(True)
    folder = options.runs or default_cache() / f"bench-rl-{FULL.key()}"
    by_pool = {
        size: _bench_pool(
            size,
            options.strategies,
            range(options.seeds),
            options.steps,
            folder,
            options.url,
            options.fresh,
        )
        for size in options.pools
    }
    options.out.mkdir(parents=True, exist_ok=True)
    table = "\n".join(report(size, runs) for size, runs in by_pool.items())
    (options.out / "rl.md").write_text(table)
    bench_figure(by_pool, options.out / "rl.png")
    print(table)


def _bench_pool(
    size: int,
    arms: Sequence[str],
    seeds: range,
    steps: int,
    folder: Path,
    url: str | None,
    fresh: bool,
) -> dict[str, list[Record]]:
    jobs = {
        (arm, seed): folder / f"pool{size}-steps{steps}-{arm.replace(':', '-')}-seed{seed}.json"
        for seed in seeds
        for arm in arms
    }
    missing = [job for job, path in jobs.items() if fresh or not path.exists()]

    if missing:
        world = World.build(FULL, size)
        with _client(url, any(needs_service(arm) for arm, _ in missing)) as gps:
            if gps is not None:
                world.upload(gps)
            for arm, seed in missing:
                record = world.run(arm, Settings(steps=steps, seed=seed), gps)
                _keep(record, jobs[arm, seed])
                print(
                    f"pool {size} {arm} seed {seed}: accuracy {record.accuracy[-1]:.3f}", flush=True
                )

    return {
        arm: [Record.from_json(json.loads(jobs[arm, s].read_text())) for s in seeds] for arm in arms
    }


@contextmanager
def _client(url: str | None, needed: bool) -> Iterator[PromptGPS | None]:
    with ExitStack() as stack:
        if not needed:
            yield None
            return
        address = stack.enter_context(service_at(url))
        yield stack.enter_context(PromptGPS(address))


def _keep(record: Record, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(record.to_json()))
    unfinished.replace(path)


def report(size: int, runs: Runs) -> str:
    """A Markdown section for one pool, a row an arm.

    Means over seeds ± sample standard deviation.
    """
    first = next(iter(runs.values()))[0]
    target = target_accuracy(runs["uniform"]) if "uniform" in runs else None
    base = _mean_rollouts(runs["uniform"], target) if target is not None else None
    reference = (
        "not run with uniform" if target is None else f"A = {target:.4f} (90 % of uniform's gain)"
    )
    head = [
        f"## Pool of {size:,}",
        "",
        f"{len(next(iter(runs.values())))} seeds, {first.rollouts[-1]:,} rollouts; "
        f"start {first.accuracy[0]:.3f}, "
        f"{reference}; ± is the sample standard deviation over seeds, "
        "(2/3) how many seeds got there.",
        "",
    ]
    table = [_row(arm, records, target, base) for arm, records in runs.items()]
    names = list(table[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]

    return (
        "\n".join(head + lines + ["| " + " | ".join(row.values()) + " |" for row in table]) + "\n"
    )


def _mean_rollouts(records: Sequence[Record], target: float) -> float | None:
    reached = [n for r in records if (n := rollouts_to(r, target)) is not None]
    return float(np.mean(reached)) if reached else None


def _row(
    arm: str, records: Sequence[Record], target: float | None, base: float | None
) -> Mapping[str, str]:
    needed = [None if target is None else rollouts_to(r, target) for r in records]
    shares = [None if n is None or base is None else n / base for n in needed]

    return {
        "strategy": arm,
        "k rollouts to A": spread([None if n is None else n / 1000 for n in needed], 1),
        "share of uniform's": spread(shares, 2),
        "accuracy at the end": spread([r.accuracy[-1] for r in records]),
        "mean accuracy": spread([mean_accuracy(r) for r in records], 4),
        "effective groups": spread([float(np.mean(r.effective)) for r in records], 2),
        "different prompts": spread(
            [float(len({i for b in r.picked for i in b})) for r in records], 0
        ),
        "families a batch": spread([float(np.mean(r.families)) for r in records], 1),
        "rank correlation, pool": spread([r.pool_rank_correlation for r in records], 2),
        "MAE, pool": spread([r.pool_mae for r in records], 2),
        "ms a step to choose and report": spread(
            [1000 * r.select_seconds / len(r.rollouts) for r in records], 0
        ),
    }


if __name__ == "__main__":
    main()

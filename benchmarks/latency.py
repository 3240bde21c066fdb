"""Latency over loopback beside an in-process MoPPS of the same size: `make bench-latency`.

Both are measured in one run.

Writes `benchmarks/results/latency.md`. `--million` adds the pool of 1,000,000, `--large` the import
of 2,000,000 rows and the restart on 1,000,000 outcomes; both take minutes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from promptgps_client import PromptGPS

from benchmarks.mopps_in_process import PerPrompt, Vectorised
from benchmarks.service import Service, running_service

RESULTS = Path(__file__).parent / "results"
WORDS = (
    "find",
    "the",
    "sum",
    "of",
    "all",
    "integers",
    "such",
    "that",
    "divided",
    "by",
    "ways",
    "triangle",
    "area",
)


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    quantity: str
    measured: str
    target: str
    peer: str = ""


def texts(count: int, seed: int = 0) -> list[str]:
    """Distinct made-up problems of 40 to 300 characters."""
    rng = random.Random(seed)
    return [
        f"Problem {index}: {' '.join(rng.choices(WORDS, k=rng.randint(6, 50)))} "
        f"{rng.randint(0, 10**6)}?"
        for index in range(count)
    ]


def timed(repeats: int, call: Callable[[int], object]) -> np.ndarray:
    """Milliseconds of each repeat."""
    taken = np.empty(repeats)
    for index in range(repeats):
        started = time.perf_counter()
        call(index)
        taken[index] = 1000 * (time.perf_counter() - started)
    return taken


def show(milliseconds: np.ndarray) -> str:
    """p50 and p99."""
    return (
        f"p50 {np.percentile(milliseconds, 50):.1f} ms, "
        f"p99 {np.percentile(milliseconds, 99):.1f} ms"
    )


class Job:
    """A run over a pool, driven like a trainer."""

    def __init__(self, gps: PromptGPS, pool: str, name: str) -> None:
        self.gps = gps
        self.name = name
        self._sequence = 0
        gps.create_run(name=name, pool=pool)

    def select(self, size: int, wait_seconds: float = 0.0) -> list[str]:
        """Draw a batch; its draw ids."""
        self._sequence += 1
        batch = self.gps.select_batch(
            run=self.name, sequence=self._sequence, batch_size=size, wait_seconds=wait_seconds
        )
        return batch.draws.draw_id

    def report(self, draws: list[str], seed: int) -> None:
        """Whole groups with made-up results."""
        successes = np.random.default_rng(seed).integers(0, 9, len(draws)).tolist()
        self.gps.report_groups(
            run=self.name, draw_id=draws, successes=successes, trials=[8] * len(draws)
        )


@contextmanager
def retraining(job: Job) -> Iterator[None]:
    """Outcomes of 256 prompts arrive without a pause, so that the model is always being fitted."""
    stop = threading.Event()

    def work() -> None:
        seed = 0
        while not stop.is_set():
            job.report(job.select(256, wait_seconds=30.0), seed)
            seed += 1

    thread = threading.Thread(target=work)
    thread.start()

    try:
        yield
    finally:
        stop.set()
        thread.join()


def fill(gps: PromptGPS, pool: str, prompts: int) -> float:
    """Import a pool; seconds."""
    gps.create_pool(pool)
    columns = texts(prompts)
    started = time.perf_counter()
    gps.add_prompts(pool, texts=columns)
    return time.perf_counter() - started


def selection_lines(
    gps: PromptGPS, prompts: int, size: int, target: str, repeats: int
) -> list[Line]:
    """Selections idle and while retraining, and the peer's own time for the same pick."""
    pool = f"pool-{prompts}"
    fill(gps, pool, prompts)
    job = Job(gps, pool, f"select-{prompts}")
    for seed in range(5):
        job.report(job.select(size, wait_seconds=60.0), seed)

    idle = timed(repeats, lambda _: job.select(size))

    busy_job = Job(gps, pool, f"busy-{prompts}")
    with retraining(busy_job):
        busy = timed(repeats, lambda _: job.select(size))

    walked = PerPrompt(prompts, 0)
    whole = Vectorised(prompts, 0)
    peer = np.percentile(timed(5, lambda _: walked.select(size)), 50)
    vectorised = np.percentile(timed(20, lambda _: whole.select(size)), 50)

    ratio = peer / np.percentile(idle, 50)
    told = f"MoPPS in process: {peer:.0f} ms (×{ratio:.1f}); vectorised: {vectorised:.1f} ms"
    name = f"`/select_batch`, {size} of {prompts:,}"

    return [
        Line(name, show(idle), target, told),
        Line(f"{name}, while retraining", show(busy), target, told),
    ]


def small_lines(gps: PromptGPS, prompts: int) -> list[Line]:
    """One draw at a time, and learning from 256 outcomes."""
    job = Job(gps, f"pool-{prompts}", "single")
    job.report(job.select(256, wait_seconds=60.0), 0)
    single = timed(300, lambda _: job.select(1))

    learning = Job(gps, f"pool-{prompts}", "learning")
    for seed in range(12):
        learning.report(learning.select(256, wait_seconds=60.0), seed)

    learning.select(256, wait_seconds=60.0)
    series = gps.metrics("learning").series
    timed_steps = zip(series["fit_seconds"], series["score_seconds"], strict=True)
    taken = [fit + score for fit, score in timed_steps if fit is not None and score is not None]
    learned = f"median {np.median(taken):.2f} s, worst {max(taken):.2f} s"

    return [
        Line("one draw (n = 1)", show(single), "p50 ≤ 5 ms"),
        Line(f"learn from 256 outcomes and rescore {prompts:,}", learned, "≤ 1 s"),
    ]


def outcome_lines(database: str, gps: PromptGPS, pool: str) -> list[Line]:
    """8,192 single rollouts in one request, and as many as go in ten seconds."""
    job = Job(gps, pool, f"outcomes-{database}")

    def rollouts(seed: int) -> None:
        draws = job.select(1024)
        rewards = np.random.default_rng(seed).integers(0, 2, 8192).astype(float).tolist()
        started = time.perf_counter()
        gps.report_rollouts(
            run=job.name,
            draw_id=[draw for draw in draws for _ in range(8)],
            rollout_index=list(range(8)) * 1024,
            reward=rewards,
        )
        taken.append(time.perf_counter() - started)

    taken: list[float] = []
    begun = time.perf_counter()
    seed = 0
    while time.perf_counter() - begun < 10:
        rollouts(seed)
        seed += 1

    rate = 8192 * len(taken) / (time.perf_counter() - begun)
    return [
        Line(
            f"8,192 rollouts in one request, {database}", show(1000 * np.array(taken)), "≤ 500 ms"
        ),
        Line(f"sustained, {database}", f"{rate:,.0f} rollouts/s", "≥ 5,000 rollouts/s"),
    ]


def large_lines(service: Service, gps: PromptGPS) -> list[Line]:
    """Imports of millions of rows, and a restart on a long log."""
    fill(gps, "pool-100000", 100_000)
    with tempfile.NamedTemporaryFile(suffix=".jsonl.gz") as file:
        with gzip.open(file.name, "wt", compresslevel=1) as lines:
            unique = [json.dumps({"text": text}) + "\n" for text in texts(20_000, seed=9)]
            for _ in range(100):
                lines.writelines(unique)

        gps.create_pool("duplicated")
        started = time.perf_counter()
        patient = gps.with_options(timeout=600)
        added = patient.add_prompts_file("duplicated", file.name)
        imported = time.perf_counter() - started

    assert added.added == 20_000
    assert added.duplicates == 1_980_000

    job = Job(gps, "pool-100000", "long")
    for _ in range(123):
        draws = job.select(1024)
        gps.report_rollouts(
            run=job.name,
            draw_id=[draw for draw in draws for _ in range(8)],
            rollout_index=list(range(8)) * 1024,
            reward=[0.0, 1.0] * 4096,
        )

    job.select(1024, wait_seconds=120.0)
    service.kill()
    service.start()

    return [
        Line("import 2,000,000 rows, each prompt 100 times", f"{imported:.0f} s", "≤ 3 min"),
        Line(
            "restart on 100,000 prompts and 1,007,616 outcomes",
            f"ready in {service.ready_seconds:.1f} s",
            "≤ 10 s",
        ),
    ]


def table(lines: list[Line], command: str) -> str:
    """Markdown."""
    rows = "\n".join(
        f"| {line.quantity} | {line.measured} | {line.target} | {line.peer} |" for line in lines
    )
    return (
        f"# Latency over loopback HTTP\n\n`{command}` on {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, "
        "SQLite unless it says otherwise; client and server share the cores.\n\n"
        "| quantity | measured | target | peer in the same run |\n"
        f"| --- | --- | --- | --- |\n{rows}\n"
    )


def measure(arguments: argparse.Namespace) -> list[Line]:
    """Every line that was asked for."""
    with running_service() as service, PromptGPS(service.url) as gps:
        lines = selection_lines(gps, 40_315, 256, "p50 ≤ 10 ms, p99 ≤ 50 ms, ≥ 3× MoPPS", 300)
        lines += small_lines(gps, 40_315)
        lines += outcome_lines("SQLite", gps, "pool-40315")
        imported = fill(gps, "pool-100000", 100_000)
        lines.append(Line("import 100,000 prompts with text", f"{imported:.1f} s", "≤ 30 s"))

        if arguments.million:
            patient = gps.with_options(timeout=600)
            lines += selection_lines(patient, 1_000_000, 512, "p50 ≤ 100 ms", 50)

    if arguments.postgres:
        with running_service(arguments.postgres) as other, PromptGPS(other.url) as gps:
            fill(gps, "pool-8192", 8192)
            lines += outcome_lines("PostgreSQL", gps, "pool-8192")

    if arguments.large:
        with running_service() as service, PromptGPS(service.url) as gps:
            lines += large_lines(service, gps)

    return lines


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--million", action="store_true", help="the pool of 1,000,000 too")
    parser.add_argument(
        "--large", action="store_true", help="long imports and a restart on a long log too"
    )
    parser.add_argument(
        "--postgres", metavar="URL", help="an empty PostgreSQL database to measure outcomes on too"
    )
    arguments = parser.parse_args()

    flags = [name for name in ("million", "large") if getattr(arguments, name)]
    flags += ["postgres …"] if arguments.postgres else []
    command = " ".join(["python -m benchmarks.latency", *(f"--{flag}" for flag in flags)])

    report = table(measure(arguments), command)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "latency.md").write_text(report)
    print(report)


if __name__ == "__main__":
    main()

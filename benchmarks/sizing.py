"""Memory and disk that a service needs, by prompts and by rollouts: `make bench-sizing`.

Writes `benchmarks/results/sizing.md`. Memory is the resident set of one process that serves and
learns, once a batch of 256 has been reported and learned; disk is the file of SQLite with its log,
or `pg_database_size` of PostgreSQL.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from promptgps_client import PromptGPS
from promptgps_service.store.engine import make_engine
from sqlalchemy import text

from benchmarks.latency import RESULTS, Job, fill
from benchmarks.service import Service, running_service

MB = 1e6
GROUP = 8
BATCH = 1_024


def memory(service: Service) -> tuple[float, float]:
    """Resident MB now, and at most so far."""
    lines = Path(f"/proc/{service.pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    now, peak = (float(status[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now / MB, peak / MB


def disk(service: Service) -> float:
    """MB that the database takes."""
    engine = make_engine(service.database_url)
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            size = float(
                connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one()
            )
        else:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            size = float(os.path.getsize(engine.url.database or ""))

    engine.dispose()
    return size / MB


@contextmanager
def opened(database_url: str | None) -> Iterator[tuple[Service, PromptGPS]]:
    """A service and its client."""
    with running_service(database_url) as service, PromptGPS(service.url, timeout=1800) as gps:
        yield service, gps


def pool_line(database_url: str | None, prompts: int) -> str:
    """What a pool of so many prompts with text takes, and a run over it."""
    with opened(database_url) as (service, gps):
        before = memory(service)[0]
        empty = disk(service)
        seconds = fill(gps, f"sizing-{prompts}", prompts)
        stored = disk(service) - empty
        job = Job(gps, f"sizing-{prompts}", f"sizing-{prompts}")
        for seed in range(3):
            job.report(job.select(256, wait_seconds=120.0), seed)
        job.select(1, wait_seconds=120.0)
        now, peak = memory(service)

    return (
        f"| {prompts:,} | {before:.0f} MB | {now:.0f} MB | {peak:.0f} MB | {stored:.0f} MB "
        f"| {seconds:.0f} s |"
    )


def rollout_line(
    database_url: str | None, rollouts: int, report: Callable[[Job, list[str], int], None]
) -> str:
    """Bytes that a rollout takes, with its draw and its share of a selection."""
    with opened(database_url) as (service, gps):
        name = f"log-{report.__name__}"
        fill(gps, name, 8_192)
        job = Job(gps, name, name)
        job.report(job.select(256, wait_seconds=60.0), 0)
        job.select(1, wait_seconds=60.0)
        before = disk(service)
        steps = rollouts // (BATCH * GROUP)
        for step in range(steps):
            report(job, job.select(BATCH), step)
        job.select(1, wait_seconds=120.0)
        each = (disk(service) - before) / (steps * BATCH * GROUP)

    kind = "PostgreSQL" if database_url else "SQLite"
    return (
        f"| {report.__name__.replace('_', ' ')}, {kind} | {steps * BATCH * GROUP:,} "
        f"| {1e6 * each:,.0f} MB |"
    )


def whole_groups(job: Job, draws: list[str], seed: int) -> None:
    """One row a group: k of n."""
    job.report(draws, seed)


def single_rollouts(job: Job, draws: list[str], seed: int) -> None:
    """One row a rollout, with its reward."""
    rewards = np.random.default_rng(seed).integers(0, 2, len(draws) * GROUP).astype(float).tolist()
    ids = [draw for draw in draws for _ in range(GROUP)]
    job.gps.report_rollouts(
        run=job.name, draw_id=ids, rollout_index=[*range(GROUP)] * len(draws), reward=rewards
    )


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizing", description=__doc__)
    parser.add_argument("--prompts", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--rollouts", type=int, default=1_000_000)
    parser.add_argument("--postgres", help="URL of an empty PostgreSQL database, for the log there")
    parser.add_argument("--out", type=Path, default=RESULTS / "sizing.md")
    options = parser.parse_args()

    lines = [
        "# Memory and disk",
        "",
        "`make bench-sizing`; one process that serves and learns, CPU build of torch.",
        "",
        "| prompts with text | memory before | serving and learning | at most | disk | import |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for prompts in options.prompts:
        lines.append(pool_line(None, prompts))
        print(lines[-1], flush=True)

    lines += ["", "| reported as | rollouts | disk a million |", "|---|---:|---:|"]
    for database_url in [None] + ([options.postgres] if options.postgres else []):
        for report in (whole_groups, single_rollouts):
            lines.append(rollout_line(database_url, options.rollouts, report))
            print(lines[-1], flush=True)

    options.out.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()

"""Closed-loop replay of a recorded history against a running service.

At each step the service chooses, and gets what the chosen prompts recorded at that visit. The
policy is taken to move as it did in the recorded run, so this measures prediction and choice, not
learning.
"""

from __future__ import annotations

import gzip
import json
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from promptgps_client import PromptGPS
from rich.console import Console
from rich.progress import track
from rich.table import Table

from promptgps_service.errors import Invalid

# Settings under which nothing but prediction and utility is measured: any prompt may come at any
# step.
FREE_REUSE = {"cooldown": 0, "candidate_factor": None, "uniform_share": 0.0}
WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class History:
    """A recorded run: texts by key, and (successes, trials) by key and visit."""

    texts: dict[str, str]
    outcomes: dict[str, dict[int, tuple[int, int]]]

    @property
    def steps(self) -> int:
        """Visits that every prompt has."""
        return min(len(visits) for visits in self.outcomes.values())


@dataclass(frozen=True)
class Replay:
    """One run of one strategy: what was chosen and what came of it."""

    strategy: str
    seed: int
    steps: int
    effective_share: float
    first_quarter: float
    last_quarter: float
    distinct: int
    reward_variance: float


def read_history(folder: Path) -> History:
    """Read `prompts.jsonl[.gz]` and `outcomes.jsonl[.gz]` of a folder.

    Raises:
        Invalid: a file is missing, or a line has no key, text, visit, successes or trials.
    """
    texts = {line["key"]: line["text"] for line in _lines(folder, "prompts", ("key", "text"))}
    outcomes: dict[str, dict[int, tuple[int, int]]] = {key: {} for key in texts}
    for number, line in enumerate(
        _lines(folder, "outcomes", ("key", "visit", "successes", "trials"))
    ):
        if line["key"] not in outcomes:
            raise Invalid.at("outcomes.key", f"{line['key']!r} is not among the prompts", number)
        outcomes[line["key"]][line["visit"]] = (line["successes"], line["trials"])

    return History(texts, outcomes)


def _lines(folder: Path, name: str, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
    for path, opener in (
        (folder / f"{name}.jsonl.gz", gzip.open),
        (folder / f"{name}.jsonl", open),
    ):
        if path.exists():
            with opener(path, "rt", encoding="utf-8") as lines:
                for number, line in enumerate(lines):
                    record = json.loads(line)
                    for field in fields:
                        if field not in record:
                            raise Invalid.at(f"{name}.{field}", "is missing", number)
                    yield record
            return

    raise Invalid.at(name, f"{folder} has neither {name}.jsonl.gz nor {name}.jsonl")


def replay_history(
    folder: Path,
    *,
    url: str,
    api_key: str | None,
    strategies: Sequence[str],
    seeds: Iterable[int],
    batch_size: int,
    steps: int | None,
    free_reuse: bool,
) -> list[Replay]:
    """Replay a history with each strategy and seed, each in a run of its own.

    Raises:
        Invalid: the history cannot be read, or has fewer steps than asked for.
    """
    history = read_history(folder)
    steps = history.steps if steps is None else steps
    if steps > history.steps:
        raise Invalid.at("steps", f"only {history.steps} visits are recorded for every prompt")

    tag = secrets.token_hex(3)
    pool = f"replay-{folder.resolve().name}-{tag}"
    replays = []
    with PromptGPS(url, api_key=api_key) as gps:
        gps.create_pool(pool)
        gps.add_prompts(pool, keys=list(history.texts), texts=list(history.texts.values()))
        for strategy in strategies:
            for seed in seeds:
                run = f"{strategy}-{seed}-{tag}"
                reuse = FREE_REUSE if free_reuse and strategy != "uniform" else {}
                gps.create_run(
                    name=run, pool=pool, seed=seed, selection={"strategy": strategy, **reuse}
                )
                replays.append(_one(gps, history, run, strategy, seed, batch_size, steps))

    return replays


def _one(
    gps: PromptGPS,
    history: History,
    run: str,
    strategy: str,
    seed: int,
    batch_size: int,
    steps: int,
) -> Replay:
    shares = []
    variances = []
    chosen = set()

    for step in track(range(steps), description=f"{strategy}, seed {seed}", transient=True):
        batch = gps.select_batch(
            run=run,
            sequence=step,
            batch_size=batch_size,
            policy_version=step,
            wait_seconds=WAIT_SECONDS,
        )

        outcomes = [history.outcomes[key][step] for key in batch.draws.prompt]
        gps.report_groups(
            run=run,
            draw_id=batch.draws.draw_id,
            policy_version=step,
            successes=[successes for successes, _ in outcomes],
            trials=[trials for _, trials in outcomes],
        )

        shares.append(mean(0 < successes < trials for successes, trials in outcomes))
        variances.append(mean(s / n * (1 - s / n) for s, n in outcomes))
        chosen.update(batch.draws.prompt)

    quarter = max(steps // 4, 1)
    return Replay(
        strategy,
        seed,
        steps,
        mean(shares),
        mean(shares[:quarter]),
        mean(shares[-quarter:]),
        len(chosen),
        mean(variances),
    )


def print_replays(replays: Sequence[Replay]) -> None:
    """A table of means and standard deviations over seeds."""
    table = Table(title=f"closed-loop replay, {replays[0].steps} steps")
    for heading in (
        "strategy",
        "seeds",
        "effective share",
        "first quarter",
        "last quarter",
        "p(1-p)",
        "distinct",
    ):
        table.add_column(heading, justify="left" if heading == "strategy" else "right")

    for strategy in dict.fromkeys(one.strategy for one in replays):
        own = [one for one in replays if one.strategy == strategy]
        columns = ("effective_share", "first_quarter", "last_quarter", "reward_variance")
        cells = [_spread([getattr(one, column) for one in own]) for column in columns]
        table.add_row(strategy, str(len(own)), *cells, f"{mean(one.distinct for one in own):.0f}")

    Console().print(table)


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")

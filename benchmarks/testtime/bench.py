"""`make bench-testtime`: prompts solved at equal mean budget, and budget needed for equal accuracy.

Each seed is another half of the prompts to train on, other samples drawn, another shuffle. Figures
are means over seeds ± the half-width of a 95 % confidence interval (Student's t); differences are
taken seed by seed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from promptgps_client import PromptGPS
from scipy.stats import t as student

from benchmarks.replay.histories import DATA, read_history
from benchmarks.replay.simulation import real_texts
from benchmarks.service import running_service
from benchmarks.testtime.cases import Case, Problem, make_case, raw_features
from benchmarks.testtime.plots import figure
from benchmarks.testtime.spending import ARMS, believed, in_rounds, share_out, solved, voted

RESULTS = Path(__file__).parents[1] / "results"
COMMAND = "make bench-testtime"
HEAD = (
    "best of n with a verifier. Samples are drawn without replacement from those that the late "
    "policy\nrecorded. Means over seeds ± 95 % confidence, differences seed by seed.\n"
    "\n"
    "- uniform: the same number for each prompt, at once;\n"
    "- unsolved evenly: no model; each of four equal rounds goes to the prompts not solved yet "
    "that have had the fewest\n  samples;\n"
    "- model: `hierarchical`, trained on a random half of the prompts, over "
    "`POST /allocate_budget`'s own maths, at once or\n  with the outcomes of earlier rounds;\n"
    "- shuffled: the same with each prompt given the prediction of another;\n"
    "- oracle: knows each prompt's recorded success rate."
)
DRAWS = 4  # of the samples, for a spending in rounds
DSR_MEANS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
PROBLEMS = (
    Problem(
        "rl-run-dsr-a",
        "rl-run-dsr-a, prompts never trained on",
        late=10,
        recorded=32,
        share=0.1,
        known=False,
        means=DSR_MEANS,
        target=8.0,
    ),
    Problem(
        "rl-run-dsr-a",
        "rl-run-dsr-a, prompts trained on, with a record",
        late=10,
        recorded=32,
        share=0.1,
        known=True,
        means=DSR_MEANS,
        target=8.0,
    ),
    Problem(
        "reasoning-gym-ladder",
        "reasoning-gym-ladder (easy split), prompts never trained on",
        late=3,
        recorded=9,
        share=0.5,
        known=False,
        means=(0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0),
        target=2.0,
    ),
)
VOTES = (3, 5, 9)

Curves = Mapping[str, NDArray[np.float64]]
"""Arm to its share of solved prompts, [seeds, means]."""


def measure(problem: Problem, cases: Sequence[Case]) -> dict[str, NDArray[np.float64]]:
    """Every arm on every case, at every mean."""
    answer = {name: np.empty((len(cases), len(problem.means))) for name in ARMS}
    for seed, case in enumerate(cases):
        for name, arm in ARMS.items():
            for column, mean in enumerate(problem.means):
                random = np.random.default_rng([seed, column])
                total = round(mean * case.mu.size)

                if arm.rounds == 1:
                    asked = believed(case, arm.belief, random)
                    samples = share_out(arm.belief, asked, "best_of_n", total, problem.recorded)
                    answer[name][seed, column] = solved(case, samples)
                else:
                    draws = [
                        in_rounds(case, arm, total, problem.recorded, random) for _ in range(DRAWS)
                    ]
                    answer[name][seed, column] = np.mean(draws)

        print(f"{problem.title}: seed {seed}", flush=True)

    return answer


def needed(curve: NDArray[np.float64], means: Sequence[float], accuracy: float) -> float:
    """Mean budget at which a curve reaches an accuracy, interpolated.

    NaN where it does not, or starts above it.
    """
    curve = np.maximum.accumulate(curve)
    if not curve[0] <= accuracy <= curve[-1]:
        return float("nan")
    return float(np.interp(accuracy, curve, means))


def savings(problem: Problem, curves: Curves, arm: str) -> NDArray[np.float64]:
    """Share of uniform's budget that an arm saves at uniform's accuracy at the target, [seeds]."""
    at = problem.means.index(problem.target)
    reached = zip(curves[arm], curves["uniform"][:, at], strict=True)

    return (
        1.0
        - np.array([needed(curve, problem.means, accuracy) for curve, accuracy in reached])
        / problem.target
    )


def interval(values: NDArray[np.float64], *, sign: str = "+") -> str:
    """Mean ± half-width, in hundredths; a dash where a seed has no value."""
    if not np.isfinite(values).all():
        return "–"
    half = student.ppf(0.975, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size)
    return f"{100 * values.mean():{sign}.1f} ± {100 * half:.1f}"


def report(problem: Problem, cases: Sequence[Case], curves: Curves) -> str:
    """Markdown: a row an arm; a column a mean budget, and the budget saved."""
    means = [mean for mean in problem.means if mean.is_integer()]
    correlation = np.mean([case.correlation for case in cases])
    heads = [f"mean {mean:g}" for mean in means] + [
        f"budget saved at uniform's accuracy of mean {problem.target:g}, %"
    ]
    lines = [
        f"## {problem.title}",
        "",
        f"{len(cases)} seeds, {np.mean([case.mu.size for case in cases]):.0f} prompts each; "
        "rank correlation of "
        f"prediction and truth {correlation:.2f}; at most {problem.recorded} samples a prompt. "
        "Uniform: prompts solved, %; the others: points over it.",
        "",
        "| | " + " | ".join(heads) + " |",
        "|---|" + "---:|" * len(heads),
    ]
    base = curves["uniform"]

    for name, curve in curves.items():
        shown, sign = (curve, "") if name == "uniform" else (curve - base, "+")
        cells = [interval(shown[:, problem.means.index(mean)], sign=sign) for mean in means]
        saved = "" if name == "uniform" else interval(savings(problem, curves, name))
        lines.append(f"| {name} | " + " | ".join([*cells, saved]) + " |")

    return "\n".join([*lines, ""])


def votes(problem: Problem, cases: Sequence[Case]) -> str:
    """Markdown: prompts of whose samples more than half are right, one-shot."""
    rows: dict[str, list[NDArray[np.float64]]] = {}
    for name, arm in ARMS.items():
        if arm.rounds > 1:
            continue
        for mean in VOTES:
            shares = []
            for seed, case in enumerate(cases):
                asked = believed(case, arm.belief, np.random.default_rng(seed))
                total = mean * case.mu.size
                samples = share_out(arm.belief, asked, "majority_vote", total, problem.recorded)
                shares.append(voted(case, samples))

            rows.setdefault(name, []).append(np.array(shares))

    lines = [
        "| | " + " | ".join(f"mean {mean}" for mean in VOTES) + " |",
        "|---|" + "---:|" * len(VOTES),
    ]
    for name, found in rows.items():
        cells = [
            interval(
                values if name == "uniform" else values - base,
                sign="" if name == "uniform" else "+",
            )
            for values, base in zip(found, rows["uniform"], strict=True)
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")

    return "\n".join([f"### Majority vote, {problem.title}", "", *lines, ""])


def speed(prompts: int = 40_315, repeats: int = 7) -> str:
    """Time of a call over loopback HTTP, client and server together."""
    texts = real_texts(prompts)
    keys = [f"k{row}" for row in range(prompts)]
    lines = ["| call | fastest s | median s |", "|---|---:|---:|"]

    with running_service() as service, PromptGPS(service.url) as gps:
        gps.create_pool("pool")
        gps.add_prompts("pool", keys=keys, texts=texts)
        gps.create_run(name="run", pool="pool")
        batch = gps.select_batch(run="run", sequence=0, batch_size=512)
        gps.report_groups(
            run="run", draw_id=batch.draws.draw_id, successes=[4] * 512, trials=[8] * 512
        )
        gps.select_batch(run="run", sequence=1, batch_size=1, wait_seconds=60)

        so_far = {
            "successes": [int(row % 5 == 0) for row in range(prompts)],
            "trials": [4] * prompts,
        }
        calls: dict[str, dict[str, Any]] = {
            "best_of_n, one-shot": {},
            "best_of_n, a later round": {"outcomes_so_far": so_far},
            "majority_vote, one-shot": {"objective": "majority_vote"},
        }

        for title, more in calls.items():
            taken = []
            for _ in range(repeats):
                started = time.perf_counter()
                gps.allocate_budget(run="run", keys=keys, mean=8, **more)
                taken.append(time.perf_counter() - started)

            lines.append(f"| {title} | {min(taken):.2f} | {np.median(taken):.2f} |")

    return "\n".join([f"## Time of a call: {prompts:,} keys, 8 samples a prompt", "", *lines, ""])


def main() -> None:
    """Measure, write table and picture."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.testtime.bench", description=__doc__
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()

    torch.set_num_threads(1)

    parts = []
    pictures = {}
    for problem in PROBLEMS:
        history = read_history(options.data / problem.history)
        raw = raw_features(history)
        cases = [make_case(problem, history, raw, seed) for seed in range(options.seeds)]
        curves = measure(problem, cases)
        parts.append(report(problem, cases, curves))
        pictures[problem.title] = (problem.means, curves)
        if problem.history == "rl-run-dsr-a":
            parts.append(votes(problem, cases))

    head = f"# Test-time budgets\n\n`{COMMAND}`, {HEAD}\n"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "testtime.md").write_text("\n".join([head, *parts, speed()]))
    figure(pictures, options.out / "testtime.png")
    print(f"written to {options.out / 'testtime.md'}")


if __name__ == "__main__":
    main()

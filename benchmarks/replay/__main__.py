"""``python -m benchmarks.replay open rl-run-dsr-a --predictor hierarchical beta --share 0.02 0.1``.

Parameters go to every predictor named: ``--predictor neural --set own_record=false prior=previous``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch
from promptgps_service.model.features import Features
from promptgps_service.model.registry import PREDICTORS, make_predictor

from benchmarks.replay.closed_loop import closed_loop, information, mixed, nearest, thompson
from benchmarks.replay.histories import DATA, History, read_history, text_features
from benchmarks.replay.open_loop import open_loop

UTILITIES = ("mixed", "information", "thompson", "nearest")


def main() -> None:
    """Parse, replay, print one row per setting: the mean over seeds."""
    arguments = _parser().parse_args()
    torch.set_num_threads(arguments.threads)
    history = read_history(arguments.data / arguments.history)
    features = text_features(history.texts)
    if arguments.loop == "open":
        for name in arguments.predictor:
            for share in arguments.share:
                runs = [_open(history, features, name, share, arguments, seed) for seed in arguments.seeds]
                _print(f"{name} {share:g}", runs)
    else:
        for name in arguments.predictor:
            for rule in arguments.utility:
                runs = [_closed(history, features, name, rule, arguments, seed) for seed in arguments.seeds]
                _print(f"{name}:{rule} {arguments.batch}/{arguments.candidates or 'all'}", runs)


def _open(
    history: History, features: Features, name: str, share: float, arguments: argparse.Namespace, seed: int
) -> dict[str, float]:
    started = time.perf_counter()
    # A policy of its own at each step, as on a ladder of models, has no next visits to average over.
    window = 3 if history.steps > 20 else 1
    predictor = make_predictor(name, features, torch.device("cpu"), **dict(arguments.set))
    scores = open_loop(history, predictor, share=share, window=window, seed=seed)
    return dataclasses.asdict(scores) | {"seconds": time.perf_counter() - started}


def _closed(
    history: History, features: Features, name: str, rule: str, arguments: argparse.Namespace, seed: int
) -> dict[str, float]:
    started = time.perf_counter()
    trials = int(history.trials.max())
    utility = {
        "mixed": mixed(trials), "information": information(), "thompson": thompson(), "nearest": nearest()
    }[rule]
    predictor = make_predictor(name, features, torch.device("cpu"), **dict(arguments.set))
    candidates, batch = arguments.candidates, arguments.batch
    scores = closed_loop(history, predictor, utility, batch=batch, candidates=candidates, seed=seed)
    return dataclasses.asdict(scores) | {"seconds": time.perf_counter() - started}


def _print(label: str, runs: list[dict[str, Any]]) -> None:
    means = {name: sum(run[name] for run in runs) / len(runs) for name in runs[0]}
    print(f"{label:32}", " ".join(f"{name} {value:.4g}" for name, value in means.items()), flush=True)


def _parameter(text: str) -> tuple[str, Any]:
    """A value as JSON has it, else as text."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replay", description=__doc__)
    parser.add_argument("loop", choices=("open", "closed"))
    parser.add_argument("history", help="folder under --data, e.g. rl-run-dsr-a")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--predictor", nargs="+", choices=tuple(PREDICTORS), default=["hierarchical"])
    parser.add_argument("--set", nargs="+", type=_parameter, default=[], metavar="NAME=VALUE")
    parser.add_argument("--share", nargs="+", type=float, default=[0.02, 0.1])
    parser.add_argument("--utility", nargs="+", choices=UTILITIES, default=["mixed"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--candidates", type=int)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    return parser


if __name__ == "__main__":
    main()

"""One question at a time, put to a recorded history.

``python -m benchmarks.replay open rl-run-dsr-a --predictor hierarchical --share 0.02 0.1``.

``python -m benchmarks.replay closed rl-run-dsr-a --arm mopps promptgps+bonus=1.0``. Parameters go
to every predictor named: ``--predictor neural --set own_record=false prior=previous``. All tables
at once: ``benchmarks.replay.bench``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from promptgps_service.model.registry import PREDICTORS, make_predictor

from benchmarks.arms import selection_of
from benchmarks.replay.closed_loop import closed_loop
from benchmarks.replay.histories import DATA, read_history, text_features
from benchmarks.replay.open_loop import open_loop


def main() -> None:
    """Parse, replay, print one row per setting: the mean over seeds."""
    arguments = _parser().parse_args()
    torch.set_num_threads(arguments.threads)
    history = read_history(arguments.data / arguments.history)
    features = text_features(history.texts)

    if arguments.loop == "closed":
        for arm in arguments.arm:
            runs = [
                closed_loop(history, features, selection_of(arm), batch=arguments.batch, seed=seed)
                for seed in arguments.seeds
            ]
            _print(arm, [dataclasses.asdict(run) for run in runs])

        return

    # A policy of its own at each step, as on a ladder of
    # models, has no next visits to average over.
    window = 3 if history.steps > 20 else 1
    for name in arguments.predictor:
        for share in arguments.share:
            made = (
                make_predictor(name, features, torch.device("cpu"), **dict(arguments.set))
                for _ in arguments.seeds
            )
            opened = [
                open_loop(history, predictor, share=share, window=window, seed=seed)
                for predictor, seed in zip(made, arguments.seeds, strict=True)
            ]
            _print(f"{name} {share:g}", [dataclasses.asdict(run) for run in opened])


def _print(label: str, runs: list[dict[str, Any]]) -> None:
    means = {name: sum(run[name] for run in runs) / len(runs) for name in runs[0]}
    print(
        f"{label:32}", " ".join(f"{name} {value:.4g}" for name, value in means.items()), flush=True
    )


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
    parser.add_argument(
        "--predictor", nargs="+", choices=tuple(PREDICTORS), default=["hierarchical"]
    )
    parser.add_argument("--set", nargs="+", type=_parameter, default=[], metavar="NAME=VALUE")
    parser.add_argument("--share", nargs="+", type=float, default=[0.02, 0.1])
    parser.add_argument(
        "--arm", nargs="+", default=["promptgps"], metavar="STRATEGY[+SETTING=JSON…]"
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)

    return parser


if __name__ == "__main__":
    main()

"""Strategies by name: each presets every setting of the choice."""

from __future__ import annotations

from typing import Any

_BASE: dict[str, Any] = {
    "predictor": "hierarchical",
    "predictor_parameters": {},
    "fallback": True,
    "utility": "mixed",
    "target": 0.5,
    "band": [0.2, 0.8],
    "bonus": 1.0,  # half of it does as well on the first prompts found, and stays with them
    "cooldown": "auto",
    "candidate_factor": 8,
    "uniform_share": 0.05,
    "diversity": 0.0,
    "history_steps": 1,
    "pending_steps": 100,
    "retire_above": None,
    "domain_quotas": None,
}

PRESETS: dict[str, dict[str, Any]] = {
    # a greedy pick over the whole pool narrows; a random subset and a short cool-down cure that at
    # almost no loss
    "promptgps": _BASE,
    # GPS (arXiv 2602.01970) as it stands: the generative model that knows a prompt by its text
    # alone, nearest one half over the whole pool, history-anchored diversity; the batch before is
    # left out, or the choice locks on
    "gps": _BASE
    | {
        "predictor": "neural",
        "predictor_parameters": {"own_record": False, "residual": False},
        "fallback": False,
        "utility": "target",
        "bonus": 0.0,
        "cooldown": 1,
        "candidate_factor": None,
        "uniform_share": 0.0,
        "diversity": 0.05,
    },
    # MoPPS (arXiv 2507.04632): discounted Beta record, Thompson draw nearest the target, random
    # candidates
    "mopps": _BASE
    | {
        "predictor": "beta",
        "predictor_parameters": {"discount": 1.0},
        "fallback": False,
        "utility": "thompson",
        "bonus": 0.0,
        "cooldown": 0,
        "uniform_share": 0.0,
    },
    "uniform": _BASE
    | {
        "predictor": "constant",
        "fallback": False,
        "utility": "uniform",
        "bonus": 0.0,
        "cooldown": 0,
        "candidate_factor": 1,
        "uniform_share": 1.0,
    },
}


def resolve(strategy: str, given: dict[str, Any]) -> dict[str, Any]:
    """Every setting spelled out: what was given, else the preset's value."""
    settings = PRESETS[strategy] | given
    if (
        settings["predictor"] != PRESETS[strategy]["predictor"]
        and "predictor_parameters" not in given
    ):
        settings["predictor_parameters"] = {}  # the preset's are those of its own predictor
    return {"strategy": strategy, **settings}

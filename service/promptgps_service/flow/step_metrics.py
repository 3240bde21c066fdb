"""What a step showed, as one flat record of numbers for the run's series."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from promptgps_service.acquisition.utility import mixed_probability
from promptgps_service.flow.steps import Step
from promptgps_service.model.panel import Report
from promptgps_service.model.quality import Scores

Metrics = dict[str, float | None]
# On the few uniform picks of a step too: selection does not bias these. Their calibration error
# would be mostly noise.
MONITORED = ("log_loss", "brier", "spearman")


def step_metrics(step: Step, mean: Tensor, served: str, report: Report, rollouts: int) -> Metrics:
    """Metrics of a step: what was observed, whatever its age has the model make of it.

    Everything about predictions is what had been said before anyone learned from the step. A group
    is what one draw came to: a prompt that several policies have tried is a group of each.

    Args:
        step: what was visited and what came of it.
        mean: float[M], E γ of the predictor that was served.
        served: its name.
        report: scores of all predictors.
        rollouts: n, for the expected share of mixed groups.
    """
    groups = step.groups
    compared = groups.trials >= 2
    mixed = (groups.successes > 0) & (groups.successes < groups.trials)
    rate = groups.successes / groups.trials
    metrics: Metrics = {
        "clock": float(step.clock),
        "prompts": float(len(step.visits)),
        "rollouts": float(groups.trials.sum()),
        "success_rate": float(groups.successes.sum() / groups.trials.sum()),
        "predicted_success": float(mean.mean()),
        "effective_share": _share(mixed[compared]),
        "predicted_effective_share": float(mixed_probability(mean, rollouts).mean()),
        "uniform_prompts": float(step.uniform.sum()),
        "uniform_success_rate": _share(rate[groups.uniform]),
        "uniform_effective_share": _share(mixed[compared & groups.uniform]),
    }

    for name, scores in report.scores.items():
        own = _told(scores, (*MONITORED, "calibration_error")) | _told(
            report.uniform.get(name), MONITORED, "uniform_"
        )
        metrics |= {f"{name}.{key}": value for key, value in own.items()}
        metrics[f"{name}.served"] = float(name == served)
        metrics[f"{name}.failed"] = float(name in report.failed)
        if name == served:
            metrics |= own

    return metrics | report.vitals


def _told(scores: Scores | None, names: Sequence[str], prefix: str = "") -> Metrics:
    return {prefix + name: None if scores is None else getattr(scores, name) for name in names}


def _share(flags: Tensor) -> float | None:
    return float(flags.double().mean()) if flags.numel() else None

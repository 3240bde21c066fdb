"""What a step showed, as one flat record of numbers for the run's series."""

from __future__ import annotations

import torch
from torch import Tensor

from promptgps_service.acquisition.utility import mixed_probability
from promptgps_service.flow.steps import Step
from promptgps_service.model.panel import Report
from promptgps_service.model.quality import score

Metrics = dict[str, float | None]


def step_metrics(step: Step, mean: Tensor, served: str, report: Report, rollouts: int) -> Metrics:
    """Metrics of a step; everything about predictions is what had been said before anyone learned from it.

    Args:
        step: what was visited and what came of it.
        mean: float[M], E γ of the predictor that was served.
        served: its name.
        report: scores of all predictors.
        rollouts: n, for the expected share of mixed groups.
    """
    visits = step.visits
    groups = visits.trials >= 2
    mixed = (visits.successes > 0) & (visits.successes < visits.trials)
    monitor = torch.from_numpy(step.uniform)
    metrics: Metrics = {
        "clock": float(step.clock),
        "prompts": float(len(visits)),
        "rollouts": float(visits.trials.sum()),
        "success_rate": float(visits.successes.sum() / visits.trials.sum()),
        "predicted_success": float(mean.mean()),
        "effective_share": _share(mixed[groups]),
        "predicted_effective_share": float(mixed_probability(mean, rollouts).mean()),
        "uniform_prompts": float(monitor.sum()),
        "uniform_success_rate": _share(visits.successes[monitor] / visits.trials[monitor]),
        "uniform_effective_share": _share(mixed[groups & monitor]),
    }
    metrics |= _of_monitor(mean[monitor], visits.successes[monitor], visits.trials[monitor])
    for name, scores in report.scores.items():
        own: Metrics = {
            "log_loss": scores.log_loss,
            "brier": scores.brier,
            "spearman": scores.spearman,
            "calibration_error": scores.calibration_error,
        }
        metrics |= {f"{name}.{key}": value for key, value in own.items()}
        metrics[f"{name}.served"] = float(name == served)
        if name == served:
            metrics |= own
    return metrics


def _of_monitor(mean: Tensor, successes: Tensor, trials: Tensor) -> Metrics:
    """Scores on the uniform picks, which selection does not bias."""
    if not len(mean):
        return {"uniform_log_loss": None, "uniform_brier": None}
    scores = score(mean, successes, trials)
    return {"uniform_log_loss": scores.log_loss, "uniform_brier": scores.brier}


def _share(flags: Tensor) -> float | None:
    return float(flags.double().mean()) if flags.numel() else None

"""Open loop: each step a random share of the pool is observed; everything is predicted before."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from promptgps_service.model.predictor import Posterior, Predictor
from promptgps_service.model.quality import calibration_error, log_loss, spearman
from scipy.stats import binom
from torch import Tensor

from benchmarks.replay.histories import History

LEVEL = 0.9


@dataclass(frozen=True)
class OpenLoop:
    """Means over the steps after the first; ``new`` is about prompts never observed so far.

    ``rho`` is with the success rate of the next ``window`` visits, ``rho_early`` over the first
    tenth of the run; the losses are with the step's own outcomes, per attempt.
    ``calibration_error`` is the mean of the steps' own, which sampling noise alone keeps above
    zero; ``calibration_error_pooled`` bins all steps together. ``covered`` is how often the step's
    outcomes fell into the central 90 % of what was predicted for them.
    """

    rho: float
    rho_early: float
    rho_new: float
    log_loss: float
    log_loss_new: float
    calibration_error: float
    calibration_error_pooled: float
    covered: float
    covered_new: float


def open_loop(
    history: History, predictor: Predictor, *, share: float, window: int, seed: int
) -> OpenLoop:
    """Observe ``share`` of the pool at each step.

    Args:
        history: what is replayed.
        predictor: fresh, over the history's prompts.
        share: of the pool, in (0, 1].
        window: visits whose success rate the rank correlation is with.
        seed: of the random shares.
    """
    random = torch.Generator().manual_seed(seed)
    unseen = torch.ones(history.prompts, dtype=torch.bool)

    steps: list[tuple[float, ...]] = []
    means: list[Tensor] = []
    for step in range(history.steps):
        if step:
            posterior = predictor.predict()
            means.append(posterior.mean.cpu())
            covered = _covered(history, posterior, step, random)
            scores = _scores(history, means[-1], unseen, step, window)
            steps.append((*scores, _mean(covered), _mean(covered[unseen])))

        rows = torch.randperm(history.prompts, generator=random)[
            : max(1, round(share * history.prompts))
        ]
        predictor.observe(history.visits(rows, step))
        unseen[rows] = False

    table = torch.tensor(steps, dtype=torch.float64)
    early = table[: max(1, len(table) // 10)]
    rho, rho_new, loss, loss_new, error, covered, covered_new = table.nanmean(0).tolist()

    mean = torch.stack(means, dim=1)
    s = history.successes[:, 1:]
    n = history.trials[:, 1:]
    pooled = calibration_error(mean[n > 0], s[n > 0], n[n > 0])
    rho_early = float(early[:, 0].nanmean())

    return OpenLoop(rho, rho_early, rho_new, loss, loss_new, error, pooled, covered, covered_new)


def _covered(history: History, posterior: Posterior, step: int, random: torch.Generator) -> Tensor:
    """Whether each outcome's place in its predictive distribution is a central one, float64[N].

    NaN without outcome.

    The place of a count is drawn between the probabilities of fewer and of at most as many (a
    randomised probability integral transform: Czado, Gneiting and Held, Biometrics 65, 2009):
    uniform on (0, 1) if the prediction is right.
    """
    s = history.successes[:, step, None].numpy()
    n = history.trials[:, step, None].numpy()
    gamma, weight = (part.double().cpu() for part in posterior.nodes())
    below, upto = (
        torch.from_numpy(binom.cdf(count, n, gamma.numpy())) @ weight for count in (s - 1, s)
    )

    place = below + (upto - below) * torch.rand(len(below), generator=random, dtype=torch.float64)
    central = ((place > (1 - LEVEL) / 2) & (place < (1 + LEVEL) / 2)).double()

    return torch.where(history.trials[:, step] > 0, central, torch.nan)


def _mean(values: Tensor) -> float:
    return float(values.nanmean()) if values.numel() else torch.nan


def _scores(
    history: History, mean: Tensor, unseen: Tensor, step: int, window: int
) -> tuple[float, ...]:
    s = history.successes[:, step]
    n = history.trials[:, step]
    rate = history.rate(step, step + window)
    there = n > 0
    known = rate.isfinite()
    new = there & unseen
    new_known = known & unseen

    return (
        spearman(mean[known], rate[known]) or 0.0,
        (spearman(mean[new_known], rate[new_known]) or 0.0) if new_known.sum() >= 10 else torch.nan,
        log_loss(mean[there], s[there], n[there]),
        log_loss(mean[new], s[new], n[new]) if new.any() else torch.nan,
        calibration_error(mean[there], s[there], n[there]),
    )

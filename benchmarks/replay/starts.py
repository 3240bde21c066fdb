"""What a start is worth: cold, from another run's model, and with offline pass rates.

Looked at are a run's first 20 steps.

The prompts of a recorded run are halved by the seed. A source run learns on one half through the
whole recording; the run that is looked at predicts the other half (another pool), or the same one
(the same pool, policy put back to base).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from promptgps_service.embedding.surface import surface_features
from promptgps_service.embedding.wordllama import embed
from promptgps_service.model.features import Features, Frame, fit_frame, offline_log_odds
from promptgps_service.model.hierarchical import Hierarchical
from promptgps_service.model.predictor import Visits
from promptgps_service.model.quality import log_loss, spearman
from torch import Tensor

from benchmarks.replay.histories import History

STEPS = 21
OFFLINE_STEP = 20  # the recorded step whose outcomes stand for another policy's pass rates
WINDOW = 3
SHARE = 0.02
CPU = torch.device("cpu")
STARTS = ("cold", "warm, another pool", "warm, the same pool", "offline pass rates")


@dataclass(frozen=True)
class Start:
    """Rank correlation with the next visits, and log-loss per attempt; means.

    Before each of the steps 0 to 20.
    """

    rho_mean: float
    log_loss_mean: float
    rho: list[float]
    log_loss: list[float]


def start(history: History, name: str, seed: int) -> Start:
    """First steps of a run over half of the prompts, started as ``name`` of ``STARTS`` says."""
    order = torch.randperm(history.prompts, generator=torch.Generator().manual_seed(1000 + seed))
    theirs = order[: history.prompts // 2]
    ours = order[history.prompts // 2 :]
    if name == "warm, the same pool":
        ours = theirs

    run = _starter(history, name, theirs, ours, seed)
    random = torch.Generator().manual_seed(seed)

    rhos = []
    losses = []
    for step in range(STEPS):
        mean = run.predict().mean
        rate = history.rate(step, step + WINDOW)[ours]
        s = history.successes[ours, step]
        n = history.trials[ours, step]
        known = rate.isfinite()
        there = n > 0
        rhos.append(spearman(mean[known], rate[known]) or 0.0)
        losses.append(log_loss(mean[there], s[there], n[there]))
        run.observe(_visits(history, ours, random, step))

    return Start(sum(rhos) / STEPS, sum(losses) / STEPS, rhos, losses)


def _starter(history: History, name: str, theirs: Tensor, ours: Tensor, seed: int) -> Hierarchical:
    if name == "cold":
        return Hierarchical(_features(history, ours)[1], device=CPU)

    if name == "offline pass rates":
        s = history.successes[ours, OFFLINE_STEP]
        n = history.trials[ours, OFFLINE_STEP]
        return Hierarchical(
            _features(history, ours, offline=torch.stack([s, n], dim=1))[1], device=CPU
        )

    frame, features = _features(history, theirs)
    source = Hierarchical(features, device=CPU)
    random = torch.Generator().manual_seed(2000 + seed)
    for step in range(history.steps):
        source.observe(_visits(history, theirs, random, step))

    run = Hierarchical(_features(history, ours, frame=frame)[1], device=CPU)
    same = name == "warm, the same pool"
    run.begin(
        source.state_dict(), torch.arange(len(theirs)) if same else torch.full((len(theirs),), -1)
    )

    return run


def _features(
    history: History, rows: Tensor, *, frame: Frame | None = None, offline: Tensor | None = None
) -> tuple[Frame, Features]:
    texts = [history.texts[row] for row in rows]
    raw = {
        "embedding": torch.as_tensor(embed(texts)),
        "surface": torch.as_tensor(surface_features(texts)),
    }
    if offline is not None:
        raw["offline"] = offline_log_odds(offline)

    frame = frame or fit_frame(raw)
    return frame, frame.features(raw, offline)


def _visits(history: History, rows: Tensor, random: torch.Generator, step: int) -> Visits:
    """A random share of the prompts ``rows``, visited at ``step``, by their places among them."""
    places = torch.randperm(len(rows), generator=random)[: max(1, round(SHARE * len(rows)))]
    s = history.successes[rows[places], step]
    n = history.trials[rows[places], step]
    return Visits(places[n > 0], s[n > 0], n[n > 0])

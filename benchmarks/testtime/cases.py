"""Prompts to solve, predicted by a model that was trained on others.

They come with the samples that the late policy recorded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from promptgps_service.allocation.belief import Floats, Integers, log_odds
from promptgps_service.embedding.surface import surface_features
from promptgps_service.embedding.wordllama import embed
from promptgps_service.model.features import fit_frame
from promptgps_service.model.predictor import Posterior, Visits
from promptgps_service.model.quality import spearman
from promptgps_service.model.registry import make_predictor

from benchmarks.replay.histories import History


@dataclass(frozen=True)
class Problem:
    """A set to measure on.

    Attributes:
        history: folder of the recorded history.
        title: in the report.
        late: visits at the end whose samples are the truth.
        recorded: samples that a prompt must have there, and most that it is given.
        share: of the training prompts, observed at each step.
        known: measure on the training prompts, trained on up to the late visits; else on prompts
            never trained on.
        means: samples a prompt.
        target: mean at which uniform sets the accuracy to reach.
    """

    history: str
    title: str
    late: int
    recorded: int
    share: float
    known: bool
    means: tuple[float, ...]
    target: float


@dataclass(frozen=True)
class Case:
    """One split of a problem: M prompts.

    Attributes:
        mu: predicted mean of the log-odds, float64[M].
        sd: its standard deviation, float64[M].
        right: right ones among the recorded samples, int64[M].
        recorded: samples recorded, int64[M].
        correlation: Spearman, of the prediction with the recorded success rate.
    """

    mu: Floats
    sd: Floats
    right: Integers
    recorded: Integers
    correlation: float


def raw_features(history: History) -> dict[str, torch.Tensor]:
    """The default blocks, before any frame."""
    return {
        "embedding": torch.as_tensor(embed(history.texts)),
        "surface": torch.as_tensor(surface_features(history.texts)),
    }


def make_case(problem: Problem, history: History, raw: dict[str, torch.Tensor], seed: int) -> Case:
    """Train on a random half of the prompts, predict the other half (or, `known`, the same)."""
    random = torch.Generator().manual_seed(seed)
    order = torch.randperm(history.prompts, generator=random)
    train = order[: history.prompts // 2]
    others = order[history.prompts // 2 :]

    frame = fit_frame({name: part[train] for name, part in raw.items()})
    features = frame.features({name: part[train] for name, part in raw.items()})
    predictor = make_predictor("hierarchical", features, torch.device("cpu"))
    first_late = history.steps - problem.late

    for step in range(first_late if problem.known else history.steps):
        rows = torch.randperm(len(train), generator=random)[: round(problem.share * len(train))]
        rows = rows[history.trials[train[rows], step] > 0]
        found = history.visits(train[rows], step)
        predictor.observe(Visits(rows, found.successes, found.trials))

    asked = train if problem.known else others
    posterior: Posterior = (
        predictor.predict()
        if problem.known
        else predictor.predict_new(frame.apply({name: part[asked] for name, part in raw.items()}))
    )

    s, n = (_whole(part[asked, first_late:].sum(1)) for part in (history.successes, history.trials))
    there = n >= problem.recorded
    values, weights = posterior.take(torch.from_numpy(np.flatnonzero(there))).nodes()
    mu, sd = log_odds(values.double().numpy(), weights.double().numpy())
    s = s[there]
    n = n[there]

    return Case(mu, sd, s, n, spearman(torch.from_numpy(mu), torch.from_numpy(s / n)) or 0.0)


def _whole(column: torch.Tensor) -> NDArray[np.int64]:
    return column.round().long().numpy()

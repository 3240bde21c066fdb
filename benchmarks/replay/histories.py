"""Recorded histories: which prompts were tried, and what came of each visit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from promptgps_service import replay
from promptgps_service.embedding.surface import surface_features
from promptgps_service.embedding.wordllama import embed
from promptgps_service.model.features import Features, fit_frame
from promptgps_service.model.predictor import Visits
from torch import Tensor

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


@dataclass(frozen=True)
class History:
    """Outcomes of N prompts at T places in time.

    Attributes:
        name: the folder's.
        texts: of the N prompts.
        successes: float64[N, T].
        trials: float64[N, T], 0 where a prompt has no outcome.
    """

    name: str
    texts: tuple[str, ...]
    successes: Tensor
    trials: Tensor

    @property
    def prompts(self) -> int:
        """N."""
        return int(self.trials.shape[0])

    @property
    def steps(self) -> int:
        """T."""
        return int(self.trials.shape[1])

    def visits(self, rows: Tensor, step: int) -> Visits:
        """What the prompts ``rows``, long[M], recorded at ``step``.

        Those without an outcome are left out.
        """
        rows = rows[self.trials[rows, step] > 0]
        return Visits(rows, self.successes[rows, step], self.trials[rows, step])

    def rate(self, first: int, stop: int) -> Tensor:
        """Success rate over the steps ``first`` to ``stop``, float64[N]; NaN without an outcome."""
        return self.successes[:, first:stop].sum(1) / self.trials[:, first:stop].sum(1)


def read_history(folder: Path) -> History:
    """Read prompts and outcomes of a folder.

    Time ends where half of the prompts have no outcome left.
    """
    recorded = replay.read_history(folder)
    steps = 1 + max(visit for visits in recorded.outcomes.values() for visit in visits)
    successes = torch.zeros(len(recorded.texts), steps, dtype=torch.float64)
    trials = torch.zeros_like(successes)

    for row, key in enumerate(recorded.texts):
        for visit, (s, n) in recorded.outcomes[key].items():
            successes[row, visit] = s
            trials[row, visit] = n

    kept = int(((trials > 0).double().mean(0) >= 0.5).sum())
    return History(
        folder.name, tuple(recorded.texts.values()), successes[:, :kept], trials[:, :kept]
    )


def text_features(texts: tuple[str, ...]) -> Features:
    """The default blocks: WordLlama and surface counts."""
    raw = {
        "embedding": torch.as_tensor(embed(texts)),
        "surface": torch.as_tensor(surface_features(texts)),
    }
    return fit_frame(raw).features(raw)

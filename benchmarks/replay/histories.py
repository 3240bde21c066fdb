"""Recorded histories: which prompts were tried, and what came of each visit."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
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
        """What the prompts ``rows``, long[M], recorded at ``step``; those without an outcome are left out."""
        rows = rows[self.trials[rows, step] > 0]
        return Visits(rows, self.successes[rows, step], self.trials[rows, step])

    def rate(self, first: int, stop: int) -> Tensor:
        """Success rate over the steps ``first`` to ``stop``, float64[N]; NaN without an outcome."""
        return self.successes[:, first:stop].sum(1) / self.trials[:, first:stop].sum(1)


def read_history(folder: Path) -> History:
    """Read prompts and outcomes of a folder; time ends where half of the prompts have no outcome left."""
    prompts = list(_lines(folder / "prompts.jsonl.gz"))
    row = {prompt["key"]: number for number, prompt in enumerate(prompts)}
    outcomes = list(_lines(folder / "outcomes.jsonl.gz"))
    steps = 1 + max(outcome["visit"] for outcome in outcomes)
    successes = torch.zeros(len(prompts), steps, dtype=torch.float64)
    trials = torch.zeros_like(successes)
    for outcome in outcomes:
        place = row[outcome["key"]], outcome["visit"]
        successes[place] += outcome["successes"]
        trials[place] += outcome["trials"]
    kept = int(((trials > 0).double().mean(0) >= 0.5).sum())
    texts = tuple(prompt["text"] for prompt in prompts)
    return History(folder.name, texts, successes[:, :kept], trials[:, :kept])


def text_features(texts: tuple[str, ...]) -> Features:
    """The default blocks: WordLlama and surface counts."""
    raw = {
        "embedding": torch.as_tensor(embed(texts)),
        "surface": torch.as_tensor(surface_features(texts)),
    }
    return fit_frame(raw).features(list(raw.values()))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)

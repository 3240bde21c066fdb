"""A learner made up on real texts, with training that works.

Difficulty is partly told by the text, and there is a common drift.

    theta_i0 = a quantile of the recorded run's log-odds, placed by
        sqrt(r2) · text_i + sqrt(1 − r2) · noise_i
    theta_i,t+1 = theta_it + drift + noise · N(0, 1) + feedback · 1[prompt i had a mixed group at t]

Half of what the text tells is linear in the features, half is not. Replay on a record cannot show
what training does to the prompts it visits; this can.
"""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from promptgps_service.acquisition.utility import mixed_probability
from promptgps_service.model.features import Features
from torch import Tensor

from benchmarks.replay.histories import DATA, read_history

POOLS = ("deepscaler_10240", "math_train", "gsm8k_train", "aime_train")


def real_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of the pools and histories at hand, in a fixed random order.

    Words are swapped in copies if they run out.
    """
    texts: list[str] = []
    paths = [DATA / "pools" / f"{name}.jsonl.gz" for name in POOLS]
    paths += [DATA / name / "prompts.jsonl.gz" for name in ("rl-run-dsr-a", "reasoning-gym-ladder")]
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            texts += [json.loads(line)["text"] for line in lines]

    shuffled = random.Random(seed)
    texts = list(dict.fromkeys(texts))
    shuffled.shuffle(texts)

    while len(texts) < count:
        words = texts[shuffled.randrange(len(texts))].split(" ")
        words.insert(shuffled.randrange(len(words) + 1), words[shuffled.randrange(len(words))])
        texts.append(" ".join(words))

    return texts[:count]


def recorded_log_odds() -> Tensor:
    """Log-odds of the prompts of the recorded run over its first ten visits, sorted.

    With half a success added.
    """
    history = read_history(Path(DATA / "rl-run-dsr-a"))
    s = history.successes[:, :10].sum(1)
    n = history.trials[:, :10].sum(1)
    return torch.log((s + 0.5) / (n - s + 0.5)).sort().values


@dataclass
class Learner:
    """The policy: theta float64[N], moved by ``step``."""

    theta: Tensor
    drift: float
    noise: float
    feedback: float
    random: torch.Generator

    @property
    def gamma(self) -> Tensor:
        """True success rates, float64[N]."""
        return torch.sigmoid(self.theta)

    def mixed(self, rows: Tensor, rollouts: int) -> float:
        """True share of mixed groups to be expected of the rows."""
        return float(mixed_probability(self.gamma[rows], rollouts).mean())

    def roll_out(self, rows: Tensor, rollouts: int) -> Tensor:
        """Successes of a group each, float64[M]."""
        trials = torch.full((len(rows),), float(rollouts), dtype=torch.float64)
        return torch.binomial(trials, self.gamma[rows], generator=self.random)

    def step(self, rows: Tensor, successes: Tensor, rollouts: int) -> None:
        """Train on the groups."""
        noise = torch.randn(self.theta.shape, generator=self.random, dtype=torch.float64)
        self.theta = self.theta + self.drift + self.noise * noise
        informative = (successes > 0) & (successes < rollouts)
        self.theta[rows] += self.feedback * informative


def make_learner(
    features: Features,
    *,
    seed: int,
    told: float = 0.15,
    drift: float = 0.006,
    noise: float = 0.03,
    feedback: float = 0.0,
    log_odds: Tensor | None = None,
) -> Learner:
    """A learner over the rows of the features.

    Args:
        features: of the pool.
        told: r2, share of the variance of the placement that the text tells.
        drift: log-odds that every prompt gains a step.
        noise: standard deviation of each prompt's own walk, log-odds a step.
        feedback: log-odds that a prompt gains by a mixed group of its own.
        seed: of the placement and of everything that follows.
        log_odds: float64[L], sorted, that the pool's are drawn from; default: those of the recorded
            run.
    """
    random_ = torch.Generator().manual_seed(seed)
    x = features.x.double()
    linear = x @ torch.randn(features.dimension, generator=random_, dtype=torch.float64)
    waves = torch.randn(features.dimension, 64, generator=random_, dtype=torch.float64)
    phase = 6.2832 * torch.rand(64, generator=random_, dtype=torch.float64)
    curved = torch.cos(1.5 * (x @ waves) + phase) @ torch.randn(
        64, generator=random_, dtype=torch.float64
    )

    own = torch.randn(features.rows, generator=random_, dtype=torch.float64)
    placed = (told / 2) ** 0.5 * (_unit(linear) + _unit(curved)) + (1 - told) ** 0.5 * own
    quantile = placed.argsort().argsort().double() / max(features.rows - 1, 1)

    recorded = recorded_log_odds() if log_odds is None else log_odds
    at = quantile * (len(recorded) - 1)
    low = at.floor().long().clamp_max(len(recorded) - 2)
    theta = torch.lerp(recorded[low], recorded[low + 1], at - low)

    return Learner(theta, drift, noise, feedback, random_)


def _unit(x: Tensor) -> Tensor:
    return (x - x.mean()) / x.std().clamp_min(1e-9)

"""Variances learned online: values on a grid, each scored by its predictions (type-II likelihood).

The evidence of each step is the prequential marginal likelihood, log p(step | past, value) (Dawid
1984), so that no outcome judges a variance it was already used to fit. Old evidence fades: a run in
training moves.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PRIOR_SD = 2.0  # of the log of a variance


class LogGrid:
    """A positive number with a log-normal prior around ``start``, on a geometric grid.

    Attributes:
        values: float64[K], the grid.
        evidence: float64[K], discounted log marginal likelihood of each value.
    """

    def __init__(
        self, lowest: float, ratio: float, count: int, start: float, device: torch.device
    ) -> None:
        power = torch.arange(count, dtype=torch.float64, device=device)
        self.values = lowest * ratio**power
        self._prior = -0.5 * ((self.values.log() - math.log(start)) / PRIOR_SD).square()
        self.restore(torch.zeros_like(self.values))

    def learn(self, evidence: Tensor, forgetting: float) -> None:
        """Fade what is known by ``forgetting`` and add a step's evidence.

        The evidence is log marginal likelihoods, float64[K].
        """
        self.restore(forgetting * self.evidence + evidence)

    def restore(self, evidence: Tensor) -> None:
        """Set the evidence, float64[K]; the value becomes the posterior mean of the log."""
        # Only differences count; keeping the best at zero keeps them exact over millions of steps.
        self.evidence = evidence - evidence.max()
        weight = torch.softmax(self.evidence + self._prior, dim=0)
        self.value = math.exp(float(weight @ self.values.log()))


def spread_grid(device: torch.device) -> LogGrid:
    """su2, the variance between prompts that text does not explain: 0.05 to 25.6."""
    return LogGrid(0.05, 2.0, 10, 2.0, device)


def ageing_grid(device: torch.device) -> LogGrid:
    """qu, the variance a prompt's own log-odds gain a step: 1e-4 to 1.6."""
    return LogGrid(1e-4, 4.0, 8, 0.02, device)


def drift_grid(device: torch.device) -> LogGrid:
    """qa, the variance the level gains a step: 1e-4 to 1.6."""
    return LogGrid(1e-4, 4.0, 8, 0.01, device)

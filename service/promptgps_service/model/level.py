"""Two latents all prompts share: level a_t, and gain g of an informative visit for its own prompt.

Without g, the improvement of trained prompts would be taken for a rise of the common level:
everything unseen would look solved and selection would stay where it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from promptgps_service.model.quadrature import log_expected_likelihood

STEP = 0.05  # logits, of both grids
LEVEL_REACH = 80  # steps to either side: ±4 logits in one update
GAIN_REACH = 20  # ±1 logit
GAIN_DRIFT = 1e-5
LEVEL_VARIANCE = 4.0
GAIN_VARIANCE = 0.01
LEVEL_FLOOR = STEP**2 / 12.0  # variance of a uniform cell: the grid can't know more
GAIN_FLOOR = 2e-4
CHUNK = 1024  # prompts at a time: [1024, 201, 9] float64 is 15 MB


@dataclass(frozen=True)
class Increment:
    """What a batch moved: mean increments of level and gain.

    ``evidence`` is float64[K], see ``Level.update``.
    """

    da: float
    dg: float
    evidence: Tensor


class Level:
    """Joint grid filter of the level's and the gain's increments.

    Attributes:
        a: E a_t, logits.
        variance: Pa, its variance.
        gain: E g, logits a prompt gains by an informative visit.
        gain_variance: variance of g.
    """

    def __init__(self, device: torch.device, start: float = 0.0) -> None:
        """Start at level ``start``, logits."""
        self.a = start
        self.variance = LEVEL_VARIANCE
        self.gain = 0.0
        self.gain_variance = GAIN_VARIANCE

        reach = torch.arange(-LEVEL_REACH, LEVEL_REACH + 1, dtype=torch.float64, device=device)
        self._da = STEP * reach
        reach = torch.arange(-GAIN_REACH, GAIN_REACH + 1, dtype=torch.float64, device=device)
        self._dg = STEP * reach
        wide = LEVEL_REACH + GAIN_REACH
        self._sum = STEP * torch.arange(-wide, wide + 1, dtype=torch.float64, device=device)

    def update(
        self,
        mu: Tensor,
        V: Tensor,
        s: Tensor,
        n: Tensor,
        lifted: Tensor,
        drift: float,
        drifts: Tensor,
    ) -> Increment:
        """Learn both increments from a batch.

        Args:
            mu: float64[M], mean of theta at the present level, before the batch.
            V: float64[M], its variance, the level's own left out.
            s: float64[M], successes.
            n: float64[M], trials.
            lifted: bool[M], whose last visit was informative: g acts on these.
            drift: qa, variance the level has gained since the last batch.
            drifts: float64[K], values of qa to be judged by the log marginal likelihood of the
                batch.
        """
        likelihood = self._joint(mu, V, s, n, lifted)
        gain_prior = _log_normal(self._dg, self.gain_variance + GAIN_DRIFT)
        of_level = (likelihood + gain_prior).logsumexp(1)
        evidence = torch.stack(
            [
                (of_level + _log_normal(self._da, self.variance + float(q))).logsumexp(0)
                for q in drifts
            ]
        )

        level_prior = _log_normal(self._da, self.variance + drift)
        joint = likelihood + gain_prior + level_prior[:, None]
        joint = torch.softmax(joint.flatten(), 0).view_as(joint)

        da, self.variance = _moments(joint.sum(1), self._da, LEVEL_FLOOR)
        dg, self.gain_variance = _moments(joint.sum(0), self._dg, GAIN_FLOOR)
        self.a += da
        self.gain += dg
        return Increment(da, dg, evidence)

    def begin(self, numbers: Tensor) -> None:
        """Start from another run's four numbers, as doubtful as a fresh start."""
        self.restore(numbers)
        self.variance = max(self.variance, LEVEL_VARIANCE)
        self.gain_variance = max(self.gain_variance, GAIN_VARIANCE)

    def to_tensor(self) -> Tensor:
        """The four numbers, float64[4]."""
        return torch.tensor(
            [self.a, self.variance, self.gain, self.gain_variance], dtype=torch.float64
        )

    def restore(self, numbers: Tensor) -> None:
        """Set them again."""
        self.a, self.variance, self.gain, self.gain_variance = numbers.tolist()

    def _joint(self, mu: Tensor, V: Tensor, s: Tensor, n: Tensor, lifted: Tensor) -> Tensor:
        """Log-likelihood float64[161, 41] of every pair of increments.

        A prompt's likelihood depends on one number, da or da + dg, and both grids have the same
        step: two curves hold the whole table.
        """
        rest = ~lifted
        still = _curve(mu[rest], V[rest], s[rest], n[rest], self._da)
        moved = _curve(mu[lifted], V[lifted], s[lifted], n[lifted], self._sum)
        return still[:, None] + moved.unfold(0, 2 * GAIN_REACH + 1, 1)


def _curve(mu: Tensor, V: Tensor, s: Tensor, n: Tensor, shift: Tensor) -> Tensor:
    """sum_i log E[likelihood_i] with every theta moved by each of ``shift``, float64[J]."""
    total = torch.zeros_like(shift)
    for start in range(0, len(mu), CHUNK):
        part = slice(start, start + CHUNK)
        moved = mu[part, None] + shift
        total += log_expected_likelihood(moved, V[part, None], s[part, None], n[part, None]).sum(0)

    return total


def _log_normal(x: Tensor, variance: float) -> Tensor:
    """Log N(x; 0, variance), normalised over the grid."""
    return torch.log_softmax(-0.5 * x.square() / variance, dim=0)


def _moments(weight: Tensor, x: Tensor, floor: float) -> tuple[float, float]:
    mean = float(weight @ x)
    return mean, max(float(weight @ (x - mean).square()), floor)

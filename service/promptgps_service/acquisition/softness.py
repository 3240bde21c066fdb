"""How far continuous rewards are from binary ones.

And so how little of γ (1 − γ) is variance of the reward. For rewards r in [0, 1] of mean γ,
E r² = γ − E r(1 − r), hence

    Var r = γ (1 − γ) − E r(1 − r) = (1 − ρ) γ (1 − γ),    ρ = E r(1 − r) / γ (1 − γ)  in [0, 1]

ρ, the softness, is 0 for rewards of 0 and 1, and 1 for rewards that are always the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHRINKAGE = 8.0  # degrees of freedom that the pool's softness counts in each prompt's


@dataclass(frozen=True)
class Groups:
    """Single rewards summed by group: rollouts of one prompt by one policy.

    All float64[G] but for ``row``, int64[G].
    """

    row: NDArray[np.int64]
    count: NDArray[np.float64]
    total: NDArray[np.float64]  # of r
    soft: NDArray[np.float64]  # of r(1 − r)


def softness(groups: Groups, rows: int) -> NDArray[np.float64]:
    """ρ of each of ``rows`` prompts, float64[rows].

    In a group of n, the mean of r(1 − r) estimates E r(1 − r), and the sample variance Var r, both
    without bias and whatever γ the policy had; their sum estimates γ (1 − γ). Sums over groups,
    weighted by n − 1 degrees of freedom, have a stable ratio. A prompt's own is shrunk to that of
    all groups, as if it had ``SHRINKAGE`` degrees of freedom more of their kind; a prompt never
    tried has theirs.
    """
    several = groups.count >= 2
    row = groups.row[several]
    n = groups.count[several]
    soft = groups.soft[several] / n
    # Σ (r − r̄)² = Σ r − Σ r(1 − r) − n r̄², from 0 up but for rounding.
    squares = np.maximum(
        groups.total[several] - groups.soft[several] - groups.total[several] ** 2 / n, 0.0
    )

    weight = n - 1.0
    own_soft = np.bincount(row, weight * soft, rows)
    own_whole = np.bincount(row, weight * soft + squares, rows)
    if not own_whole.any():
        return np.zeros(rows)

    typical = SHRINKAGE / weight.sum()
    ratio: NDArray[np.float64] = (own_soft + typical * own_soft.sum()) / (
        own_whole + typical * own_whole.sum()
    )
    return ratio

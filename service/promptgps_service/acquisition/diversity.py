"""Spread inside the batch and away from recent batches, by greedy max-sum diversification.

The averaged form of GPS's batch objective (arXiv 2602.01970, Eq. 12 to 14), with A the anchor set,
d the Euclidean distance of unit embeddings and S the batch of size B:

    (1/B) Σ_{i in S} u_i
    + λ [ (2 / (B (B − 1))) Σ_{i<j in S} d(i, j) + (1/B) Σ_{i in S} mean_{a in A} d(i, a) ]
"""

from __future__ import annotations

import torch
from torch import Tensor

FARTHEST = 2.0  # distance of opposite unit vectors: no prompt can gain more by spread
BLOCK = 512  # candidates taken up at a time


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances of unit rows: x float[M, d], y float[L, d] -> float[M, L]."""
    return (2.0 - 2.0 * (x @ y.T)).clamp_min(0).sqrt()


def greedy(utility: Tensor, embedding: Tensor, anchors: Tensor, size: int, weight: float) -> Tensor:
    """Pick a batch by the half-quality greedy of max-sum diversification.

    It is within a factor of two of the best (Borodin et al. 2012). Candidates are taken up in the
    order of their utility, and only as long as the best of the rest could still win: one that lies
    so far behind that even the greatest possible distance would not lift it to the top is not
    looked at. The answer is that of the greedy over all of them.

    Args:
        utility: float64[M], already tie-broken.
        embedding: float32[M, d], unit rows.
        anchors: float32[A, d], unit rows of recent batches; may be empty.
        size: B, at most M.
        weight: λ.

    Returns:
        long[B], positions in the order they were picked.
    """
    order = utility.argsort(descending=True)
    race = _Race(utility[order] / size, embedding, order, anchors, size, weight)
    return order[
        torch.tensor([race.pick() for _ in range(size)], dtype=torch.long, device=order.device)
    ]


class _Race:
    """The greedy's state over the candidates taken up so far: a prefix of those by utility."""

    def __init__(
        self,
        worth: Tensor,
        embedding: Tensor,
        order: Tensor,
        anchors: Tensor,
        size: int,
        weight: float,
    ) -> None:
        self._worth = worth
        self._embedding = embedding
        self._order = order
        self._anchors = anchors
        self._anchor = weight / size if anchors.shape[0] else 0.0
        self._pair = 2.0 * weight / (size * (size - 1)) if size > 1 else 0.0
        self._x = embedding[:0]
        self._quality = worth[:0]
        self._spread = worth[:0]
        self._picked: list[int] = []

    def pick(self) -> int:
        """Place, in the order of utility, of the candidate with the greatest marginal gain."""
        while True:
            gain = 0.5 * self._quality + self._pair * self._spread
            if gain.numel() and float(gain.max()) >= self._bound():
                break
            self._take_up()

        best = int(gain.argmax())
        self._picked.append(best)
        self._spread += distances(self._x, self._x[best : best + 1])[:, 0].to(self._spread.dtype)
        self._spread[best] = -torch.inf if self._pair else 0.0
        self._quality[best] = -torch.inf
        return best

    def _bound(self) -> float:
        """No candidate that has not been taken up can gain more."""
        taken = self._quality.numel()
        if taken == self._worth.numel():
            return -float("inf")

        best_quality = float(self._worth[taken]) + FARTHEST * self._anchor
        return 0.5 * best_quality + FARTHEST * self._pair * len(self._picked)

    def _take_up(self) -> None:
        taken = self._quality.numel()
        part = slice(taken, taken + max(BLOCK, taken))
        x = self._embedding[self._order[part]]
        quality = self._worth[part].clone()
        if self._anchor:
            quality += self._anchor * distances(x, self._anchors).mean(1).to(quality.dtype)

        spread = distances(x, self._x[self._picked]).sum(1).to(quality.dtype)
        self._x = torch.cat([self._x, x])
        self._quality = torch.cat([self._quality, quality])
        self._spread = torch.cat([self._spread, spread])

"""Spread: dispersion inside the batch and distance from recent batches, by greedy max-sum diversification.

The averaged form of GPS's batch objective (arXiv 2602.01970, Eq. 12 to 14), with A the anchor set, d the Euclidean
distance of unit embeddings and S the batch of size B:

    (1/B) Σ_{i in S} u_i + λ [ (2 / (B (B − 1))) Σ_{i<j in S} d(i, j) + (1/B) Σ_{i in S} mean_{a in A} d(i, a) ]
"""

from __future__ import annotations

import torch
from torch import Tensor


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances of unit rows: x float[M, d], y float[L, d] -> float[M, L]."""
    return (2.0 - 2.0 * (x @ y.T)).clamp_min(0).sqrt()


def greedy(utility: Tensor, embedding: Tensor, anchors: Tensor, size: int, weight: float) -> Tensor:
    """Pick a batch by the half-quality greedy of max-sum diversification (factor two, Borodin et al. 2012).

    Args:
        utility: float64[M], already tie-broken.
        embedding: float32[M, d], unit rows.
        anchors: float32[A, d], unit rows of recent batches; may be empty.
        size: B, at most M.
        weight: λ.

    Returns:
        long[B], positions in the order they were picked.
    """
    quality = utility / size
    if anchors.shape[0]:
        quality = quality + (weight / size) * distances(embedding, anchors).mean(1).to(quality.dtype)
    pair = 2.0 * weight / (size * (size - 1)) if size > 1 else 0.0
    spread = torch.zeros_like(quality)
    free = torch.ones_like(quality, dtype=torch.bool)
    picked = []
    for _ in range(size):
        gain = torch.where(free, 0.5 * quality + pair * spread, -torch.inf)
        best = int(gain.argmax())
        picked.append(best)
        free[best] = False
        spread += distances(embedding, embedding[best : best + 1])[:, 0].to(spread.dtype)
    return torch.tensor(picked, dtype=torch.long, device=utility.device)

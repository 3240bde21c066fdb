"""The greedy takes up only what could still win, and answers as if it had looked at everything."""

from __future__ import annotations

import pytest
import torch
from promptgps_service.acquisition import diversity
from promptgps_service.acquisition.diversity import distances, greedy
from torch import Tensor


def plain_greedy(
    utility: Tensor, embedding: Tensor, anchors: Tensor, size: int, weight: float
) -> list[int]:
    """The greedy as it is written in the docstring, over all candidates."""
    d = distances(embedding, embedding).double()
    quality = utility / size
    if len(anchors):
        quality = quality + weight / size * distances(embedding, anchors).double().mean(1)
    pair = 2 * weight / (size * (size - 1)) if size > 1 else 0.0
    picked: list[int] = []
    for _ in range(size):
        gain = 0.5 * quality + pair * d[:, picked].sum(1)
        gain[picked] = -torch.inf
        picked.append(int(gain.argmax()))
    return picked


def unit_rows(count: int, random: torch.Generator, dimension: int = 16) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(count, dimension, generator=random), dim=1)


@pytest.mark.parametrize("weight", [0.01, 0.05, 0.3, 2.0])
@pytest.mark.parametrize("anchored", [0, 40])
@pytest.mark.parametrize("seed", range(4))
def test_pruning_changes_nothing(weight: float, anchored: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    x = unit_rows(1500, random)
    utility = torch.rand(1500, generator=random, dtype=torch.float64)
    anchors = unit_rows(anchored, random)
    assert greedy(utility, x, anchors, 24, weight).tolist() == plain_greedy(
        utility, x, anchors, 24, weight
    )


def test_without_weight_it_is_the_top_by_utility() -> None:
    random = torch.Generator().manual_seed(0)
    x = unit_rows(3000, random)
    utility = torch.rand(3000, generator=random, dtype=torch.float64)
    picked = greedy(utility, x, x[:0], 64, 0.0)
    assert picked.tolist() == utility.topk(64).indices.tolist()


def test_weight_spreads_the_batch_and_keeps_it_away_from_its_anchors() -> None:
    random = torch.Generator().manual_seed(1)
    topics = torch.zeros(2000, 16)
    # a narrow topic of 200 prompts, slightly better
    topics[:, 0] = 2.0
    topics[200:, 0] = 0.0
    topics[200:, 1] = 0.5
    x = torch.nn.functional.normalize(topics + 0.3 * torch.randn(2000, 16, generator=random), dim=1)
    utility = 0.01 * torch.rand(2000, generator=random, dtype=torch.float64)
    utility[:200] += 0.01
    anchors = x[:50]

    def spread(weight: float) -> tuple[float, float]:
        chosen = x[greedy(utility, x, anchors, 32, weight)]
        return float(distances(chosen, chosen).mean()), float(distances(chosen, anchors).mean())

    (plain, near) = spread(0.0)
    (spread_out, far) = spread(1.0)
    assert spread_out > plain + 0.3
    assert far > near + 0.3


def test_a_batch_of_one_and_of_everything() -> None:
    random = torch.Generator().manual_seed(2)
    x = unit_rows(30, random)
    utility = torch.rand(30, generator=random, dtype=torch.float64)
    assert greedy(utility, x, x[:0], 1, 0.5).tolist() == [int(utility.argmax())]
    assert sorted(greedy(utility, x, x[:5], 30, 0.5).tolist()) == list(range(30))


def test_a_small_weight_looks_at_a_small_part_of_a_large_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = torch.Generator().manual_seed(3)
    x = unit_rows(40_000, random, dimension=64)
    utility = torch.rand(40_000, generator=random, dtype=torch.float64)

    def compared(weight: float) -> int:
        """Distances that are taken, which is what it costs, whatever the machine is doing else."""
        pairs = 0

        def counted(a: Tensor, b: Tensor) -> Tensor:
            nonlocal pairs
            pairs += a.shape[0] * b.shape[0]
            return distances(a, b)

        monkeypatch.setattr(diversity, "distances", counted)
        greedy(utility, x, x[:256], 128, weight)
        return pairs

    assert compared(0.01) < 0.5 * compared(3.0)

"""Exact shares: by hand, after draws by other shares, and where the obvious rule fails."""

from __future__ import annotations

import pytest
from promptgps_service.acquisition.quotas import apportion


def worst_gap(shares: list[float], sizes: list[int]) -> float:
    """Furthest that any group's total gets from its exact share, looked at after every batch."""
    issued = [0] * len(shares)
    worst = 0.0
    for size in sizes:
        given = apportion(shares, issued, size)
        assert sum(given) == size
        assert min(given) >= 0
        issued = [had + more for had, more in zip(issued, given, strict=True)]
        gaps = [share * sum(issued) - had for share, had in zip(shares, issued, strict=True)]
        worst = max(worst, *map(abs, gaps))
    return worst


@pytest.mark.parametrize(
    ("shares", "issued", "size", "expected"),
    [
        ([1.0], [7], 5, [5]),
        ([0.5, 0.5], [0, 0], 4, [2, 2]),
        ([0.75, 0.25], [0, 0], 8, [6, 2]),
        ([0.75, 0.25], [3, 0], 1, [0, 1]),
        ([0.5, 0.3, 0.2], [0, 0, 0], 10, [5, 3, 2]),
        ([0.5, 0.5], [10, 0], 4, [0, 4]),  # draws went by other shares before: it catches up
        ([0.5, 0.5], [10, 0], 20, [5, 15]),
        ([1.0, 0.0], [0, 0], 3, [3, 0]),
    ],
)
def test_by_hand(shares: list[float], issued: list[int], size: int, expected: list[int]) -> None:
    assert apportion(shares, issued, size) == expected


def test_a_group_far_ahead_gets_nothing_and_never_less_than_that() -> None:
    # Floors of what each group lacks, corrected one by one, gave one of these groups −1 draws.
    for size in range(1, 12):
        given = apportion([0.25, 0.25, 0.25, 0.25], [5, 0, 0, 0], size)
        assert sum(given) == size
        assert min(given) >= 0


def test_many_groups_one_draw_at_a_time_stay_within_one() -> None:
    # Serving the group that is furthest behind leaves one of these 1.22 draws off after 91.
    parts = [1 / n for n in (1, 1, 1, 9, 15, 15, 15, 20, 25, 30, 50, 60)]
    shares = [part / sum(parts) for part in parts]
    assert worst_gap(shares, [1] * 1_000) < 1
    assert worst_gap(shares, [1, 7, 50, 3, 1, 1, 256] * 3) < 1


def test_shares_that_do_not_quite_sum_to_one_do_not_drift() -> None:
    shares = [0.3333333, 0.3333333, 0.3333333]
    issued = [333_333, 333_333, 333_334]
    assert sorted(apportion(shares, issued, 3)) in ([1, 1, 1], [0, 1, 2])
    assert max(apportion(shares, issued, 300)) - min(apportion(shares, issued, 300)) <= 2


def test_the_largest_batch_over_the_most_pools_takes_less_than_a_second() -> None:
    assert sum(apportion([1 / 64] * 64, [0] * 64, 16_384)) == 16_384

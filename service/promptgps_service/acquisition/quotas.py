"""Exact shares of the draws by group (domain or pool), over any window of draws."""

from __future__ import annotations

from collections.abc import Sequence


def apportion(shares: Sequence[float], issued: Sequence[int], size: int) -> list[int]:
    """Give ``size`` draws to groups so that totals follow the shares as closely as whole numbers can.

    Each draw goes to the group that is furthest behind its share of all draws so far, so the totals stay within one
    of the exact shares whether a trainer draws 512 at a time or one by one.

    Args:
        shares: of each group, summing to one.
        issued: draws each group has had.
        size: draws to give.

    Returns:
        Draws for each group; they sum to ``size``.
    """
    total = sum(issued) + size
    behind = [share * total - had for share, had in zip(shares, issued, strict=True)]
    given = [max(int(gap), 0) for gap in behind]
    while sum(given) > size:  # a group far behind cannot take more than there is
        most = max(range(len(given)), key=lambda g: (given[g] - behind[g], given[g]))
        given[most] -= 1
    while sum(given) < size:
        most = max(range(len(given)), key=lambda g: behind[g] - given[g])
        given[most] += 1
    return given

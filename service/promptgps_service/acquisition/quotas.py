"""Exact shares of the draws by group (domain or pool), over any window of draws."""

from __future__ import annotations

from collections.abc import Sequence

_ROUNDING = 1e-9


def apportion(shares: Sequence[float], issued: Sequence[int], size: int) -> list[int]:
    """Give ``size`` draws to groups; totals follow the shares as closely as whole numbers can.

    Draw by draw, by Tijdeman's rule for the chairman assignment problem (Discrete Mathematics 32,
    1980): of the groups that are not ahead of their share, the one that would be first to fall a
    whole draw behind. Totals stay within 1 − 1/(2G − 2) of the exact shares of G groups whether a
    trainer draws 512 at a time or one by one; always serving the group that is furthest behind does
    not (twelve groups can be 1.2 off).

    Args:
        shares: of each group; they are taken relative to their sum.
        issued: draws each group has had.
        size: draws to give.

    Returns:
        Draws for each group; they sum to ``size``.
    """
    if len(shares) == 1:
        return [size]

    whole = sum(shares)
    start = sum(issued)
    exact = [share / whole for share in shares]
    slack = 1.0 / (2 * len(exact) - 2)
    given = [0] * len(exact)
    for total in range(start + 1, start + size + 1):
        behind = [
            share * total - had - more
            for share, had, more in zip(exact, issued, given, strict=True)
        ]
        due = [group for group, gap in enumerate(behind) if gap >= slack - _ROUNDING]
        if due:
            given[min(due, key=lambda g: (1.0 - slack - behind[g]) / exact[g])] += 1
        else:  # only where earlier draws went by other shares
            given[max(range(len(behind)), key=behind.__getitem__)] += 1

    return given

"""Who may be drawn now: not pending, not drawn lately, not retired, allowed by the caller."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FREE, COOLING, PENDING, RETIRED, FORBIDDEN = range(5)
COOLDOWN_STEPS = 30
# Never keep back more than a quarter of the pool: small pools would run dry.
COOLDOWN_POOL_SHARE = 4


@dataclass(frozen=True)
class Traffic:
    """What has been drawn, per row.

    Attributes:
        last_clock: int64[N], step of the last draw; very negative where there was none.
        last_draw: int64[N], number of the last draw; -1 where there was none.
        open: int32[N], draws that have no outcome yet.
    """

    last_clock: Tensor
    last_draw: Tensor
    open: Tensor


@dataclass(frozen=True)
class Reuse:
    """When a prompt may come again.

    Attributes:
        cooldown: steps it rests after a draw; None is the default, min(30, N / 4B) steps.
        pending_steps: steps for which a draw without an outcome keeps it back.
    """

    cooldown: int | None
    pending_steps: int


def tiers(
    traffic: Traffic,
    reuse: Reuse,
    *,
    clock: int,
    draws: int,
    retired: Tensor | None,
    allowed: Tensor | None,
    prompts: int | None = None,
) -> Tensor:
    """Sort rows by how well they may be drawn.

    N / 4B steps are N / 4 draws, and in that form the rule holds for trainers that draw one at a
    time as well.

    Args:
        traffic: what has been drawn.
        reuse: the run's rule.
        clock: step of this selection.
        draws: draws issued so far, number of the first draw of this selection.
        retired: bool[N] or None.
        allowed: bool[N], the caller's candidates less its exclusions, or None for all.
        prompts: that the run's trainer draws from at all, for the default rule; None for all N.

    Returns:
        int8[N] of FREE, COOLING, PENDING, RETIRED, FORBIDDEN; the worst that applies.
    """
    n = traffic.last_draw.numel() if prompts is None else prompts
    age = clock - traffic.last_clock
    if reuse.cooldown is None:
        recent = traffic.last_draw >= max(draws - n // COOLDOWN_POOL_SHARE, 0)
        cooling = recent & (age <= COOLDOWN_STEPS)
    else:
        cooling = (
            age <= reuse.cooldown if reuse.cooldown > 0 else torch.zeros_like(age, dtype=torch.bool)
        )

    tier = cooling.to(torch.int8)
    tier[(traffic.open > 0) & (age <= reuse.pending_steps)] = PENDING
    if retired is not None:
        tier[retired] = RETIRED
    if allowed is not None:
        tier.masked_fill_(~allowed, FORBIDDEN)

    return tier

"""The batch: uniform picks for the monitor, then the most useful of the candidates.

It is never short while prompts last.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from promptgps_service.acquisition.diversity import greedy
from promptgps_service.acquisition.quotas import apportion
from promptgps_service.acquisition.randomness import (
    ORDER,
    ROUNDING,
    SHUFFLE,
    THOMPSON,
    TIES,
    bits,
    coin,
    uniforms,
)
from promptgps_service.acquisition.reuse import COOLING, FORBIDDEN, FREE, PENDING, RETIRED
from promptgps_service.acquisition.utility import TIE, Aim, utility
from promptgps_service.model.predictor import Posterior


@dataclass(frozen=True)
class Rules:
    """How to choose, apart from who is eligible.

    Attributes:
        aim: what a prompt is worth.
        candidate_factor: random candidates for each pick; None takes all that are eligible.
        uniform_share: share of uniform picks.
        diversity: λ; 0 is plain top-B.
    """

    aim: Aim
    candidate_factor: int | None
    uniform_share: float
    diversity: float = 0.0


@dataclass(frozen=True)
class Group:
    """A domain or pool with a share of the draws: ``rows`` bool[N], ``issued`` draws it has had."""

    name: str
    share: float
    issued: int
    rows: Tensor


@dataclass(frozen=True)
class Field:
    """What there is to choose from.

    Attributes:
        identity: int64[N].
        tier: int8[N], see ``reuse``.
        last_draw: int64[N], to prefer what was drawn longest ago where the free ones do not
            suffice.
        posterior: of all N prompts.
        softness: float64[N], see ``softness``; None where rewards are binary.
        embedding: float[N, d], unit rows; used with diversity.
        anchors: long[A], rows of recent batches; used with diversity.
        groups: with exact shares; empty for none.
    """

    identity: Tensor
    tier: Tensor
    last_draw: Tensor
    posterior: Posterior
    embedding: Tensor | None = None
    anchors: Tensor | None = None
    groups: tuple[Group, ...] = ()
    softness: Tensor | None = None


@dataclass(frozen=True)
class Choice:
    """The batch in its order: rows long[B], uniform bool[B], and what the caller should know."""

    rows: Tensor
    uniform: Tensor
    warnings: list[str] = field(default_factory=list)


class TooFew(Exception):
    """There are fewer prompts to draw from than were asked for."""

    def __init__(self, available: int, where: str) -> None:
        super().__init__(f"{available} prompts to draw from {where}")
        self.available = available
        self.where = where


def choose(field_: Field, rules: Rules, size: int, seed: int) -> Choice:
    """Choose a batch.

    Args:
        field_: what there is to choose from.
        rules: how.
        size: B >= 1.
        seed: the only source of randomness.

    Returns:
        B distinct rows in an order drawn from the seed.

    Raises:
        TooFew: fewer than B prompts are allowed at all, or fewer than a group's share.
    """
    warnings: list[str] = []
    if not field_.groups:
        rows, uniform = _pick(field_, rules, field_.tier, size, seed, warnings, "")
    else:
        shares = [group.share for group in field_.groups]
        counts = apportion(shares, [group.issued for group in field_.groups], size)
        parts = []
        for group, count in zip(field_.groups, counts, strict=True):
            if count:
                tier = torch.where(group.rows, field_.tier, FORBIDDEN)
                parts.append(
                    _pick(field_, rules, tier, count, seed, warnings, f" in {group.name!r}")
                )

        rows = torch.cat([part[0] for part in parts])
        uniform = torch.cat([part[1] for part in parts])

    order = bits(field_.identity[rows], seed, SHUFFLE).argsort()
    return Choice(rows[order], uniform[order], warnings)


def _pick(
    field_: Field, rules: Rules, tier: Tensor, size: int, seed: int, warnings: list[str], where: str
) -> tuple[Tensor, Tensor]:
    free = (tier == FREE).nonzero()[:, 0]
    if free.numel() < size:
        rows = torch.cat([free, _fill(field_, tier, size - free.numel(), seed, warnings, where)])
        return rows, torch.zeros_like(rows, dtype=torch.bool)

    uniform_count = min(int(rules.uniform_share * size + coin(seed, ROUNDING)), size)
    wanted = size - uniform_count
    candidates_count = (
        free.numel() if rules.candidate_factor is None else rules.candidate_factor * wanted
    )
    candidates_count = min(candidates_count, free.numel() - uniform_count)
    order = _random_order(field_.identity, free, uniform_count + candidates_count, seed)
    uniform_rows = order[:uniform_count]
    candidates = order[uniform_count:]

    chosen = _best(field_, rules, candidates, wanted, seed)
    flags = torch.zeros(size, dtype=torch.bool, device=chosen.device)
    flags[:uniform_count] = True
    return torch.cat([uniform_rows, chosen]), flags


def _random_order(identity: Tensor, rows: Tensor, count: int, seed: int) -> Tensor:
    """The first ``count`` of the rows in the seed's random order.

    A random subset when cut anywhere.
    """
    if count == 0:
        return rows[:0]

    rank = bits(identity[rows], seed, ORDER)
    if count < rows.numel():
        lowest = rank.topk(count, largest=False, sorted=True).indices
        return rows[lowest]

    return rows[rank.argsort()]


def _best(field_: Field, rules: Rules, candidates: Tensor, count: int, seed: int) -> Tensor:
    """The ``count`` candidates of highest utility, ties by the seed.

    With diversity, those of the greedy.
    """
    if count == 0:
        return candidates[:0]

    identity = field_.identity[candidates]
    softness = 0.0 if field_.softness is None else field_.softness[candidates]
    values = utility(
        field_.posterior.take(candidates), rules.aim, uniforms(identity, seed, THOMPSON), softness
    )
    values = values + 0.5 * TIE * uniforms(identity, seed, TIES)
    if rules.diversity == 0 or field_.embedding is None:
        return candidates[values.topk(count).indices]

    anchors = (
        field_.embedding[field_.anchors] if field_.anchors is not None else field_.embedding[:0]
    )
    return candidates[greedy(values, field_.embedding[candidates], anchors, count, rules.diversity)]


_KEPT_BACK = {COOLING: "cooling down", PENDING: "pending", RETIRED: "retired"}


def _fill(
    field_: Field, tier: Tensor, missing: int, seed: int, warnings: list[str], where: str
) -> Tensor:
    """Rows that would have been kept back, tier by tier.

    Those drawn longest ago (or never) come first.
    """
    parts = []
    for kept_back, name in _KEPT_BACK.items():
        rows = (tier == kept_back).nonzero()[:, 0]
        rows = _random_order(field_.identity, rows, rows.numel(), seed)
        rows = rows[field_.last_draw[rows].argsort(stable=True)][:missing]
        if rows.numel():
            warnings.append(
                f"{rows.numel()} prompts{where} were {name} and are drawn again: "
                "nothing else is left"
            )
            parts.append(rows)
            missing -= int(rows.numel())

    if missing:
        raise TooFew(int((tier != FORBIDDEN).sum()), where.strip() or "at all")

    return torch.cat(parts)

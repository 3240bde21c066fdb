"""Groups with exact shares of a run's draws: its domains, or its pools."""

from __future__ import annotations

import torch
from torch import Tensor

from promptgps_service.acquisition.choose import Group
from promptgps_service.flow.run_state import Groups, RunState
from promptgps_service.store.unit import Unit


def quota_groups(unit: Unit, state: RunState) -> tuple[Group, ...]:
    """Every group with its share, its rows and the draws it has had by it.

    Empty where the run asks for none.
    """
    shares = _domain_shares(state) or _pool_shares(state)
    if not shares:
        return ()

    if state.groups is None:
        make = _domain_rows if _domain_shares(state) else _pool_rows
        rows = {name: rows.to(state.device) for name, rows in make(unit, state, shares).items()}
        state.groups = Groups(rows, dict.fromkeys(rows, 0), state.settings.quotas_from)

    state.groups.count(state.issued.row.view)
    return tuple(
        Group(name, share, state.groups.issued[name], state.groups.rows[name])
        for name, share in shares.items()
    )


def _domain_shares(state: RunState) -> dict[str, float]:
    return state.settings.selection.domain_quotas or {}


def _pool_shares(state: RunState) -> dict[str, float]:
    """Quotas as they are; the rest is split by weight, which defaults to one."""
    pools = state.settings.pools
    if all(share.quota is None and share.weight is None for share in pools):
        return {}

    rest = 1.0 - sum(share.quota or 0.0 for share in pools)
    weights = sum(share.weight or 1.0 for share in pools if share.quota is None)

    return {
        share.pool: share.quota
        if share.quota is not None
        else rest * (share.weight or 1.0) / weights
        for share in pools
    }


def _domain_rows(unit: Unit, state: RunState, shares: dict[str, float]) -> dict[str, Tensor]:
    domains = [
        domain for s in state.segments for domain in unit.pools.domains(s.pool_id, s.start, s.count)
    ]
    return {
        name: torch.tensor([domain == name for domain in domains], dtype=torch.bool)
        for name in shares
    }


def _pool_rows(unit: Unit, state: RunState, shares: dict[str, float]) -> dict[str, Tensor]:
    rows = {name: torch.zeros(state.rows, dtype=torch.bool) for name in shares}
    for segment in state.segments:
        name = unit.pools.by_id(segment.pool_id).name
        rows[name][segment.offset : segment.offset + segment.count] = True
    return rows

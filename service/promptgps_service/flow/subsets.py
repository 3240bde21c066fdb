"""Subsets of a run's prompts: sent once, known by what is in them, named with each batch."""

from __future__ import annotations

import numpy as np
from promptgps_client.wire import SendSubset, Subset

from promptgps_service.errors import Fault, Invalid
from promptgps_service.flow.context import Context
from promptgps_service.flow.rows import Keys, places_of, prompts_at, rows_at
from promptgps_service.flow.states import on_current_run, require_open
from promptgps_service.store.subsets import subset_id

KEYS_NAMED = 20
EXAMPLES = 5


@on_current_run
def send_subset(context: Context, name: str, request: SendSubset) -> Subset:
    """Keep a subset of a run's prompts.

    The same prompts, in any order and by any keys, are the same subset.

    Raises:
        NotFound: no such run.
        NotOpen: the run is archived or faulty.
        Invalid: none of the keys is known, several pools have one, or a pool is not the run's.
        Unavailable: the database does not answer; nothing was kept.
    """
    state = context.desk(name).state
    with context.store.read() as unit:
        places = places_of(unit, state, Keys(request.keys, request.pool))

    unknown = [request.keys[row] for row in places.unknown.tolist()]
    if unknown:
        with context.store.read() as unit:
            some = np.arange(min(state.rows, EXAMPLES))
            run_keys = [key for key, _ in prompts_at(unit, state.segments, some, text=False)]
    else:
        run_keys = []

    if len(unknown) == len(request.keys):
        shown = ", ".join(map(repr, unknown[:KEYS_NAMED]))
        detail = f"none of the {len(unknown)} keys is in the run's pools: {shown}"
        detail += f"; their own are such as {', '.join(map(repr, run_keys))}"
        raise Invalid(detail, (Fault("keys", detail),))

    (found,) = rows_at(context, state, [places])
    rows = np.unique(found[found >= 0])
    subset = subset_id(rows)

    with context.store.read() as unit:
        require_open(unit, unit.runs.by_id(state.id))
        kept = unit.subsets.find(state.id, subset) is not None
        there = unit.pools.total([share.pool for share in state.settings.pools])

    if not kept:
        with context.store.write() as unit:
            require_open(unit, unit.runs.lock(state.id))
            unit.subsets.add(state.id, subset, rows)

    return Subset(
        run=state.name,
        subset=subset,
        prompts=rows.size,
        whole=rows.size == there,
        unknown=len(unknown),
        unknown_keys=unknown[:KEYS_NAMED],
        run_keys=run_keys,
    )

"""Prompts that the pools of a run have got since it was opened."""

from __future__ import annotations

from promptgps_service.flow.catch_up import add_grown_rows, run_transaction
from promptgps_service.flow.context import Context
from promptgps_service.flow.run_state import RunState


def take_up_new_prompts(context: Context, state: RunState) -> None:
    """Give a run rows for what its pools have now, and bring its state in this process up to that.

    Raises:
        Unavailable: the database does not answer; the run has the rows that it had.
    """
    with run_transaction(context.store, context.features, state) as (unit, _):
        add_grown_rows(unit, state)
    context.catch_up(state)  # reads vectors, so not while the run is held against every writer

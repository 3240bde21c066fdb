"""What there is in a database, told without opening any of it."""

from __future__ import annotations

from promptgps_client.wire import Pool, Run

from promptgps_service.flow.open_run import run_of
from promptgps_service.flow.register import pool_of
from promptgps_service.store.unit import Store


def stored_runs(store: Store) -> list[Run]:
    """Every run, by name."""
    with store.read() as unit:
        return [run_of(unit, record) for record in unit.runs.all()]


def stored_run(store: Store, name: str) -> Run:
    """A run.

    Raises:
        NotFound: there is none of this name.
    """
    with store.read() as unit:
        return run_of(unit, unit.runs.get(name))


def stored_pools(store: Store) -> list[Pool]:
    """Every pool, by name."""
    with store.read() as unit:
        return [pool_of(record) for record in unit.pools.all()]


def stored_pool(store: Store, name: str) -> Pool:
    """A pool.

    Raises:
        NotFound: there is none of this name.
    """
    with store.read() as unit:
        return pool_of(unit.pools.get(name))

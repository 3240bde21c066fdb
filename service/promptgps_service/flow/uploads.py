"""What is asked of a pool before a file for it is read."""

from __future__ import annotations

from promptgps_service.errors import Busy
from promptgps_service.flow.context import Context
from promptgps_service.flow.states import require_open_pool


def may_import(context: Context, name: str) -> None:
    """Let pass who has a pool to fill that nobody else is filling just now.

    Raises:
        NotFound: there is no such pool.
        PoolNotOpen: it is archived.
        Busy: another import into it is under way.
    """
    with context.store.read() as unit:
        pool = unit.pools.get(name)
        require_open_pool(pool)
        other = unit.pools.importing(pool.id)
    if other is not None and not is_dead(context, pool.id, other):
        raise Busy(f"another import into pool {name!r} is under way", retry_after=2.0)


def is_dead(context: Context, pool_id: int, beating: tuple[str, float] | None) -> bool:
    """Whether this process has seen an import stand still so long that it makes room for another.

    Args:
        context: of this process.
        pool_id: of the pool.
        beating: token and beat of the import, as they are now.
    """
    return context.imports.seconds(pool_id, beating) >= context.import_seconds

"""What was deleted goes slice by slice.

Each slice is a short unit of work, so that nobody else has to wait for it.
"""

from __future__ import annotations

from sqlalchemy import Connection, Table, delete, select, text, update

from promptgps_service.store.states import DELETING, IMPORTING, hidden_name
from promptgps_service.store.tables import (
    OF_POOL,
    OF_RUN,
    leases,
    pools,
    run_segments,
    runs,
    snapshots,
)

# The last row to go, after those of all these tables, which may go in any order.
_HEADS: dict[str, tuple[Table, tuple[Table, ...]]] = {
    "runs": (runs, (*OF_RUN, leases)),
    "pools": (pools, OF_POOL),
}
# How many rows of a table make a slice.
_SLICE = {
    "pool_chunks": 1,
    "prompts": 200,
    "prompt_aliases": 1_000,
    "model_versions": 1,
    "run_subsets": 1,
    "selections": 100,
    "superseded_selections": 100,
    "outcomes": 1_000,
    "superseded_outcomes": 1_000,
    "steps": 200,
    "superseded_steps": 200,
    "receipts": 200,
    "snapshots": 200,
    "restores": 500,
    "run_segments": 500,
    "leases": 1,
}
# The hidden column by which a row is found without any index.
_PLACE = {"sqlite": "{table}.rowid IN (", "postgresql": "{table}.ctid = ANY(ARRAY("}
_CLOSE = {"sqlite": ")", "postgresql": "))"}
_HIDDEN = {"sqlite": "rowid", "postgresql": "ctid"}


class Removal:
    """Rows of deleted runs and pools over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def waiting(self, kind: str) -> list[int]:
        """Ids of the `runs` or `pools` that are deleted and not gone yet."""
        head, _ = _HEADS[kind]
        query = select(head.c.id).where(head.c.state == DELETING).order_by(head.c.id)
        return list(self._connection.execute(query).scalars())

    def slice(self, kind: str, owner: int, scale: float = 1.0) -> bool:
        """Take some rows of a deleted run or pool away, at last itself; false once it is gone.

        Args:
            kind: `runs` or `pools`.
            owner: its id.
            scale: how many times a slice's usual number of rows.
        """
        head, tables = _HEADS[kind]
        mine = select(head.c.id).where(head.c.id == owner, head.c.state == DELETING)
        if self._connection.execute(mine.with_for_update()).one_or_none() is None:
            return False

        for table in tables:
            rows = max(round(_SLICE[table.name] * scale), 1)
            if self._delete_some(table, owner, rows):
                return True

        self._connection.execute(delete(head).where(head.c.id == owner))
        return False

    def abandon_dead_imports(self) -> None:
        """Mark as deleted what a dead import of an archive has left.

        Its process is dead, and nobody will see what it brought.
        """
        dead = select(runs.c.id).where(
            runs.c.state == IMPORTING, runs.c.id.not_in(select(leases.c.run_id))
        )
        for run_id in self._connection.execute(dead.with_for_update()).scalars().all():
            self.abandon_import(run_id)

    def abandon_import(self, run_id: int) -> None:
        """Mark as deleted what an import of an archive has brought so far."""
        mine = update(runs).where(runs.c.id == run_id, runs.c.state == IMPORTING)
        if self._connection.execute(mine.values(state=DELETING)).rowcount == 0:
            return

        brought = pools.c.state == IMPORTING, pools.c.import_token == hidden_name(run_id)
        self._connection.execute(
            update(pools).where(*brought).values(state=DELETING, import_token=None)
        )

        for table in (leases, run_segments):
            self._connection.execute(delete(table).where(table.c.run_id == run_id))

    def _delete_some(self, table: Table, owner: int, rows: int) -> int:
        dialect = self._connection.dialect.name
        of, *key = (
            [column.name for column in table.primary_key.columns]
            if table is not snapshots
            else ["run_id", "id"]
        )

        order = f'ORDER BY "{key[0]}" ' if key else ""  # along the index, past what is gone already
        inner = (
            f'SELECT {_HIDDEN[dialect]} FROM {table.name} WHERE "{of}" = :owner {order}LIMIT :rows'
        )
        where = _PLACE[dialect].format(table=table.name) + inner + _CLOSE[dialect]
        statement = text(f"DELETE FROM {table.name} WHERE {where}")

        return self._connection.execute(statement, {"owner": owner, "rows": rows}).rowcount

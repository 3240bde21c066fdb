"""A run's rows and its pools' rows, table by table, to be carried to another database.

What comes in is hidden until all of it is there: its rows are written in short units of work, and a
last one shows it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, Table, insert, select, update
from sqlalchemy.exc import IntegrityError

from promptgps_service.errors import Busy, Conflict
from promptgps_service.store.events import POOL_DELETED, RUN_DELETED
from promptgps_service.store.ids import claimed_id, fresh_id
from promptgps_service.store.migrate import newest_revision
from promptgps_service.store.states import IMPORTING, hidden_name
from promptgps_service.store.tables import (
    OF_POOL,
    OF_RUN,
    leases,
    pools,
    prompt_aliases,
    runs,
    snapshots,
)

Row = Mapping[str, Any]

_TABLES = {table.name: table for table in (pools, runs, *OF_RUN, *OF_POOL)}
_OWNER = {table.name: table.c.run_id for table in OF_RUN} | {
    table.name: table.c.pool_id for table in OF_POOL
}
# What the database that takes a row gives it anew, or what has a meaning only where it was.
_OWN = {
    "pools": {"import_token", "import_beat", "aliases"},
    "runs": {"touched", "wanted"},
    "snapshots": {"id"},
    "prompt_aliases": {"ordinal"},
}
_ORDER = {"snapshots": [snapshots.c.id], "prompt_aliases": [prompt_aliases.c.ordinal]}
_DELETION = {"runs": RUN_DELETED, "pools": POOL_DELETED}

# In an order in which each can be checked against those before it.
POOL_TABLES = tuple(table.name for table in OF_POOL)
RUN_TABLES = tuple(table.name for table in OF_RUN)
READ_AT_ONCE = 1_000  # rows
# Rows that are written in one unit of work; others than these are small.
WRITE_AT_ONCE = {
    "pool_chunks": 1,
    "model_versions": 1,
    "run_subsets": 1,
    "selections": 50,
    "prompts": 500,
}


class Archive:
    """Whole rows over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def schema(self) -> str:
        """What the columns are those of."""
        return newest_revision() or ""

    # ---- out -------------------------------------------------------------------------------------

    def head(self, table: str, owner: int) -> Row:
        """The row of `pools` or `runs` with that id."""
        target = _TABLES[table]
        return dict(
            self._connection.execute(self._query(table).where(target.c.id == owner))
            .mappings()
            .one()
        )

    def rows(self, table: str, owner: int, stop: int | None = None) -> Iterator[Row]:
        """Rows of a run or of a pool, in their order; of a pool below position ``stop``."""
        target = _TABLES[table]
        query = self._query(table).where(_OWNER[table] == owner)
        if stop is not None:
            query = query.where(
                (target.c.start if table == "pool_chunks" else target.c.position) < stop
            )

        if table == "prompt_aliases":  # those past the committed number are of an unfinished import
            committed = select(pools.c.aliases).where(pools.c.id == owner).scalar_subquery()
            query = query.where(prompt_aliases.c.ordinal < committed)

        query = query.order_by(*_ORDER.get(table, target.primary_key.columns))
        with self._connection.execute(
            query, execution_options={"yield_per": READ_AT_ONCE}
        ) as result:
            yield from map(dict, result.mappings())

    def _query(self, table: str) -> Select[Any]:
        owner = {_OWNER[table].name} if table in _OWNER else set()
        hidden = _OWN.get(table, set()) | owner
        return select(*(column for column in _TABLES[table].columns if column.name not in hidden))

    # ---- in --------------------------------------------------------------------------------------

    def add_run(self, row: Row) -> int:
        """Make a hidden run; answers its id.

        The id is the one in the row, if that is free and never was another's.
        """
        return self._add_head(runs, row)

    def add_pool(self, row: Row, aliases: int, run_id: int) -> int:
        """Make a hidden pool; answers its id.

        It goes if the import of that run comes to nothing.
        """
        return self._add_head(
            pools, {**row, "aliases": aliases, "import_token": hidden_name(run_id)}
        )

    def _add_head(self, table: Table, row: Row) -> int:
        values = {name: value for name, value in row.items() if name != "id"} | {"state": IMPORTING}
        deletion = _DELETION[table.name]
        for again in (False, True):  # another process may take the id just now
            given = (
                fresh_id(self._connection, table, deletion)
                if again
                else claimed_id(self._connection, table, deletion, row["id"])
            )
            made = {**values, "name": f"~{secrets.token_hex(16)}", **given}
            try:
                with self._connection.begin_nested():
                    key = self._connection.execute(insert(table).values(made)).inserted_primary_key
            except IntegrityError:
                continue

            assert key is not None
            self._rename(table, key[0], {"name": hidden_name(key[0])})
            return int(key[0])

        raise Busy("another process has taken the id; try again", retry_after=2.0)

    def add(self, table: str, owner: int, rows: Sequence[Row], start: int = 0) -> None:
        """Insert rows of a hidden run or pool, the first of which is number ``start``."""
        own = {_OWNER[table].name: owner}
        values = [{**row, **own} for row in rows]
        if table == "prompt_aliases":
            values = [{**row, "ordinal": number} for number, row in enumerate(values, start)]
        if values:
            self._connection.execute(insert(_TABLES[table]), values)

    def hold(self, run_id: int, worker: str) -> None:
        """Make sure that an import goes on, and nobody ends it while the unit of work lasts.

        Raises:
            Busy: its process stood still for so long that it was taken for dead.
        """
        query = (
            select(runs.c.state, leases.c.holder)
            .join(leases, leases.c.run_id == runs.c.id)
            .where(runs.c.id == run_id)
            .with_for_update(of=runs)
        )
        found = self._connection.execute(query).one_or_none()
        if found is None or (found.state, found.holder) != (IMPORTING, worker):
            raise Busy(
                "this import stood still and was taken for dead; start it again", retry_after=2.0
            )

    def show_pool(self, pool_id: int, name: str, state: str) -> None:
        """Let everybody see a pool.

        Raises:
            Conflict: the name is taken by now.
        """
        shown = {"name": name, "state": state, "import_token": None, "import_beat": None}
        if not self._rename(pools, pool_id, shown):
            raise Conflict(f"there is a pool {name!r} by now; import again")

    def show_run(self, run_id: int, name: str, state: str) -> None:
        """Let everybody see a run.

        Raises:
            Conflict: the name is taken by now.
        """
        if not self._rename(runs, run_id, {"name": name, "state": state}):
            raise Conflict(f"there is a run {name!r} by now; import under another name")

    def _rename(self, table: Table, row_id: int, values: Row) -> bool:
        try:
            with self._connection.begin_nested():
                self._connection.execute(update(table).where(table.c.id == row_id).values(**values))
        except IntegrityError:
            return False

        return True

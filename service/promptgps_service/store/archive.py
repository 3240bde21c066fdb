"""A run's rows and its pools' rows, table by table, to be carried to another database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Select, func, insert, select, text

from promptgps_service.store.migrate import newest_revision
from promptgps_service.store.tables import (
    model_versions,
    outcomes,
    pool_chunks,
    pools,
    prompts,
    receipts,
    restores,
    run_segments,
    runs,
    selections,
    snapshots,
    steps,
    superseded_outcomes,
    superseded_selections,
    superseded_steps,
)

Row = Mapping[str, Any]

_OF_RUN = (
    run_segments, selections, outcomes, receipts, model_versions, steps, snapshots, restores,
    superseded_selections, superseded_outcomes, superseded_steps,
)  # fmt: skip
_OF_POOL = (prompts, pool_chunks)
_TABLES = {table.name: table for table in (pools, runs, *_OF_RUN, *_OF_POOL)}
_OWNER = {table.name: table.c.run_id for table in _OF_RUN} | {table.name: table.c.pool_id for table in _OF_POOL}
# What the database that takes a row gives it anew, or what has a meaning only where it was.
_OWN = {"pools": {"import_token", "import_beat"}, "runs": {"touched", "wanted"}, "snapshots": {"id"}}

RUN_TABLES = tuple(table.name for table in _OF_RUN)
READ_AT_ONCE = 1_000  # rows


class Archive:
    """Whole rows over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def schema(self) -> str:
        """What the columns are those of."""
        return newest_revision() or ""

    def columns(self, table: str) -> set[str]:
        """Columns that an archived row of a table has."""
        owner = {_OWNER[table].name} if table in _OWNER else set()
        return {column.name for column in _TABLES[table].columns} - _OWN.get(table, set()) - owner

    def head(self, table: str, owner: int) -> Row:
        """The row of `pools` or `runs` with that id."""
        target = _TABLES[table]
        return dict(self._connection.execute(self._query(table).where(target.c.id == owner)).mappings().one())

    def rows(self, table: str, owner: int, stop: int | None = None) -> Iterator[Row]:
        """Rows of a run or of a pool, in their order; of a pool below position ``stop``."""
        target = _TABLES[table]
        query = self._query(table).where(_OWNER[table] == owner)
        if stop is not None:
            query = query.where((target.c.position if table == "prompts" else target.c.start) < stop)
        query = query.order_by(*([target.c.id] if table == "snapshots" else target.primary_key.columns))
        with self._connection.execute(query, execution_options={"yield_per": READ_AT_ONCE}) as result:
            yield from map(dict, result.mappings())

    def add_head(self, table: str, row: Row) -> int:
        """Insert a row of `pools` or `runs` under its id, or, where that is taken, under another; answers the id."""
        target = _TABLES[table]
        values = dict(row)
        if self._connection.execute(select(target.c.id).where(target.c.id == values["id"])).first() is not None:
            del values["id"]
        made = self._connection.execute(insert(target).values(values)).inserted_primary_key
        if self._connection.dialect.name == "postgresql":  # an id that was given does not move the sequence
            newest = select(func.max(target.c.id)).scalar_subquery()
            self._connection.execute(select(func.setval(text(f"'{table}_id_seq'"), newest)))
        return int(made[0]) if made else 0

    def add(self, table: str, owner: int, rows: Iterator[Row]) -> None:
        """Insert rows of a run or of a pool."""
        while part := list(islice(rows, READ_AT_ONCE)):
            self._connection.execute(insert(_TABLES[table]), [{**row, _OWNER[table].name: owner} for row in part])

    def _query(self, table: str) -> Select[Any]:
        names = self.columns(table)
        return select(*(column for column in _TABLES[table].columns if column.name in names))

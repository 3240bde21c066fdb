"""A database of an earlier version is brought up to date: all is kept, and its run goes on."""

from __future__ import annotations

from typing import Any

import pytest
from alembic.script import ScriptDirectory
from promptgps_service.flow.open_run import describe_run
from promptgps_service.store.engine import make_engine
from promptgps_service.store.migrate import alembic_config, downgrade, upgrade
from sqlalchemy import Engine, MetaData
from sqlalchemy import select as select_rows

from tests.databases import opened_context
from tests.flow.driving import WAIT, add, log_length, open_run, select, settle, step

EARLIER = [
    script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()
][1:]
BATCH = 8


@pytest.mark.parametrize("revision", EARLIER)
def test_a_run_of_an_earlier_version_is_kept_whole_and_goes_on(
    database_url: str, revision: str
) -> None:
    with opened_context(database_url) as before:
        add(before, 60, prior=[(1.0, 4.0), None] * 30)
        open_run(before)
        batches = [step(before, BATCH, sequence=number) for number in range(3)]
        run = settle(before)
    engine = make_engine(database_url)
    downgrade(engine, revision)
    old = rows(engine)
    upgrade(engine)
    new = rows(engine)
    engine.dispose()
    assert all(
        old[table] for table in ("prompts", "runs", "selections", "outcomes", "model_versions")
    )
    for table, kept in old.items():
        assert [
            {name: row[name] for name in past} for past, row in zip(kept, new[table], strict=True)
        ] == kept, table
    with opened_context(database_url) as after:
        found = describe_run(after, "run")
        aged = {"progress"}  # it tells how long ago something was
        assert found.model_dump(exclude=aged) == run.model_dump(exclude=aged)
        for number, batch in enumerate(batches):
            assert select(after, BATCH, sequence=number, wait_seconds=WAIT).draws == batch.draws
        step(after, BATCH, sequence=3)
        assert settle(after).trained_through == log_length(after) == 4 * BATCH


def rows(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, as the schema is now."""
    found = MetaData()
    found.reflect(engine)
    with engine.connect() as connection:
        return {
            table.name: [
                *map(
                    dict,
                    connection.execute(select_rows(table).order_by(*table.primary_key)).mappings(),
                )
            ]
            for table in found.sorted_tables
            if table.name != "alembic_version"
        }

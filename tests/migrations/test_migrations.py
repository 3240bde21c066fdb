"""One tree of migrations for both databases: up, down, up again, and no drift from the tables."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from promptgps_service.store.engine import make_engine
from promptgps_service.store.migrate import alembic_config, downgrade, is_current, upgrade
from promptgps_service.store.tables import metadata
from promptgps_service.store.unit import Store
from sqlalchemy import Engine, inspect

from tests.contracts.samples import make_run
from tests.databases import opened_store, postgres_database

TABLES = {table.name for table in metadata.sorted_tables}


@pytest.fixture(params=("sqlite", "postgresql"))
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without any schema."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/empty.db"
    else:
        with postgres_database(request.getfixturevalue("postgres_server"), migrated=False) as url:
            yield url


@pytest.fixture
def engine(empty_url: str) -> Iterator[Engine]:
    made = make_engine(empty_url)
    yield made
    made.dispose()


def tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names()) - {"alembic_version"}


def test_up_from_nothing_down_to_nothing_and_up_again(engine: Engine) -> None:
    assert tables(engine) == set()
    for _ in range(2):
        upgrade(engine)
        assert tables(engine) == TABLES
        downgrade(engine, "base")
        assert tables(engine) == set()
    with engine.connect() as connection:
        assert not is_current(connection)


def test_the_migrated_schema_is_that_of_the_tables(engine: Engine) -> None:
    upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []
        assert is_current(connection)


def test_every_single_step_goes_down_and_up_again(engine: Engine) -> None:
    upgrade(engine)
    for script in ScriptDirectory.from_config(alembic_config()).walk_revisions():
        before = tables(engine)
        downgrade(engine, str(script.down_revision or "base"))
        upgrade(engine, script.revision)
        assert tables(engine) == before
        downgrade(engine, str(script.down_revision or "base"))


def test_there_is_one_head_and_one_base() -> None:
    scripts = ScriptDirectory.from_config(alembic_config())
    assert len(scripts.get_heads()) == 1
    assert len(scripts.get_bases()) == 1


def test_migrating_again_keeps_what_is_there(engine: Engine, empty_url: str) -> None:
    upgrade(engine)
    with opened_store(empty_url) as store:
        made = make_run(store)
        upgrade(engine)
        with store.read() as unit:
            assert unit.runs.all() == [made]


def test_replicas_that_start_together_migrate_once(empty_url: str) -> None:
    def start(_: int) -> bool:
        store = Store(empty_url)
        try:
            upgrade(store.engine)
            return store.is_current()
        finally:
            store.close()

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(start, range(4))) == [True] * 4

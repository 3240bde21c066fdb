"""URL to engine: what is refused, and what durability rests on."""

from __future__ import annotations

import pytest
from promptgps_service.errors import Invalid
from promptgps_service.store.engine import make_engine, parse_url
from promptgps_service.store.unit import Store
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from tests.contracts.samples import make_run


@pytest.mark.parametrize(
    "url",
    [
        "",
        "promptgps.db",
        "sqlite://",
        "sqlite:///:memory:",
        "mysql://localhost/promptgps",
        "http://x",
        "://",
    ],
)
def test_what_is_not_a_durable_database_is_refused(url: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_url(url)
    assert refused.value.faults[0].field == "database_url"


@pytest.mark.parametrize(
    "url", ["postgresql://h/d", "postgresql+psycopg2://h/d", "postgresql+psycopg://h/d"]
)
def test_postgresql_always_speaks_psycopg(url: str) -> None:
    assert parse_url(url).drivername == "postgresql+psycopg"


def test_commits_are_durable_on_sqlite(tmp_path: object) -> None:
    engine = make_engine(f"sqlite:///{tmp_path}/promptgps.db")
    with engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    engine.dispose()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_migrated_database_is_current(store: Store) -> None:
    assert store.is_current()


def test_rows_of_nothing_are_refused(store: Store) -> None:
    make_run(store)
    with pytest.raises(IntegrityError), store.write() as unit:
        unit.runs.keep_receipt(4711, "key", "digest", {}, position=1)


def test_a_store_that_was_closed_opens_again_when_it_is_used(store: Store) -> None:
    make_run(store)
    store.close()
    with store.read() as unit:
        assert unit.connection.execute(text("SELECT count(*) FROM runs")).scalar_one() == 1

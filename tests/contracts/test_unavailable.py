"""A database that does not answer is `Unavailable`, and nothing of the unit of work is stored."""

from __future__ import annotations

import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from promptgps_service.errors import Unavailable
from promptgps_service.store import engine as engine_module
from promptgps_service.store.unit import Store, Unit
from sqlalchemy import make_url, text

from tests.contracts.samples import append_outcomes, make_run, outcome
from tests.databases import copied_file, opened_store, postgres_database


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    return copied_file(sqlite_template, tmp_path)


def refuse_both(store: Store) -> None:
    with pytest.raises(Unavailable), store.read() as unit:
        unit.runs.all()
    with pytest.raises(Unavailable), store.write() as unit:
        unit.runs.create("run", {}, {})
    with pytest.raises(Unavailable):
        store.is_current()


def hang_up(other: Store, unit: Unit) -> None:
    """End the server's side of a unit's connection."""
    backend = unit.connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    with other.write() as killer:
        killer.connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": backend})


def test_a_sqlite_file_whose_folder_is_gone(tmp_path: Path) -> None:
    with opened_store(f"sqlite:///{tmp_path}/nowhere/promptgps.db") as store:
        refuse_both(store)


def test_a_folder_where_the_sqlite_file_should_be(tmp_path: Path) -> None:
    with opened_store(f"sqlite:///{tmp_path}") as store:
        refuse_both(store)


@pytest.mark.parametrize("kept", [0, 4096], ids=["all", "all but its head"])
def test_a_sqlite_file_that_is_overwritten(sqlite_url: str, kept: int) -> None:
    path = Path(make_url(sqlite_url).database or "")
    content = path.read_bytes()
    path.write_bytes(content[:kept] + b"\x07" * (len(content) - kept))
    with opened_store(sqlite_url) as store:
        refuse_both(store)


def test_a_database_that_was_never_migrated(tmp_path: Path, postgres_server: str) -> None:
    with postgres_database(postgres_server, migrated=False) as url:
        for empty in (f"sqlite:///{tmp_path}/empty.db", url):
            with opened_store(empty) as store:
                assert not store.is_current()
                with pytest.raises(Unavailable), store.read() as unit:
                    unit.runs.all()


def test_a_postgresql_that_takes_no_writes(postgres_server: str) -> None:
    with postgres_database(postgres_server) as url, opened_store(url) as store:
        run = make_run(store)
        with store.write() as unit:
            name = make_url(url).database
            unit.connection.execute(
                text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
            )
        store.close()  # new connections find it as a standby would be
        with pytest.raises(Unavailable):
            append_outcomes(store, run, [outcome()])
        with store.read() as unit:
            assert unit.runs.get("run") == run


def test_a_sqlite_file_that_another_process_keeps_locked(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "BUSY_TIMEOUT_MS", 50)
    path = make_url(sqlite_url).database
    assert path is not None
    with opened_store(sqlite_url) as store:
        run = make_run(store)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable):
                append_outcomes(store, run, [outcome()])
            with store.read() as unit:  # readers do not mind a writer
                assert unit.runs.get("run").log_position == 0
            other.execute("ROLLBACK")
        assert append_outcomes(store, run, [outcome()]) == 1


def test_a_sqlite_file_that_has_no_room_left(sqlite_url: str) -> None:
    with opened_store(sqlite_url) as store:
        run = make_run(store)

        def fill() -> None:
            with store.write() as unit:
                pages = unit.connection.exec_driver_sql("PRAGMA page_count").scalar_one()
                unit.connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
                unit.runs.advance(run.id, log_position=1)
                unit.log.append(run.id, 0, [outcome(draw) for draw in range(5_000)])

        with pytest.raises(Unavailable):
            fill()
        with store.read() as unit:
            assert unit.runs.get("run").log_position == 0
            assert unit.log.after(run.id, 0).head == 0


def test_a_postgresql_that_refuses_connections() -> None:
    with (
        socket.socket() as taken
    ):  # bound and not listening: nobody else gets the port, and connections are refused
        taken.bind(("127.0.0.1", 0))
        with opened_store(
            f"postgresql://nobody@127.0.0.1:{taken.getsockname()[1]}/nothing"
        ) as store:
            refuse_both(store)


def test_a_postgresql_database_that_was_dropped(postgres_server: str) -> None:
    with postgres_database(postgres_server) as url:
        store = Store(url)
        make_run(store)
    try:
        refuse_both(store)
    finally:
        store.close()


def test_a_postgresql_that_hangs_up_in_the_middle(postgres_server: str) -> None:
    with (
        postgres_database(postgres_server) as url,
        opened_store(url) as store,
        opened_store(url) as other,
    ):
        run = make_run(store)

        def work() -> None:
            with store.write() as unit:
                head = unit.log.append(run.id, 0, [outcome()])
                hang_up(other, unit)
                unit.runs.advance(run.id, log_position=head)

        with pytest.raises(Unavailable):
            work()
        with store.read() as unit:  # it comes back by itself
            assert unit.log.after(run.id, 0).head == 0
        assert append_outcomes(store, run, [outcome()]) == 1


def test_a_postgresql_that_hangs_up_on_a_reader_answers_the_next_writer(
    postgres_server: str,
) -> None:
    with (
        postgres_database(postgres_server) as url,
        opened_store(url) as store,
        opened_store(url) as other,
    ):
        run = make_run(store)

        def read() -> None:
            with store.read() as unit:
                hang_up(other, unit)
                unit.runs.all()

        with pytest.raises(Unavailable):
            read()
        assert append_outcomes(store, run, [outcome()]) == 1

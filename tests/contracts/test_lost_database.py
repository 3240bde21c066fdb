"""A database is taken from a running process: nothing is acknowledged that would not last."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from promptgps_service.errors import Unavailable
from promptgps_service.store.unit import Store
from sqlalchemy import make_url, text

from tests.contracts.samples import append_outcomes, make_run, outcome
from tests.databases import copied_file, migrate, opened_store, own_postgres


def _delete(path: Path) -> None:
    path.unlink()


def _move(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def _move_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


def _replace(path: Path) -> None:
    other = path.with_name("other.db")
    shutil.copyfile(path, other)
    os.replace(other, path)


def _delete_log(path: Path) -> None:
    path.with_name(path.name + "-wal").unlink()


def _delete_all(path: Path) -> None:
    for side in ("", "-wal", "-shm"):
        path.with_name(path.name + side).unlink()


WAYS: list[Callable[[Path], None]] = [
    _delete,
    _move,
    _move_folder,
    _replace,
    _delete_log,
    _delete_all,
]


@pytest.fixture
def path(sqlite_template: Path, tmp_path: Path) -> Path:
    """A migrated SQLite file in a folder of its own."""
    folder = tmp_path / "data"
    folder.mkdir()
    return Path(make_url(copied_file(sqlite_template, folder)).database or "")


@pytest.mark.parametrize("take_away", WAYS)
def test_a_file_that_was_taken_away_takes_no_writes_and_tells_nothing(
    path: Path, take_away: Callable[[Path], None]
) -> None:
    with opened_store(f"sqlite:///{path}") as store:
        run = make_run(store)
        append_outcomes(store, run, [outcome()])
        take_away(path)
        for _ in range(2):
            with pytest.raises(Unavailable) as refused:
                append_outcomes(store, run, [outcome(1)])
            assert "gone" in refused.value.detail or "replaced" in refused.value.detail
            assert str(path) not in refused.value.detail
            with pytest.raises(Unavailable), store.read() as unit:
                unit.runs.all()
        assert path.exists() is (take_away in (_replace, _delete_log))


@pytest.mark.parametrize("take_away", WAYS)
def test_a_new_connection_begins_nothing_anew_beside_it(
    path: Path, take_away: Callable[[Path], None]
) -> None:
    with opened_store(f"sqlite:///{path}") as store:
        run = make_run(store)
        append_outcomes(store, run, [outcome()])
        with store.read() as held:  # so that the next unit of work needs another connection
            held.runs.all()
            take_away(path)
            before = sorted(path.parent.iterdir()) if path.parent.is_dir() else None
            with ThreadPoolExecutor(1) as other, pytest.raises(Unavailable):
                other.submit(append_outcomes, store, run, [outcome(1)]).result()
            assert before == (sorted(path.parent.iterdir()) if path.parent.is_dir() else None)
        store.close()
        if take_away is not _delete_log:  # SQLite saves its log as it closes
            with pytest.raises(Unavailable), store.read() as unit:
                unit.runs.all()


@pytest.mark.parametrize("take_away", WAYS)
def test_a_write_that_is_overtaken_by_it_is_not_acknowledged(
    path: Path, take_away: Callable[[Path], None]
) -> None:
    with opened_store(f"sqlite:///{path}") as store:
        run = make_run(store)

        def write() -> None:
            with store.write() as unit:
                head = unit.log.append(run.id, 0, [outcome()])
                unit.runs.advance(run.id, log_position=head)
                take_away(path)

        with pytest.raises(Unavailable):
            write()
        assert store.writing.trouble is not None


def test_a_file_that_comes_back_goes_on(path: Path) -> None:
    with opened_store(f"sqlite:///{path}") as store:
        run = make_run(store)
        append_outcomes(store, run, [outcome()])
        _move(path)
        with pytest.raises(Unavailable):
            append_outcomes(store, run, [outcome(1)])
        path.with_name("elsewhere.db").rename(path)
        assert append_outcomes(store, run, [outcome(1)]) == 2
        store.probe_writes()
        assert store.writing.trouble is None


def test_others_may_open_and_close_the_file_meanwhile(path: Path) -> None:
    with opened_store(f"sqlite:///{path}") as store:
        run = make_run(store)
        for number in range(3):
            with opened_store(f"sqlite:///{path}") as other, other.read() as unit:
                unit.runs.all()
            assert append_outcomes(store, run, [outcome(number)]) == number + 1


def test_a_postgresql_database_that_was_made_anew_under_its_name_is_another() -> None:
    with own_postgres() as postgres:
        postgres.administer("CREATE DATABASE gps")
        url = make_url(postgres.url).set(database="gps").render_as_string(hide_password=False)
        migrate(url)
        store = Store(url)
        try:
            make_run(store)
            postgres.administer("DROP DATABASE gps WITH (FORCE)")
            postgres.administer("CREATE DATABASE gps")
            migrate(url)
            for _ in range(2):
                with pytest.raises(Unavailable), store.write() as unit:
                    unit.connection.execute(text("SELECT 1"))
        finally:
            store.close()
        with opened_store(url) as anew, anew.read() as unit:
            assert unit.runs.all() == []

"""Readiness: true whatever the settings, of threads and of the database."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from promptgps_service.errors import Unavailable
from promptgps_service.flow import readiness
from promptgps_service.flow.context import Context
from promptgps_service.flow.readiness import check_ticker
from promptgps_service.flow.ticker import Ticker
from promptgps_service.flow.trainer import Learning
from promptgps_service.store.unit import Store
from promptgps_service.store.writing import QUIET_SECONDS, Writing
from sqlalchemy import event, make_url, text

from tests.databases import copied_file, opened_store, postgres_database
from tests.server import wait_for

SECONDS = 30.0


class Clock:
    """The clock of all threads, put forward by ``later`` seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.later = 0.0
        self._now = time.monotonic
        monkeypatch.setattr("promptgps_service.flow.ticker.time.monotonic", self.now)

    def now(self) -> float:
        return self._now() + self.later


@contextmanager
def ticking(seconds: float, job: Callable[[], None] = lambda: None) -> Iterator[Ticker]:
    ticker = Ticker("test", seconds, job)
    try:
        yield ticker
    finally:
        ticker.stop()


@contextmanager
def served(url: str, poll_seconds: float = 0.05, lease_seconds: float = 10.0) -> Iterator[Context]:
    context = Context(
        Store(url),
        device=torch.device("cpu"),
        learning=Learning(enabled=True, groups=32, seconds=0.2),
        callers=8,
        poll_seconds=poll_seconds,
        lease_seconds=lease_seconds,
    )
    context.follow()
    context.probe_writes()
    context.open_all()
    try:
        yield context
    finally:
        context.close()


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    return copied_file(sqlite_template, tmp_path)


def is_ready(context: Context) -> bool:
    return set(context.checks().values()) == {"ok"}


# ---- threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.05, 2.0, 60.0, 900.0])
def test_silence_is_judged_by_the_period_of_the_thread(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    held = threading.Event()
    with ticking(seconds, held.wait) as ticker:  # type: ignore[arg-type]
        if seconds >= 60:
            for later in (0.0, seconds / 2, seconds, seconds + readiness.SILENCE_SECONDS - 2):
                clock.later = later
                assert check_ticker(ticker) == "ok"
        clock.later = seconds + readiness.SILENCE_SECONDS + 1
        assert check_ticker(ticker) != "ok"
        held.set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_is_dead_is_told_at_once_whatever_its_period() -> None:
    def die() -> None:
        raise SystemExit

    for seconds in (0.01, 3600.0):
        with ticking(0.01, die) as ticker:
            ticker.seconds = seconds
            wait_for(lambda ticker=ticker: not ticker.alive, SECONDS, "the thread to die")  # type: ignore[misc]
            assert check_ticker(ticker) == "has stopped"


def test_a_thread_that_hangs_in_a_job_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "SILENCE_SECONDS", 0.2)
    held = threading.Event()
    with ticking(0.01, held.wait) as ticker:  # type: ignore[arg-type]
        wait_for(lambda: "one job" in check_ticker(ticker), SECONDS, "the job to be told")
        held.set()
        wait_for(lambda: check_ticker(ticker) == "ok", SECONDS, "the thread to be well again")


def test_a_job_that_fails_is_tried_again_before_a_long_period_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("promptgps_service.flow.ticker.RETRY_SECONDS", 0.05)
    monkeypatch.setattr(readiness, "SILENCE_SECONDS", 0.0)
    calls = 0

    def fail_first() -> None:
        nonlocal calls
        calls += 1
        ticker.seconds = 3600.0
        if calls < 4:
            raise Unavailable("away") if calls % 2 else RuntimeError("ours")

    with ticking(0.2, fail_first) as ticker:
        wait_for(lambda: calls == 4, SECONDS, "the job to be tried again")
        wait_for(lambda: ticker.trouble is None, SECONDS, "the trouble to be over")


@pytest.mark.parametrize(
    ("poll_seconds", "lease_seconds"), [(60.0, 10.0), (0.05, 3600.0), (60.0, 3600.0)]
)
def test_slow_settings_make_nobody_unready(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, poll_seconds: float, lease_seconds: float
) -> None:
    with served(sqlite_url, poll_seconds, lease_seconds) as context:
        assert is_ready(context)
        clock = Clock(monkeypatch)
        slow = {"follow": poll_seconds, "leases": lease_seconds / 4}
        for later in (5.0, 14.0):
            clock.later = later
            checks = context.checks()
            assert all(checks[name] == "ok" for name, seconds in slow.items() if seconds > 1), (
                checks
            )


@pytest.mark.parametrize("name", ["follow", "leases", "writes"])
def test_every_thread_is_watched(sqlite_url: str, name: str) -> None:
    with served(sqlite_url, 60.0, 3600.0) as context:
        context._tickers[name].stop()
        assert context.checks()[name] == "has stopped"
        assert not is_ready(context)


# ---- the database --------------------------------------------------------------------------------


def test_a_database_that_takes_no_writes_is_told_and_comes_back(postgres_server: str) -> None:
    with (
        postgres_database(postgres_server) as url,
        served(url) as context,
        opened_store(url) as operator,
    ):
        name = make_url(url).database

        def order(statement: str) -> None:
            """Change the database, for new connections, and make every other one new."""
            with operator.engine.connect() as connection:
                connection.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE"))
                connection.commit()
                connection.execute(text(statement))
                connection.commit()
                connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                )

        wait_for(lambda: is_ready(context), SECONDS, "the process to be ready")
        order(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')  # as a standby is
        context.store.writing._done = -QUIET_SECONDS  # as if nobody had written for long
        wait_for(
            lambda: "read-only" in context.checks()["database"],
            SECONDS,
            "the failed write to be told",
        )
        assert context.checks()["database"].startswith("takes no writes: ")
        order(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
        wait_for(lambda: is_ready(context), SECONDS, "the database to take writes again")


def test_a_file_that_is_gone_is_told_at_once(sqlite_url: str) -> None:
    path = Path(make_url(sqlite_url).database or "")
    with served(sqlite_url, 60.0, 3600.0) as context:
        path.rename(path.with_name("elsewhere.db"))
        assert "gone" in context.checks()["database"]
        path.with_name("elsewhere.db").rename(path)
        wait_for(lambda: is_ready(context), SECONDS, "the file to be found again")


def test_a_failed_write_is_told_until_a_probe_finds_room(sqlite_url: str) -> None:
    with served(sqlite_url, 60.0, 3600.0) as context:
        context._tickers["writes"].stop()
        engine = context.store.engine

        allowed = 2**30

        def restrict(connection: sqlite3.Connection, _: object) -> None:
            connection.execute(f"PRAGMA max_page_count = {allowed}")

        event.listen(engine, "connect", restrict)

        def limit(pages: int) -> None:
            nonlocal allowed
            with engine.connect() as connection:
                allowed = connection.exec_driver_sql("PRAGMA page_count").scalar_one() + pages
            engine.dispose()

        def write(size: int) -> None:
            with context.store.write() as unit:
                unit.connection.execute(
                    text("INSERT INTO write_probes (room) VALUES (zeroblob(:n))"), {"n": size}
                )

        limit(2)  # a small row fits, a large one does not
        with pytest.raises(Unavailable):
            write(100_000)
        assert context.checks()["database"] == (
            "takes no writes: the database has no room left on its disk; "
            "nothing was stored, try again"
        )
        write(10)  # what fits does not prove that there is room
        with pytest.raises(Unavailable):
            context.store.probe_writes()
        assert context.checks()["database"] != "ok"
        limit(1000)
        context.store.probe_writes()
        assert context.checks()["database"] == "ok"
        with context.store.read() as unit:
            assert (
                unit.connection.execute(text("SELECT count(*) FROM write_probes")).scalar_one() == 0
            )


@pytest.mark.parametrize(
    ("revision", "word"), [("0004", "older"), ("9999", "newer"), (None, "no schema")]
)
def test_a_schema_that_this_code_does_not_know_is_told(
    context: Context, revision: str | None, word: str
) -> None:
    with context.store.write() as unit:
        unit.connection.execute(text("DELETE FROM alembic_version"))
        if revision is not None:
            unit.connection.execute(
                text("INSERT INTO alembic_version VALUES (:r)"), {"r": revision}
            )
    assert word in context.checks()["migrations"]


def test_probes_wear_no_disk(store: Store) -> None:
    """Where others write, or wrote a moment ago, nothing is written to find out whether one can."""
    store.probe_writes()
    assert store.writing.trouble is None
    with store.read() as unit:
        unit.connection.execute(text("SELECT 1"))
    before = store.writing._done
    for _ in range(5):
        store.probe_writes()
    assert store.writing._done == before


def test_connections_that_are_all_in_use_say_nothing_of_the_database() -> None:
    from promptgps_service.store.faults import unavailable
    from sqlalchemy.exc import TimeoutError as PoolTimeout

    writing = Writing()
    with pytest.raises(Unavailable), writing.watched(), unavailable():
        raise PoolTimeout
    assert writing.trouble is None

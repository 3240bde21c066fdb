"""Brings a database to the newest schema, from the installed package or from a checkout."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from promptgps_service.errors import Unavailable
from promptgps_service.store.faults import fault_of

_LOCK = 7_209_310_455_108_116  # any constant: concurrent migrations of one PostgreSQL take turns


def migrations_folder() -> Path:
    """Where the Alembic tree is: inside an installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent.parent
    packaged = package / "_migrations"
    return packaged if packaged.is_dir() else package.parent.parent / "migrations"


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, without an ini file."""
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    config.attributes["connection"] = connection
    return config


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Migrate up to a revision."""
    _run(engine, command.upgrade, revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Migrate down to a revision (`base` drops everything)."""
    _run(engine, command.downgrade, revision)


def is_current(connection: Connection) -> bool:
    """Whether the database is at the newest revision."""
    return MigrationContext.configure(connection).get_current_revision() == newest_revision()


@cache
def newest_revision() -> str | None:
    """Revision that this code works with."""
    return ScriptDirectory.from_config(alembic_config()).get_current_head()


def _run(engine: Engine, action: Callable[[Config, str], None], revision: str) -> None:
    try:
        with engine.connect() as connection:
            connection = connection.execution_options(promptgps_write=True)
            with connection.begin():
                if connection.dialect.name == "postgresql":
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
                action(alembic_config(connection), revision)
    except DBAPIError as error:
        fault = fault_of(error)
        if fault is None:
            raise
        cause = str(error.orig).partition("\n")[0]
        raise Unavailable(f"{fault}: {cause}") from error

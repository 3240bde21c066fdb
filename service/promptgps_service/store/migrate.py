"""Brings a database to the newest schema, from the installed package or from a checkout."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from promptgps_service.errors import Invalid, Unavailable
from promptgps_service.store.faults import fault_of

_log = structlog.get_logger(__name__)
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
    return schema_fault(connection) is None


def schema_fault(connection: Connection) -> str | None:
    """Why this code cannot work with the schema of a database; None where it can."""
    found = MigrationContext.configure(connection).get_current_revision()
    if found == newest_revision():
        return None
    if found is None:
        return "the database has no schema: run `promptgps migrate`"

    if found in _revisions():
        return (
            f"the schema ({found}) is older than this version of promptgps: run `promptgps migrate`"
        )

    return f"the schema ({found}) is of a newer version of promptgps: run that one"


@cache
def newest_revision() -> str | None:
    """Revision that this code works with."""
    return ScriptDirectory.from_config(alembic_config()).get_current_head()


@cache
def _revisions() -> frozenset[str]:
    scripts = ScriptDirectory.from_config(alembic_config()).walk_revisions()
    return frozenset(script.revision for script in scripts)


def _known_revision(connection: Connection) -> str | None:
    """The revision of a database.

    Raises:
        Invalid: this code does not know it.
    """
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found not in _revisions():
        raise Invalid(schema_fault(connection) or found)
    return found


def _run(engine: Engine, action: Callable[[Config, str], None], revision: str) -> None:
    try:
        with engine.connect() as connection:
            connection = connection.execution_options(promptgps_write=True)
            with connection.begin():
                if connection.dialect.name == "postgresql":
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
                before = _known_revision(connection)
                action(alembic_config(connection), revision)
                after = MigrationContext.configure(connection).get_current_revision()

        if before != after:
            _log.debug("migrated", before=before, after=after)
    except CommandError as error:
        raise Invalid(str(error)) from error
    except DBAPIError as error:
        fault = fault_of(error)
        if fault is None:
            raise
        cause = str(error.orig).partition("\n")[0]
        raise Unavailable(f"{fault}: {cause}") from error

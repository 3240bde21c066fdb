"""What all tests share: a session's folder, real databases, and what is opened on them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from promptgps_service.flow.context import Context
    from promptgps_service.store.unit import Store

# Shared cores stall single examples now and then; pytest's own limit still ends a test that hangs.
settings.register_profile("promptgps", deadline=None, print_blob=True)
settings.load_profile("promptgps")
# Two workers on two cores: more threads would only wait for
# each other. Must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# each runs in its trainer's environment: `make test-trl` and the like
collect_ignore = ["adapters"]
DATABASES = ("sqlite", "postgresql")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(
        config, "workerinput"
    ):  # xdist's workers inherit the environment of the process that starts them
        from tests.databases import start_session

        start_session()


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        from tests.databases import stop_session

        stop_session()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file without rows, to be copied."""
    from tests.databases import migrated_file

    return migrated_file(tmp_path_factory.mktemp("sqlite"))


@pytest.fixture(scope="session")
def postgres_server() -> str:
    """URL of the PostgreSQL server of this test session."""
    from tests.databases import postgres_server

    return postgres_server()


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A migrated database without rows, on each of the two kinds of database."""
    from tests.databases import copied_file, postgres_database

    if request.param == "sqlite":
        yield copied_file(request.getfixturevalue("sqlite_template"), tmp_path)
    else:
        with postgres_database(request.getfixturevalue("postgres_server")) as url:
            yield url


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """The store on that database."""
    from tests.databases import opened_store

    with opened_store(database_url) as opened:
        yield opened


@pytest.fixture
def context(database_url: str) -> Iterator[Context]:
    """One process of the service on that database, learning as it goes."""
    from tests.databases import opened_context

    with opened_context(database_url) as opened:
        yield opened

"""One real server for a module, and a simulated learner to train."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from promptgps_client import PromptGPS

from tests.databases import copied_file
from tests.server import Server, running


@pytest.fixture(scope="session")
def server(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server a process of the test session, on a SQLite file of its own."""
    folder = tmp_path_factory.mktemp("server")
    with running(copied_file(sqlite_template, folder), folder) as started:
        yield started


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[PromptGPS]:
    """The client that trainers use."""
    with PromptGPS(server.url) as opened:
        yield opened

"""What the tests of all adapters share: a real service, and a run of its own for each test.

They run in a trainer's environment, which has only the client. The service is started with the
python that the variable PROMPTGPS_SERVICE names, by default that of `.venv`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from promptgps_client import PromptGPS

from tests.adapters.sums import DATABASE, Run, opened
from tests.server import Server, running

os.environ.setdefault("PROMPTGPS_SERVICE", str(Path(__file__).parents[2] / ".venv/bin/python"))
os.environ.update(
    HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES=""
)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One service for the session, on SQLite."""
    folder = tmp_path_factory.mktemp("service")
    with running(f"sqlite:///{folder}/{DATABASE}", folder) as started:
        yield started


@pytest.fixture
def run(server: Server, tmp_path: Path) -> Iterator[Run]:
    """A run of its own for each test, four rollouts a prompt."""
    with PromptGPS(server.url) as client:
        yield opened(client, server, tmp_path.name)

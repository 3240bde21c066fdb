"""The database goes away and comes back.

By itself the service goes on where it was, and nobody has lost anything.

`PROMPTGPS_TEST_OUTAGE_SECONDS` says for how long it is away.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import make_url

from tests.databases import OwnPostgres, copied_file, own_postgres
from tests.faults.conftest import open_run
from tests.faults.crowd import Crowd, check_account
from tests.server import Server, running, wait_for

OUTAGE_SECONDS = float(os.environ.get("PROMPTGPS_TEST_OUTAGE_SECONDS", "4"))
KEY = "sesame"
REPORTS = 20
pytestmark = pytest.mark.timeout(300 + 3 * OUTAGE_SECONDS)


@contextmanager
def served(database_url: str, folder: Path) -> Iterator[Server]:
    """A server that wants a key, so that keys are part of what has to survive."""
    with running(database_url, folder, PROMPTGPS_API_KEYS=KEY) as server:
        server.http.headers["authorization"] = f"Bearer {KEY}"
        open_run(server)
        yield server


def wait_it_out(server: Server, since: float) -> None:
    """Let the outage last, while what needs no database answers."""
    while time.monotonic() - since < OUTAGE_SECONDS:
        assert server.request("GET", "/healthz").status_code == 200
        assert server.request("GET", "/metrics").status_code == 200
        time.sleep(0.1)


@pytest.mark.parametrize("how", ["stopped", "killed", "frozen"])
def test_postgresql_is_away(tmp_path: Path, how: str) -> None:
    with own_postgres() as postgres, served(postgres.url, tmp_path) as server:
        leave, come_back = ways(postgres)[how]
        with Crowd(server) as crowd:
            crowd.wait_for_more(REPORTS)
            version = server.json("GET", "/runs/run")["model_version"]
            leave()
            gone = time.monotonic()
            if how != "frozen":  # a frozen one takes connections and lets them wait
                crowd.wait_for_refusals(503)
                answer = server.request("GET", "/readyz")
                assert answer.status_code == 503
                assert answer.json()["checks"]["database"] != "ok"
            wait_it_out(server, gone)
            come_back()
            crowd.wait_for_more(REPORTS)
            wait_for(
                lambda: server.request("GET", "/readyz").status_code == 200,
                60.0,
                "the server to be ready again",
            )
            assert server.json("GET", "/runs/run")["model_version"] >= version
        check_account(postgres.url, server, crowd)


def ways(postgres: OwnPostgres) -> dict[str, tuple[Callable[[], None], Callable[[], None]]]:
    """How to go away and how to come back."""
    return {
        "stopped": (postgres.stop, postgres.start),
        "killed": (postgres.kill, postgres.start),
        "frozen": (postgres.freeze, postgres.thaw),
    }


def test_a_sqlite_file_is_locked_by_somebody_else(sqlite_template: Path, tmp_path: Path) -> None:
    url = copied_file(sqlite_template, tmp_path)
    path = make_url(url).database
    assert path is not None
    with served(url, tmp_path) as server:
        with Crowd(server) as crowd:
            crowd.wait_for_more(REPORTS)
            with closing(sqlite3.connect(path, isolation_level=None, timeout=60.0)) as other:
                other.execute("BEGIN EXCLUSIVE")
                wait_it_out(server, time.monotonic())
                other.execute("ROLLBACK")
            crowd.wait_for_more(REPORTS)
        check_account(url, server, crowd)

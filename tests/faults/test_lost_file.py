"""The database file of a running server is taken away.

It says so, and acknowledges nothing until it is back.
"""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from sqlalchemy import make_url

from tests.databases import copied_file
from tests.faults.conftest import open_run, query
from tests.server import Server, running, wait_for


def report(server: Server, step: int) -> httpx.Response:
    """Draw one prompt and report what came of it."""
    asked = server.request(
        "POST", "/select_batch", json={"run": "run", "sequence": step, "batch_size": 1}
    )
    if not asked.is_success:
        return asked
    draws = asked.json()["draws"]["draw_id"]
    return server.request(
        "POST", "/outcomes", json={"run": "run", "draw_id": draws, "successes": [1], "trials": [4]}
    )


@pytest.mark.parametrize(
    "settings", [{}, {"PROMPTGPS_POLL_SECONDS": "60", "PROMPTGPS_LEASE_SECONDS": "3600"}]
)
def test_nothing_is_acknowledged_while_the_file_is_away(
    sqlite_template: Path, tmp_path: Path, settings: dict[str, str]
) -> None:
    url = copied_file(sqlite_template, tmp_path)
    path = Path(make_url(url).database or "")
    away = tmp_path / "elsewhere.db"
    with running(url, tmp_path, **settings) as server:
        open_run(server)
        assert report(server, 0).status_code == 200
        path.rename(away)
        for answer in (report(server, 1), server.request("POST", "/pools", json={"name": "p"})):
            assert answer.status_code == 503, answer.text
            assert "gone" in answer.json()["detail"]
            assert answer.headers["retry-after"]
        ready = server.request("GET", "/readyz")
        assert ready.status_code == 503
        assert "gone" in ready.json()["checks"]["database"]
        assert server.request("GET", "/healthz").status_code == 200
        assert not path.exists()

        away.rename(path)
        assert report(server, 1).status_code == 200
        wait_for(
            lambda: server.request("GET", "/readyz").status_code == 200,
            60.0,
            "the server to be ready again",
        )
    assert query(url, "SELECT count(*) FROM outcomes") == [(2,)]

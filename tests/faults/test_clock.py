"""The wall clock is set back and forth under a running service, and nobody notices.

With Debian's libfaketime the whole process is deceived, else only what Python reads by `time.time`.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from tests.faults.conftest import DIMENSION, open_run, query, vector
from tests.faults.crowd import Crowd, check_account
from tests.server import running, wait_for

DAY = 86_400
ROWS = 30_000
LINES = {"content-type": "application/jsonl"}
LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


class Clock:
    """The wall clock of one server."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.set(0)

    def set(self, seconds: int) -> None:
        """Shift it against the real one."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}")
        new.replace(self._file)  # whole at any time

    def environment(self) -> dict[str, str]:
        """What a server needs to go by it."""
        if not LIBRARIES:
            return {
                "PYTHONPATH": str(Path(__file__).parent / "shifted_clock"),
                "PROMPTGPS_TEST_CLOCK": str(self._file),
            }
        return {
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


def server_time(database_url: str) -> float:
    """When the server, by its own clock, received its newest outcome."""
    return float(
        query(database_url, "SELECT received_at FROM outcomes ORDER BY position DESC LIMIT 1")[0][0]
    )


@pytest.mark.timeout(240)
def test_selections_and_outcomes_do_not_go_by_the_clock(database_url: str, tmp_path: Path) -> None:
    clock = Clock(tmp_path)
    with running(database_url, tmp_path, **clock.environment()) as server:
        open_run(server)
        with Crowd(server) as crowd:
            crowd.wait_for_more(10)
            today = server_time(database_url)
            for shift in (-400 * DAY, 400 * DAY, -DAY, 0):
                clock.set(shift)
                crowd.wait_for_more(10)
                moved = server_time(database_url) - today
                assert abs(moved - shift) < DAY / 2, "the clock was not set"
        check_account(database_url, server, crowd)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("shift", [DAY, -DAY], ids=["forward", "back"])
def test_an_import_under_way_is_not_taken_for_dead(
    database_url: str, tmp_path: Path, shift: int
) -> None:
    content = b"".join(
        json.dumps({"key": f"k{row}", "vector": vector(row)}).encode() + b"\n"
        for row in range(ROWS)
    )
    clock = Clock(tmp_path)
    answers = []
    with running(database_url, tmp_path, **clock.environment()) as server:
        server.json(
            "POST",
            "/pools",
            {"name": "pool", "embedding": {"kind": "given", "dimension": DIMENSION}},
        )

        def send() -> None:
            answers.append(
                server.request("POST", "/pools/pool/prompts", content=content, headers=LINES)
            )

        importing = threading.Thread(target=send)
        importing.start()
        wait_for(
            lambda: query(database_url, "SELECT COUNT(*) FROM pool_chunks")[0][0] > 0,
            60.0,
            "the first chunk",
        )
        clock.set(shift)
        other = server.request("POST", "/pools/pool/prompts", json={"vectors": [vector(10**6)]})
        late = not importing.is_alive()
        importing.join()
    assert not late, "the import was over before the clock was set"
    assert other.status_code == 429, other.text
    assert [answer.json()["total"] for answer in answers] == [ROWS]

"""The disk is full: what does not fit is refused, what was promised stays.

With room again all goes on by itself.

The errors are the system's own: a small file system where mounting one is allowed, and a limit on
the size of files.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.databases import copied_file, own_postgres
from tests.faults.conftest import DIMENSION, change, open_run, query, vector
from tests.faults.crowd import Crowd, check_account
from tests.server import Server, running, wait_for

REPORTS = 20
MEGABYTE = 2**20


class Disk(ABC):
    """What can be filled and freed."""

    @abstractmethod
    def fill(self) -> None: ...

    @abstractmethod
    def free(self) -> None: ...


class SmallDisk(Disk):
    """A file system of its own, filled by a file that nobody needs."""

    def __init__(self, folder: Path) -> None:
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        with suppress(OSError), self._ballast.open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))

    def free(self) -> None:
        self._ballast.unlink()


class SmallFiles(Disk):
    """Processes whose files may not grow past a size."""

    def __init__(self, processes: Callable[[], list[psutil.Process]], size: int) -> None:
        self._processes = processes
        self._size = size

    def fill(self) -> None:
        self._limit(str(self._size))

    def free(self) -> None:
        self._limit("unlimited")

    def _limit(self, size: str) -> None:
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                owner = process.uids().real  # root itself may be denied to change another's limits
                command = ["prlimit", "--pid", str(process.pid), f"--fsize={size}:unlimited"]
                subprocess.run(command, check=False, user=None if owner == os.getuid() else owner)


@contextmanager
def mounted(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of that size; skips the test where nobody may mount one."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m,mode=777", "tmpfs", str(folder)]
    if (
        os.geteuid()
        or subprocess.run(["mount", *options], capture_output=True, check=False).returncode
    ):
        pytest.skip(
            "mounting is not allowed here; the same is tested with a limit on the size of files"
        )
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def live_through(server: Server, url: str, disk: Disk) -> None:
    """Clients come and go on while the disk is full for a while."""
    with Crowd(server) as crowd:
        crowd.wait_for_more(REPORTS)
        disk.fill()
        crowd.wait_for_refusals(503)
        assert server.request("GET", "/healthz").status_code == 200
        wait_for(lambda: "takes no writes" in database(server), 30.0, "the full disk to be told")
        refused = server.request("POST", "/pools/run/prompts", json={"vectors": [vector(10**6)]})
        assert refused.status_code in (200, 503), refused.text  # what fits still fits
        reading = server.json("GET", "/runs/run")
        assert reading["log_position"] >= REPORTS
        disk.free()
        crowd.wait_for_more(REPORTS)
        wait_for(lambda: database(server) == "ok", 30.0, "the room to be found")
    check_account(url, server, crowd)
    assert "database" in refused.text or refused.status_code == 200


def database(server: Server) -> str:
    """What readiness says of the database."""
    answer = server.request("GET", "/readyz")
    assert answer.is_success or answer.headers["retry-after"] == "1"
    return str(answer.json()["checks"]["database"])


def test_sqlite_on_a_small_disk_with_its_log_beside_it(
    sqlite_template: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path / "small", 16) as folder:
        url = copied_file(sqlite_template, folder)
        with running(url, folder) as server:
            open_run(server)
            live_through(server, url, SmallDisk(folder))


def test_sqlite_with_small_files(sqlite_template: Path, tmp_path: Path) -> None:
    url = copied_file(sqlite_template, tmp_path)
    with running(url, tmp_path) as server:
        open_run(server)
        live_through(
            server, url, SmallFiles(lambda: [psutil.Process(server.process.pid)], 64 * 1024)
        )


def test_postgresql_on_a_small_disk(tmp_path: Path) -> None:
    with own_postgres() as postgres, mounted(postgres.data.parent / "small", 16) as folder:
        place = folder / "tables"
        place.mkdir()
        shutil.chown(place, postgres.processes()[0].username())
        postgres.administer(f"CREATE TABLESPACE small LOCATION '{place}'")
        for table in ("outcomes", "selections"):
            change(postgres.url, f"ALTER TABLE {table} SET TABLESPACE small")
        with running(postgres.url, tmp_path) as server:
            open_run(server)
            live_through(server, postgres.url, SmallDisk(folder))


def test_postgresql_with_small_files(tmp_path: Path) -> None:
    with own_postgres() as postgres, running(postgres.url, tmp_path) as server:
        open_run(server)
        # PostgreSQL's own log comes in files of 16 MB and has
        # to go on, so the table begins with more than that
        change(
            postgres.url,
            "INSERT INTO runs "
            "(name, request, settings, log_position, draws, selections, created_at) "
            "VALUES ('ballast', '{}', '{}', 0, 0, 0, '')",
        )
        change(
            postgres.url,
            "INSERT INTO outcomes "
            '(run_id, position, "row", rollout, successes, trials, status, received_at) '
            "SELECT id, number, 0, -1, 0, 1, 0, 0 FROM runs, generate_series(1, 300000) AS number "
            "WHERE name = 'ballast'",
        )
        ((size,),) = query(postgres.url, "SELECT pg_relation_size('outcomes')")
        assert size > 17 * MEGABYTE
        live_through(server, postgres.url, SmallFiles(postgres.processes, size))


def test_a_pool_file_that_finds_no_room_is_refused_and_harms_nobody(
    sqlite_template: Path, tmp_path: Path
) -> None:
    url = copied_file(sqlite_template, tmp_path)
    with running(url, tmp_path) as server:
        open_run(server)
        disk = SmallFiles(lambda: [psutil.Process(server.process.pid)], 12 * MEGABYTE)
        disk.fill()
        content = b" " * (24 * MEGABYTE)
        headers = {"content-type": "application/jsonl"}
        answer = server.request("POST", "/pools/run/prompts", content=content, headers=headers)
        assert answer.status_code == 503, answer.text
        assert "room" in answer.json()["detail"]
        disk.free()
        assert (
            server.request(
                "POST", "/pools/run/prompts", content=content, headers=headers
            ).status_code
            == 422
        )
        assert (
            server.json("POST", "/pools/run/prompts", {"vectors": [[1.0] * DIMENSION]})["added"]
            == 1
        )

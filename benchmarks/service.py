"""A promptgps service of one's own: a subprocess on a free loopback port that is always stopped."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from promptgps_client import PromptGPS

START_SECONDS = 60.0
STOP_SECONDS = 15.0


class ServiceDidNotStart(RuntimeError):
    """The subprocess ended, or was not ready in time; the message ends with its log."""


class Service:
    """One server process over a database."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self.database_url = database_url
        self.url = ""
        self.ready_seconds = 0.0
        self._log = folder / "service.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and return once it is ready; ``ready_seconds`` says how long that took.

        Raises:
            ServiceDidNotStart: it ended, or was not ready in time.
        """
        command = [
            sys.executable,
            "-m",
            "promptgps_service",
            "serve",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
        ]
        environment = {
            "PROMPTGPS_LOG_LEVEL": "warning",
            **os.environ,
            "PROMPTGPS_DATABASE_URL": self.database_url,
        }
        started = time.monotonic()

        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment
            )

        while time.monotonic() - started < START_SECONDS and self._process.poll() is None:
            address = re.search(r"API (http://\S+)", self._log.read_text())
            if address is not None and _is_ready(address[1]):
                self.url = address[1]
                self.ready_seconds = time.monotonic() - started
                return

            time.sleep(0.02)

        self.stop()
        raise ServiceDidNotStart(
            f"the service is not ready; its log ends:\n{self._log.read_text()[-3000:]}"
        )

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not help."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()


@contextmanager
def service_at(url: str | None) -> Iterator[str]:
    """The URL of a service: the one given, or one of our own."""
    if url is not None:
        yield url
        return
    with running_service() as service:
        yield service.url


@contextmanager
def running_service(database_url: str | None = None) -> Iterator[Service]:
    """A service on a temporary SQLite file, or on the given database, stopped on leaving."""
    with tempfile.TemporaryDirectory(prefix="promptgps-") as folder:
        service = Service(database_url or f"sqlite:///{folder}/promptgps.db", Path(folder))
        try:
            service.start()
            yield service
        finally:
            service.stop()


def _is_ready(url: str) -> bool:
    with PromptGPS(url) as gps:
        return gps.healthy() and gps.ready().ready

"""A promptgps service of one's own, started as a subprocess and always stopped."""

from __future__ import annotations

import os
import socket
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


@contextmanager
def running_service() -> Iterator[str]:
    """The URL of a fresh service on a free loopback port and a temporary SQLite file, stopped on leaving."""
    with tempfile.TemporaryDirectory(prefix="promptgps-") as folder:
        port, log_path = _free_port(), Path(folder, "service.log")
        url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "promptgps_service", "serve", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--database-url", f"sqlite:///{folder}/promptgps.db"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with log_path.open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            _wait_until_ready(url, process, log_path)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log_path: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with PromptGPS(url) as gps:
        while time.monotonic() < deadline and process.poll() is None:
            if gps.healthy() and gps.ready().ready:
                return
            time.sleep(0.1)
    state = "is not ready" if process.poll() is None else f"ended with code {process.returncode}"
    raise ServiceDidNotStart(f"the service {state}; its log ends:\n{log_path.read_text()[-3000:]}")

"""A real promptgps server in a process of its own: started, waited for, stopped, killed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

START_SECONDS = 90.0  # importing torch on a busy machine is most of it
STOP_SECONDS = 30.0
LOG_SHOWN = 4_000


class ServerFailed(AssertionError):
    """The server is not what the test needs; the message carries the end of its log."""


@dataclass
class Server:
    """One server process. ``log`` holds its standard error."""

    process: subprocess.Popen[str]
    url: str
    log: Path
    http: httpx.Client = field(default_factory=lambda: _client())

    @property
    def alive(self) -> bool:
        """Whether the process is still there."""
        return self.process.poll() is None

    def kill(self) -> None:
        """Kill -9: no handler of the server runs."""
        self.process.kill()
        self.process.wait(STOP_SECONDS)

    def terminate(self) -> None:
        """SIGTERM, without waiting for what it does."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """SIGTERM, then wait; answers the exit code."""
        if self.alive:
            self.terminate()
        return self.wait()

    def wait(self) -> int:
        """Wait for the process to end; answers the exit code."""
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailed(
                f"the server did not stop within {STOP_SECONDS:g} s\n{self.tail()}"
            ) from None

    def close(self) -> None:
        """Close what this process holds of the server."""
        self.http.close()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def tail(self) -> str:
        """The end of the server's log."""
        return self.log.read_text(errors="replace")[-LOG_SHOWN:]

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request, without retries."""
        return self.http.request(method, self.url + path, **options)

    def json(self, method: str, path: str, body: Any = None) -> Any:
        """One request that must succeed; answers the parsed body."""
        answer = self.request(method, path, **({} if body is None else {"json": body}))
        if not answer.is_success:
            raise ServerFailed(
                f"{method} {path}: {answer.status_code} {answer.text}\n{self.tail()}"
            )
        return answer.json()

    def wait_trained(self, run: str, seconds: float = 60.0) -> dict[str, Any]:
        """Wait until the served model has learned the whole log; answers the run.

        Raises:
            ServerFailed: nothing more was learned for ``seconds``.
        """
        deadline = time.monotonic() + seconds
        learned = -1
        while True:
            found: dict[str, Any] = self.json("GET", f"/runs/{run}")
            if found["trained_through"] == found["log_position"]:
                return found
            if found["trained_through"] > learned:
                deadline = time.monotonic() + seconds
                learned = found["trained_through"]
            elif time.monotonic() > deadline:
                raise ServerFailed(
                    f"{run} learned nothing for {seconds:g} s: {found}\n{self.tail()}"
                )
            time.sleep(0.05)


def _client() -> httpx.Client:
    """A client for one server.

    Each request gets a connection of its own, which no stop of the server has closed.
    """
    return httpx.Client(
        timeout=60.0, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
    )


def wait_for(condition: Callable[[], bool], seconds: float, what: str, pause: float = 0.01) -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: it did not within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s for {what}")
        time.sleep(pause)


def command(*arguments: str) -> list[str]:
    """The command line of this checkout's promptgps, in the environment that has the service."""
    return [
        os.environ.get("PROMPTGPS_SERVICE", sys.executable),
        "-m",
        "promptgps_service",
        *arguments,
    ]


def environment(**variables: str) -> dict[str, str]:
    """This environment without promptgps's settings and proxies, plus the given variables."""
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PROMPTGPS_") and not name.lower().endswith("_proxy")
    }
    return (
        own
        | {"PROMPTGPS_DEVICE": "cpu", "PROMPTGPS_TORCH_THREADS": "1", "OMP_NUM_THREADS": "1"}
        | variables
    )


def start(database_url: str, folder: Path, *flags: str, **variables: str) -> Server:
    """Start a server on a free port and wait until it is ready.

    Args:
        database_url: what it keeps its state in.
        folder: where its log goes.
        flags: more flags of ``promptgps serve``.
        variables: more environment variables.
    """
    log = folder / f"server-{time.monotonic_ns()}.log"
    arguments = command(
        "serve", "--host", "127.0.0.1", "--port", "0", "--database-url", database_url, *flags
    )
    with log.open("wb") as errors:
        process = subprocess.Popen(
            arguments,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment(**variables),
            cwd=folder,
        )
    server = Server(process, "", log)
    try:
        server.url = _address(server)
        _wait_ready(server)
    except BaseException:
        server.kill()
        server.close()
        raise
    return server


def start_worker(
    database_url: str, folder: Path, *flags: str, **variables: str
) -> subprocess.Popen[bytes]:
    """Start `promptgps train` with these flags; its log goes to the folder."""
    arguments = command("train", "--database-url", database_url, *flags)
    with (folder / f"worker-{time.monotonic_ns()}.log").open("wb") as log:
        return subprocess.Popen(
            arguments,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(**variables),
            cwd=folder,
        )


@contextmanager
def running(database_url: str, folder: Path, *flags: str, **variables: str) -> Iterator[Server]:
    """A server for the length of a block."""
    server = start(database_url, folder, *flags, **variables)
    try:
        yield server
    finally:
        if server.alive:
            server.kill()
        server.close()


def _address(server: Server) -> str:
    """The address that the server prints once it listens."""
    stdout = server.process.stdout
    assert stdout is not None
    readable, _, _ = select.select([stdout], [], [], START_SECONDS)
    line = stdout.readline() if readable else ""
    word = next((word for word in line.split() if word.startswith("http://127.0.0.1:")), None)
    if word is None:
        raise ServerFailed(f"the server did not say where it is, but {line!r}\n{server.tail()}")
    return word


def _wait_ready(server: Server) -> None:
    def ready() -> bool:
        if not server.alive:
            raise ServerFailed(f"the server ended while it started\n{server.tail()}")
        try:
            return server.request("GET", "/readyz").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_for(ready, START_SECONDS, "the server to be ready", pause=0.02)
    except AssertionError as late:
        raise ServerFailed(f"{late}\n{server.tail()}") from None

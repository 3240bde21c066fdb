"""Clients that take their time: each is closed when its time is over.

Nobody else notices that it was there.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import httpx
import pytest

from tests.databases import copied_file
from tests.faults.conftest import open_run
from tests.server import Server, running, wait_for

SECONDS = 1.5  # for a head, and for a body besides its bytes
MOST = 24
PATIENCE = 30.0  # how long a test waits for what takes about SECONDS on an idle machine
LARGE = 65_536


@pytest.fixture(scope="module")
def server(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with little patience, on which nobody trains a model.

    So whoever waits for the model waits to the end.
    """
    folder = tmp_path_factory.mktemp("slow")
    limits = {"PROMPTGPS_REQUEST_SECONDS": str(SECONDS), "PROMPTGPS_MAX_CONNECTIONS": str(MOST)}
    with running(copied_file(sqlite_template, folder), folder, "--no-train", **limits) as started:
        open_run(started)
        yield started


def connect(server: Server) -> socket.socket:
    url = httpx.URL(server.url)
    return socket.create_connection((url.host, url.port or 80), timeout=PATIENCE)


def head(path: str, length: int, kind: str = "application/json") -> bytes:
    lines = (
        f"POST {path} HTTP/1.1",
        "host: 127.0.0.1",
        f"content-type: {kind}",
        f"content-length: {length}",
        "",
        "",
    )
    return "\r\n".join(lines).encode()


def dribble(link: socket.socket, part: bytes, pause: float = 0.1) -> bytes:
    """Send a part again and again until the server has closed; answers what it said."""
    deadline = time.monotonic() + PATIENCE
    heard = b""
    link.settimeout(pause)
    while time.monotonic() < deadline:
        try:
            link.sendall(part)
            said = link.recv(LARGE)
            if said == b"":
                return heard
            heard += said
        except TimeoutError:
            continue
        except OSError:  # reset, or a broken pipe
            return heard
    raise AssertionError(f"the server still listens after {PATIENCE:g} s")


def status(said: bytes) -> str:
    return said[:12].decode()


def test_a_connection_that_says_nothing_is_closed(server: Server) -> None:
    with closing(connect(server)) as link:
        assert status(link.recv(LARGE)) == "HTTP/1.1 408"
        assert link.recv(LARGE) == b""


@pytest.mark.parametrize(
    ("beginning", "part"),
    [
        (b"", b"G"),
        (b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n", b"a"),
        (b"", b"\r\n"),
        (b"GET /", b"x: y\r\n"),
    ],
    ids=["line", "header", "blank lines", "no end"],
)
def test_a_head_that_dribbles_in_is_cut_off(server: Server, beginning: bytes, part: bytes) -> None:
    with closing(connect(server)) as link:
        link.sendall(beginning)
        assert status(dribble(link, part)) in ("HTTP/1.1 408", "HTTP/1.1 400", "")


def test_blank_lines_do_not_keep_a_connection_that_has_been_served(server: Server) -> None:
    with closing(connect(server)) as link:
        link.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        assert status(link.recv(LARGE)) == "HTTP/1.1 200"
        dribble(link, b"\r\n")


@pytest.mark.parametrize("path", ["/outcomes", "/pools/run/prompts", "/nowhere"])
@pytest.mark.parametrize("kind", ["application/json", "application/jsonl"])
def test_a_body_that_dribbles_in_is_cut_off_and_nothing_is_stored(
    server: Server, path: str, kind: str
) -> None:
    before = server.json("GET", "/pools"), server.json("GET", "/runs")
    with closing(connect(server)) as link:
        link.sendall(head(path, 1_000_000, kind))
        # else refused unread
        known = path != "/nowhere" and (path, kind) != ("/outcomes", "application/jsonl")
        assert status(dribble(link, b" ")) in (
            ("HTTP/1.1 408",) if known else ("HTTP/1.1 404", "HTTP/1.1 422")
        )
    assert (server.json("GET", "/pools"), server.json("GET", "/runs")) == before
    with closing(connect(server)) as link:  # or it hangs up by itself
        link.sendall(head(path, 1_000_000, kind))
    assert "Traceback" not in server.log.read_text()


def test_a_body_that_never_comes_is_cut_off(server: Server) -> None:
    with closing(connect(server)) as link:
        link.sendall(head("/outcomes", 10) + b"{")
        assert status(link.recv(LARGE)) == "HTTP/1.1 408"


def test_headers_without_end_are_refused(server: Server) -> None:
    with closing(connect(server)) as link:
        link.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n")
        assert status(dribble(link, b"x-more: " + b"y" * 8_000 + b"\r\n", pause=0.005)) in (
            "HTTP/1.1 431",
            "",
        )


def test_a_reader_that_does_not_read_is_cut_off(server: Server) -> None:
    answer = len(server.request("GET", "/openapi.json").content)
    requests = 400
    with closing(connect(server)) as link:
        link.settimeout(0.5)
        with suppress(TimeoutError):
            link.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" * requests)
        time.sleep(3 * SECONDS)
        link.settimeout(PATIENCE)
        read = 0
        with suppress(ConnectionResetError):
            while said := link.recv(LARGE):
                read += len(said)
    assert read < requests * answer


def test_a_body_that_is_slow_but_comes_is_taken(server: Server) -> None:
    body = (
        json.dumps({"vectors": [[float(row + 1)] * 8 for row in range(10)]})
        .encode()
        .ljust(12 * 20_000)
    )
    with closing(connect(server)) as link:
        link.sendall(head("/pools/run/prompts", len(body)))
        for start in range(
            0, len(body), 20_000
        ):  # 20 kB each 0.3 s: longer than SECONDS, faster than the least rate
            link.sendall(body[start : start + 20_000])
            time.sleep(0.3)
        assert status(link.recv(LARGE)) == "HTTP/1.1 200"


@pytest.mark.parametrize(
    "after", [b"", b"\r\n", b"GET /hea"], ids=["alone", "blank line", "next request begun"]
)
def test_time_that_the_service_takes_is_not_the_clients(server: Server, after: bytes) -> None:
    batch = server.json("POST", "/select_batch", {"run": "run", "batch_size": 1})
    report = {
        "run": "run",
        "draw_id": batch["draws"]["draw_id"],
        "rollout_index": [0],
        "reward": [1.0],
    }
    server.json("POST", "/outcomes", report)
    body = json.dumps({"run": "run", "batch_size": 1, "wait_seconds": 2 * SECONDS}).encode()
    began = time.monotonic()
    with closing(connect(server)) as link:
        link.sendall(head("/select_batch", len(body)) + body + after)
        assert status(link.recv(LARGE)) == "HTTP/1.1 200"
    assert time.monotonic() - began >= 2 * SECONDS


def test_who_is_there_is_served_while_strangers_take_every_connection(server: Server) -> None:
    asked = {"run": "run", "batch_size": 4}
    with (
        httpx.Client(base_url=server.url, timeout=PATIENCE, trust_env=False) as trainer,
        ExitStack() as crowd,
    ):
        assert trainer.post("/select_batch", json=asked).status_code == 200
        deadline = time.monotonic() + 4 * SECONDS
        while time.monotonic() < deadline:
            with suppress(OSError):
                crowd.enter_context(closing(connect(server))).send(b"GET / HTTP/1.1\r\nx: ")
            assert trainer.post("/select_batch", json=asked).status_code == 200
            time.sleep(0.02)
    wait_for(lambda: _answers(server), PATIENCE, "a new connection to be served")


def _answers(server: Server) -> bool:
    try:
        return server.request("GET", "/healthz").status_code == 200
    except httpx.TransportError:
        return False

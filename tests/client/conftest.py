"""A scripted service on a real loopback socket, and both clients behind one face."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from promptgps_client import AsyncPromptGPS, PromptGPS, Selector

KEYS = [f"k{number}" for number in range(40)]
FAST: dict[str, Any] = {
    "timeout": 5.0,
    "retry_seconds": 5.0,
    "attempts": 4,
    "first_wait": 0.001,
    "longest_wait": 0.004,
}


SUBSET = "0123456789abcdef" * 2


def run(**fields: Any) -> dict[str, Any]:
    """A run as the service describes it; without more, one that nobody has drawn from."""
    progress = {
        "next_sequence": 0,
        "policy_version": None,
        "reported_draws": 0,
        "reporting_for": None,
    }
    return {
        "name": "r",
        "pools": [{"pool": "p"}],
        "rollouts_per_prompt": 8,
        "reward": {"kind": "binary"},
        "seed": 0,
        "warm_start_from": None,
        "selection": {},
        "prompts": 40,
        "selections": 0,
        "draws": 0,
        "log_position": 0,
        "model_version": 0,
        "trained_through": 0,
        "created_at": "",
        "progress": progress,
    } | fields


def subset(**fields: Any) -> dict[str, Any]:
    """The service's answer to the keys of a selector; without more, it has all of them."""
    told = {
        "run": "r",
        "subset": SUBSET,
        "prompts": 40,
        "whole": True,
        "unknown": 0,
        "unknown_keys": [],
    }
    return told | fields


@dataclass(frozen=True)
class Reply:
    """What the service does with one request."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False  # read the request, then say nothing until the test is over
    drop: bool = False  # read the request, then close the connection
    until: threading.Event | None = None  # answer only then

    def bytes(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Service(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: deque[Reply] = deque()
        self.at: dict[str, deque[Reply]] = {}  # replies to one path, which then takes no others
        self.decide: dict[str, Callable[[Any], Reply]] = {}  # a path's replies by what it is asked
        self.standing: dict[str, Reply] = {}  # what a path answers where nothing else is scripted
        self.seen: list[Seen] = []
        self.accepted = 0
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def says(self, *replies: Reply) -> None:
        self.replies.extend(replies)

    def asked(self, path: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.path == path]

    def process_request(self, request: Any, client_address: Any) -> None:
        self.accepted += 1
        super().process_request(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = (
        True  # else each reply on a kept connection waits 40 ms for the client's ACK
    )
    server: Service

    def _answer(self) -> None:
        body = (
            self._chunked()
            if self.headers.get("Transfer-Encoding")
            else self.rfile.read(self._length())
        )
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.seen.append(Seen(self.command, self.path, headers, body))
        replies = self.server.at.get(self.path, self.server.replies)
        over = self.server.standing.get(self.path, Reply(501, b"the script is over"))
        reply = replies.popleft() if replies else over
        if self.path in self.server.decide:
            reply = self.server.decide[self.path](json.loads(body))
        if reply.until is not None:
            reply.until.wait(20)
        if reply.hang:
            self.server.over.wait(20)
        if reply.hang or reply.drop:
            self.close_connection = True
            return
        content = reply.bytes()
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(content)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _length(self) -> int:
        return int(self.headers.get("Content-Length", 0))

    def _chunked(self) -> bytes:
        raise AssertionError("the client always knows the length of what it sends")

    do_GET = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


class Asker:
    """Either client, by method name, as if it were synchronous."""

    def __init__(
        self, kind: type[PromptGPS] | type[AsyncPromptGPS], url: str, options: dict[str, Any]
    ) -> None:
        self._runner = asyncio.Runner() if kind is AsyncPromptGPS else None
        self.client: Any = kind(url, **options)

    def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._finished(getattr(self.client, method)(*args, **kwargs))

    def close(self) -> None:
        self._finished(self.client.close())
        if self._runner is not None:
            self._runner.close()

    def _finished(self, answer: Any) -> Any:
        return self._runner.run(answer) if self._runner is not None else answer


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield service
    service.over.set()
    service.shutdown()
    thread.join()
    service.server_close()


Connect = Callable[..., Asker]


@pytest.fixture(params=[PromptGPS, AsyncPromptGPS], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes clients of both kinds, with little patience, and closes them."""
    made: list[Asker] = []

    def make(url: str, **options: Any) -> Asker:
        made.append(Asker(request.param, url, {**FAST, **options}))
        return made[-1]

    yield make
    for asker in made:
        asker.close()


@pytest.fixture
def ask(service: Service, connect: Connect) -> Asker:
    return connect(service.url)


@pytest.fixture
def make(service: Service, tmp_path: Path) -> Iterator[Callable[..., Selector]]:
    """Makes selectors of the scripted service and closes them.

    The service's parts are scripted each on its own.
    """
    service.at = {"/select_batch": deque(), "/outcomes": deque(), "/readyz": deque()}
    service.standing = {"/runs/r": Reply(200, run()), "/runs/r/subsets": Reply(201, subset())}
    made: list[Selector] = []

    def selector(**options: Any) -> Selector:
        spool = tmp_path / f"spool-{len(made)}"
        given = {
            "run": "r",
            "batch_size": 2,
            "prompts": KEYS,
            "spool": spool,
            "deadline": 5.0,
            **options,
        }
        made.append(Selector(service.url, **given))
        return made[-1]

    yield selector
    service.over.set()
    for one in made:
        one.close()

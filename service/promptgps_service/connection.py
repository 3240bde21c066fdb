"""One connection: how many there may be, and how long a stranger may take.

That is the time to say what he wants and to hear the answer. uvicorn limits none of this. What is
refused here never became a request, so it has no problem+json answer.
"""

from __future__ import annotations

import json
from asyncio import BaseTransport
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

MAX_HEAD = 65_536  # bytes of request line and headers
RATE = 16_000.0  # bytes a second that a body must come at, once its first seconds are over
SWEEP_SECONDS = 0.25


def limited(most: int, seconds: float) -> type[HttpToolsProtocol]:
    """The connection class of a server.

    The server takes ``most`` connections and gives each ``seconds`` for each part.
    """
    return type("Connection", (Connection,), {"most": most, "seconds": seconds})


class Connection(HttpToolsProtocol):
    """A connection that is looked at every so often, and closed when it is too slow.

    One sweep looks at all of them.
    """

    most: int
    seconds: float
    sweeping = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_since: float | None = None
        self._head_bytes = 0
        self._body_since: float | None = None
        self._body_bytes = 0
        self._answering: RequestResponseCycle | None = None
        self._unread = 0  # bytes of answers that the peer has not taken yet
        self._unread_since = 0.0

    # ---- what uvicorn and its parser call --------------------------------------------------------

    def connection_made(self, transport: BaseTransport) -> None:
        """Take the connection, or close it where there are too many; those that are there go on."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._head_since = self.loop.time()
        if len(self.connections) > self.most:
            self.logger.warning("too many connections: one was closed")
            self.transport.abort()
        elif not type(self).sweeping:
            type(self).sweeping = True
            self.loop.call_later(SWEEP_SECONDS, self._sweep)

    def data_received(self, data: bytes) -> None:
        """Parse, and count what belongs to a head."""
        if self._head_since is None and self._body_since is None:
            self._begin_head()
        super().data_received(data)
        if self._head_since is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD:
                self._refuse(431, answer=True)

    def on_message_begin(self) -> None:
        """A request begins, perhaps in the same bytes in which another one ended."""
        if self._head_since is None:
            self._begin_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """From here on it is the body that is waited for."""
        if not self.url.startswith(b"/"):
            self._heed_authority()
        self._head_since = None
        self._body_since = self.loop.time()
        self._body_bytes = 0
        super().on_headers_complete()

    def _heed_authority(self) -> None:
        """A target that names a host counts for more than the header does (RFC 9112, 3.2.2)."""
        target = httptools.parse_url(self.url)
        if not target.host:
            return
        host = b"[%b]" % target.host if b":" in target.host else target.host
        authority = b"%b:%d" % (host, target.port) if target.port else host
        self.headers[:] = [(name, value) for name, value in self.headers if name != b"host"]
        self.headers.append((b"host", authority))

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, as a problem, and close."""
        body = json.dumps(
            {
                "type": "urn:promptgps:problem:malformed",
                "title": "The request cannot be read",
                "status": 400,
                "detail": msg,
                "errors": [],
                "request_id": None,
            }
        ).encode()

        head = b"content-type: application/problem+json\r\ncontent-length: %d\r\n" % len(body)
        self.transport.write(STATUS_LINE[400] + head + b"connection: close\r\n\r\n" + body)
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Go on without a word: who offers another protocol is answered in this one."""

    def on_body(self, body: bytes) -> None:
        """Count the body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Nothing is waited for."""
        self._body_since = None
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the answer under way end quietly.

        Uvicorn only knows of the last request that it has read.
        """
        if self._answering is not None:
            self._answering.disconnected = True
        super().connection_lost(exc)

    # ---- the sweep -------------------------------------------------------------------------------

    def _begin_head(self) -> None:
        self._head_since = self.loop.time()
        self._head_bytes = 0

    def _sweep(self) -> None:
        """Look at every connection of the server, and again as long as there is any."""
        now = self.loop.time()
        for connection in list(self.connections):
            if isinstance(connection, Connection):
                connection._look(now)
        type(self).sweeping = bool(self.connections)
        if self.connections:
            self.loop.call_later(SWEEP_SECONDS, self._sweep)

    def _look(self, now: float) -> None:
        unread = self.transport.get_write_buffer_size()
        if unread == 0 or unread < self._unread:
            self._unread_since = now

        self._unread = unread
        if now - self._unread_since > self.seconds:
            self.transport.abort()
        elif self._head_since is not None:
            if self._answering is not None and not self._answering.response_complete:
                self._head_since = now  # the next request may wait for the answer to this one
            elif now - self._head_since > self.seconds:
                self._refuse(408, answer=True)
        elif self._body_since is not None:
            if self.flow.read_paused:  # it is us who keep it waiting
                self._body_since += SWEEP_SECONDS
            elif now - self._body_since > self.seconds + self._body_bytes / RATE:
                self._refuse(408, answer=not self.cycle.response_started)

    def _refuse(self, status: int, *, answer: bool) -> None:
        """Close, with an answer if this is the turn for one."""
        self._head_since = self._body_since = None
        if answer and not self.transport.is_closing():
            self.transport.write(
                STATUS_LINE[status] + b"content-length: 0\r\nconnection: close\r\n\r\n"
            )
        self.transport.close()

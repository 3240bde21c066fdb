"""What happens to every request before a route sees it: its id, its key, its size, its time, its line in the log."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from promptgps_service.api.bodies import TooLarge
from promptgps_service.api.problems import answer_error, problem
from promptgps_service.errors import PromptGPSError
from promptgps_service.flow.access import Access
from promptgps_service.telemetry import REQUEST_SECONDS

_log = structlog.get_logger(__name__)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
OPEN_TO_ALL = frozenset({"/healthz", "/readyz"})  # whoever watches the service needs no key
# Answers are data of one caller at one time: no cache keeps them, and no browser takes them for anything else.
_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


class Edge:
    """Plain ASGI, because a wrapped request would cost more than most of ours take."""

    def __init__(
        self, app: ASGIApp, *, admit: Callable[[bytes], Access], max_body: int, max_file: int
    ) -> None:
        self._app = app
        self._admit = admit
        self._max_body = max_body
        self._max_file = max_file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started = time.perf_counter()
        status, begun = 500, False

        async def answer(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode()), *_HEADERS]
            await send(message)

        limit = self._max_file if _is_file(scope, headers) else self._max_body
        try:
            if scope["path"] not in OPEN_TO_ALL:
                scope["state"]["access"] = self._admit(headers.get(b"authorization", b""))
            if int(headers.get(b"content-length", b"0") or 0) > limit:
                raise TooLarge(limit)
            await self._app(scope, _counted(scope, receive, limit), answer)
        except TooLarge as error:
            if not begun:
                response = problem(request_id, 413, "too-large", "The request is too large", error.detail)
                await response(scope, receive, answer)
        except PromptGPSError as error:  # not admitted; what goes wrong further in has been answered there
            await answer_error(Request(scope), error)(scope, receive, answer)
        finally:
            self._account(scope, status, time.perf_counter() - started)
            structlog.contextvars.unbind_contextvars("request_id")

    @staticmethod
    def _account(scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        REQUEST_SECONDS.labels(scope["method"], route, str(status)).observe(seconds)
        if route not in ("/healthz", "/readyz", "/metrics"):
            access: Access | None = scope["state"].get("access")
            _log.info(
                "request", method=scope["method"], route=route, status=status, ms=round(1000 * seconds, 2),
                key=access and access.key,
            )  # fmt: skip


def _is_file(scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
    """Whether the body is a pool file, which goes to disk; every other body is read into memory."""
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    return scope["path"].endswith("/prompts") and kind != b"application/json"


def _counted(scope: Scope, receive: Receive, limit: int) -> Receive:
    """The same messages; the request's state has how many bytes of its body have come so far."""
    state = scope["state"]
    state["received"] = 0

    async def counted() -> Message:
        message = await receive()
        state["received"] += len(message.get("body", b""))
        if state["received"] > limit:
            raise TooLarge(limit)
        return message

    return counted

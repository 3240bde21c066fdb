"""What happens to every request before a route sees it.

In this order: its id, its form, the name that it was sent to, the page that it comes from, its key,
its size; afterwards its time and its line in the log.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable, Mapping
from typing import Protocol

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from promptgps_service.api.bodies import TooLarge
from promptgps_service.api.docs import is_documentation
from promptgps_service.api.origins import Hosts, Origins, host_name
from promptgps_service.api.problems import answer_error, problem
from promptgps_service.errors import PromptGPSError
from promptgps_service.flow.access import Access
from promptgps_service.telemetry import REQUEST_SECONDS

_log = structlog.get_logger(__name__)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
HEALTH = frozenset({"/healthz", "/readyz"})  # who watches the service has no key and knows no name

# Answers are data of one caller at one time: no cache keeps them, and no browser takes them for
# anything else.
_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]

# Two of these would be read one way here and another way further in.
_ONCE = frozenset(
    {
        b"host",
        b"origin",
        b"authorization",
        b"content-type",
        b"content-length",
        b"content-encoding",
        b"idempotency-key",
    }
)


class Admission(Protocol):
    """Who is let in."""

    @property
    def open(self) -> bool:
        """Whether nobody is asked for a key now."""
        ...

    def admit(self, authorization: bytes) -> Access:
        """Rights that an Authorization header gives."""
        ...


class Edge:
    """Plain ASGI, because a wrapped request would cost more than most of ours take."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        admission: Admission,
        hosts: Hosts,
        origins: Origins,
        max_body: int,
        max_file: int,
    ) -> None:
        """Stand before an application.

        Args:
            app: what answers the requests that pass.
            admission: who is let in.
            hosts: the names that the service answers to.
            origins: the web pages that may call it.
            max_body: bytes of a JSON body.
            max_file: bytes of a pool file.
        """
        self._app = app
        self._admission = admission
        self._hosts = hosts
        self._origins = origins
        self._max_body = max_body
        self._max_file = max_file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        started = time.perf_counter()
        headers = dict(scope["headers"])
        request_id = _request_id(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.bind_contextvars(request_id=request_id)

        method = scope["method"]
        if method == "HEAD":  # every GET has one; who routes need not know of it
            scope = {**scope, "method": "GET"}

        answer = _Answer(
            send, request_id, self._origins.headers_for(headers.get(b"origin")), method
        )
        try:
            refusal = self._refusal(scope, headers, request_id)
            if refusal is not None:
                await refusal(scope, receive, answer)
                return
            if not (scope["path"] in HEALTH or is_documentation(scope["path"])):
                authorization = headers.get(b"authorization", b"")
                scope["state"]["access"] = self._admission.admit(authorization)

            limit = self._max_file if _is_file(scope, headers) else self._max_body
            if int(headers.get(b"content-length", b"0") or 0) > limit:
                raise TooLarge(limit)
            await self._app(scope, _counted(scope, receive, limit), answer)
        except TooLarge as error:
            if not answer.begun:
                title = "The request is too large"
                response = problem(request_id, 413, "too-large", title, error.detail)
                await response(scope, receive, answer)
        except PromptGPSError as error:
            # not admitted; what goes wrong further in has been answered there
            await answer_error(Request(scope), error)(scope, receive, answer)
        finally:
            _account(scope, method, answer.status, time.perf_counter() - started)
            structlog.contextvars.unbind_contextvars("request_id")

    def _refusal(
        self, scope: Scope, headers: Mapping[bytes, bytes], request_id: str
    ) -> Response | None:
        """The answer to a request that is not for this service, or from a page that may not ask."""
        malformed = _malformed(scope, headers)
        if malformed is not None:
            title = "The request cannot be read"
            return problem(request_id, 400, "malformed", title, malformed)

        # A key is worth more than a name: where one is asked for, any name will do.
        named = self._hosts.given or self._admission.open
        if (
            named
            and scope["path"] not in HEALTH
            and not self._hosts.answers_to(headers.get(b"host"))
        ):
            return problem(
                request_id,
                421,
                "unknown-host",
                "The request is not for this service",
                f"this service does not answer to the host {_shown(headers[b'host'])}, only to "
                f"{self._hosts}; PROMPTGPS_ALLOWED_HOSTS names the hosts that it answers to",
            )

        if not self._origins.allows(headers):
            page = headers.get(b"origin")
            return problem(
                request_id,
                403,
                "foreign-origin",
                "Pages of this origin may not call the service",
                f"the request comes from a web page of {_shown(page) if page else 'another site'}; "
                "PROMPTGPS_ALLOWED_ORIGINS names the origins that may call this service",
            )

        if self._origins.is_preflight(scope["method"], headers) and self._origins.is_given(
            headers.get(b"origin")
        ):
            answer = Response(status_code=204)
            answer.raw_headers.extend(self._origins.preflight_headers(headers))
            return answer

        return None


class _Answer:
    """Sends an answer on, with the headers that every answer has; a HEAD gets them and no body."""

    def __init__(
        self, send: Send, request_id: str, headers: Iterable[tuple[bytes, bytes]], method: str
    ) -> None:
        self._send = send
        self._headers = [(b"x-request-id", request_id.encode()), *_HEADERS, *headers]
        self._bodiless = method == "HEAD"
        self.status = 500
        self.begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.begun = True
            message["headers"] = [*message["headers"], *self._headers]
        elif self._bodiless and message["type"] == "http.response.body":
            message = {**message, "body": b""}

        await self._send(message)


def _request_id(headers: Mapping[bytes, bytes]) -> str:
    """The id that the caller gave, if it is one, else a new one."""
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def _malformed(scope: Scope, headers: Mapping[bytes, bytes]) -> str | None:
    """What is wrong with the form of a request; None for nothing."""
    if len(headers) < len(scope["headers"]):
        names = [name for name, _ in scope["headers"]]
        for name in _ONCE:
            if names.count(name) > 1:
                return f"the header {name.decode()} is there more than once"

    host = headers.get(b"host")
    if host is None:
        if scope.get("http_version") == "1.1":
            return "the header host is missing"
    elif host_name(host.decode("latin-1")) is None:
        return f"the header host is not the name of a host: {_shown(host)}"

    return None


def _shown(header: bytes) -> str:
    """A header in words, of a length that an answer can carry."""
    text = header.decode("latin-1")
    return repr(text if len(text) <= 100 else f"{text[:100]}…")


def _account(scope: Scope, method: str, status: int, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", "unmatched")
    REQUEST_SECONDS.labels(_known_method(method), route, str(status)).observe(seconds)

    if route not in ("/healthz", "/readyz", "/metrics"):
        access: Access | None = scope["state"].get("access")
        _log.info(
            "request",
            method=method,
            route=route,
            status=status,
            ms=round(1000 * seconds, 2),
            key=access and access.key,
        )


def _known_method(method: str) -> str:
    """The method as a label: strangers may send many, and each would be a series for ever."""
    return (
        method
        if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
        else "other"
    )


def _is_file(scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
    """Whether the body is a pool file, which goes to disk; every other is read into memory."""
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    adds = scope["method"] == "POST" and scope["path"].endswith("/prompts")
    return adds and kind != b"application/json"


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

"""HTTP for both clients: address, headers, timeouts, retries. The only file that names httpx."""

from __future__ import annotations

import asyncio
import math
import os
import platform
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO, Generic, Self, TypedDict, TypeVar, Unpack
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import stamina
from pydantic import ValidationError

from promptgps_client.call import Call, Retry
from promptgps_client.errors import (
    BadAnswer,
    ConnectFailed,
    NoAnswer,
    TimedOut,
    UnreadableAnswer,
    bad_answer,
    shown,
)

A = TypeVar("A")

PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
REFUSED_UNDONE = frozenset({429, 503})
LONGEST_RETRY_AFTER = 60.0
FILE_CHUNK = 1 << 20
# Below uvicorn's keep-alive of 5 s. A kept connection that the service closes just as it is used
# again looks like a request that may have been done, and such a `select_batch` without a sequence
# is not retried.
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=4.0)


class OptionFields(TypedDict, total=False):
    """Options by name; `Options` says what they mean."""

    timeout: float
    connect_timeout: float
    retry_seconds: float
    attempts: int
    first_wait: float
    longest_wait: float


@dataclass(frozen=True, slots=True)
class Options:
    """Patience. All times are in seconds.

    Attributes:
        timeout: Longest silence of the service; a call's own `wait_seconds` comes on top.
        connect_timeout: Longest time to make a connection.
        retry_seconds: No retry begins later than this after the call's start; 0 switches retries
            off.
        attempts: Most attempts of one call.
        first_wait: Wait before the first retry; it doubles from retry to retry, plus jitter. A
            Retry-After of the service is obeyed instead.
        longest_wait: Longest of these waits.
    """

    timeout: float = 60.0
    connect_timeout: float = 5.0
    retry_seconds: float = 60.0
    attempts: int = 12
    first_wait: float = 0.2
    longest_wait: float = 8.0

    def retrying(self) -> dict[str, Any]:
        """The same in stamina's words."""
        return {
            "attempts": self.attempts if self.retry_seconds > 0 else 1,
            "timeout": self.retry_seconds or None,
            "wait_initial": self.first_wait,
            "wait_max": self.longest_wait,
            "wait_jitter": self.longest_wait / 8,
            "wait_exp_base": 2,
        }


def seconds_to_wait(retry_after: str | None, now: datetime) -> float | None:
    """A Retry-After header (seconds, or an HTTP date) as seconds in 0..60; None if unreadable."""
    if retry_after is None:
        return None

    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            date = parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()

    return None if math.isnan(seconds) else min(max(seconds, 0.0), LONGEST_RETRY_AFTER)


class Sending(Generic[A]):
    """One logical request on its way: its ids stay the same over all attempts."""

    def __init__(self, call: Call[A], options: Options) -> None:
        self.call = call
        self._options = options
        self._began = monotonic()
        self._request_id = uuid4().hex
        self.headers = {**call.headers, "X-Request-ID": self._request_id}
        if call.method == "POST":
            self.headers["Idempotency-Key"] = call.idempotency_key or uuid4().hex

        self.timeout = httpx.Timeout(
            options.timeout,
            connect=options.connect_timeout,
            read=options.timeout + call.wait_seconds,
        )

    def patience(self, error: Exception) -> bool | float:
        """Stamina's hook: False gives up, True waits as usual, a number is the wait in seconds."""
        match self.call.retry, error:
            case Retry.SAFE, NoAnswer():
                return True
            case Retry.SAFE, BadAnswer(status=status) if status in PASSING:
                return self._wait(error.retry_after)
            case Retry.UNLESS_DONE, ConnectFailed():
                return True
            case Retry.UNLESS_DONE, BadAnswer(status=status) if status in REFUSED_UNDONE:
                return self._wait(error.retry_after)

        return False

    def _wait(self, retry_after: float | None) -> bool | float:
        if retry_after is None:
            return True
        spent = monotonic() - self._began
        return retry_after if spent + retry_after <= self._options.retry_seconds else False

    def read(self, response: httpx.Response) -> A:
        """The answer, or the error that it tells.

        Raises:
            BadAnswer: The status is no success.
            UnreadableAnswer: It is, but the body is not what this call answers.
        """
        status = response.status_code
        body = response.content
        call = self.call
        if response.is_success or status in call.also_answers:
            try:
                return call.read(body)
            except ValidationError as fault:
                if response.is_success:
                    reason = f"the body is not as agreed ({fault.error_count()} faults)"
                    raise UnreadableAnswer(
                        str(call), reason, status, shown(body), self._request_id
                    ) from fault

        request_id = response.headers.get("X-Request-ID", self._request_id)
        retry_after = seconds_to_wait(response.headers.get("Retry-After"), datetime.now(UTC))
        raise bad_answer(str(call), status, body, request_id, retry_after, call.first_row)

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Httpx's errors as ours."""
        call = str(self.call)
        request_id = self._request_id
        try:
            yield
        except (
            httpx.ConnectError,
            httpx.ConnectTimeout,
            httpx.PoolTimeout,
            httpx.ProxyError,
        ) as fault:
            raise ConnectFailed(call, f"cannot connect: {_reason(fault)}", request_id) from fault
        except httpx.TimeoutException as fault:
            raise TimedOut(call, f"no answer within {self.timeout.read:g} s", request_id) from fault
        except httpx.DecodingError as fault:
            raise UnreadableAnswer(
                call, f"the body is broken: {_reason(fault)}", 0, "", request_id
            ) from fault
        except httpx.TransportError as fault:
            raise NoAnswer(call, f"the connection broke: {_reason(fault)}", request_id) from fault


class _Shared:
    """What the two transports have in common."""

    def __init__(self, base_url: str | None, api_key: str | None, options: Options) -> None:
        self.options = options
        self._owns_pool = True
        self._settings: dict[str, Any] = {
            "base_url": _checked_url(base_url or os.environ.get("PROMPTGPS_URL", "")),
            "headers": _standing_headers(api_key or os.environ.get("PROMPTGPS_API_KEY", "")),
            "limits": LIMITS,
        }

    def with_options(self, **options: Unpack[OptionFields]) -> Self:
        """The same connections with other patience; closing it leaves them open."""
        sibling = object.__new__(type(self))
        sibling.__dict__.update(
            self.__dict__, options=replace(self.options, **options), _owns_pool=False
        )
        return sibling


class Transport(_Shared):
    """Asks and waits for the answer; safe to share between threads."""

    def __init__(self, base_url: str | None, api_key: str | None, options: Options) -> None:
        super().__init__(base_url, api_key, options)
        self._http = httpx.Client(**self._settings)

    def ask(self, call: Call[A]) -> A:
        """One logical request, with retries."""
        sending = Sending(call, self.options)
        retrying = stamina.RetryingCaller(**self.options.retrying())
        return retrying(sending.patience, self._once, sending)

    def _once(self, sending: Sending[A]) -> A:
        call = sending.call
        with sending.failures(), _opened(call.body) as content:
            response = self._http.request(
                call.method,
                call.path,
                content=content,
                headers=sending.headers,
                timeout=sending.timeout,
            )

            return sending.read(response)

    def close(self) -> None:
        """Close the connections, unless they belong to another."""
        if self._owns_pool:
            self._http.close()


class AsyncTransport(_Shared):
    """The same for asyncio."""

    def __init__(self, base_url: str | None, api_key: str | None, options: Options) -> None:
        super().__init__(base_url, api_key, options)
        self._http = httpx.AsyncClient(**self._settings)

    async def ask(self, call: Call[A]) -> A:
        """One logical request, with retries."""
        sending = Sending(call, self.options)
        retrying = stamina.AsyncRetryingCaller(**self.options.retrying())
        return await retrying(sending.patience, self._once, sending)

    async def _once(self, sending: Sending[A]) -> A:
        call = sending.call
        headers = sending.headers
        with sending.failures(), _opened(call.body) as opened:
            content: bytes | AsyncIterator[bytes] | None
            if isinstance(opened, bytes | None):
                content = opened
            else:
                content = _chunks(opened)
                headers = {**headers, "Content-Length": str(os.fstat(opened.fileno()).st_size)}

            response = await self._http.request(
                call.method, call.path, content=content, headers=headers, timeout=sending.timeout
            )
            return sending.read(response)

    async def close(self) -> None:
        """Close the connections, unless they belong to another."""
        if self._owns_pool:
            await self._http.aclose()


def _opened(body: bytes | Path | None) -> AbstractContextManager[bytes | BinaryIO | None]:
    """The body of one attempt; a file is opened anew for each, since the last one has read it."""
    return body.open("rb") if isinstance(body, Path) else nullcontext(body)


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(file.read, FILE_CHUNK):
        yield chunk


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"base_url (or PROMPTGPS_URL) must be an http(s) address, not {url!r}")
    return url


def _standing_headers(api_key: str) -> dict[str, str]:
    headers = {"Accept": "application/json, application/problem+json", "User-Agent": _user_agent()}
    if api_key:
        if not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
            raise ValueError(
                "api_key (or PROMPTGPS_API_KEY) must be printable ASCII without spaces"
            )
        headers["Authorization"] = f"Bearer {api_key}"

    return headers


def _user_agent() -> str:
    try:
        own = version("promptgps")
    except PackageNotFoundError:  # run from a checkout
        own = "checkout"
    return f"promptgps/{own} python/{platform.python_version()} httpx/{httpx.__version__}"


def _reason(fault: Exception) -> str:
    return str(fault) or type(fault).__name__

"""Bodies of requests: read as they come, within bounds, and made into models.

Making a model holds up nobody else. A body is read only once its sender's rights and its type are
known. Short ones, which are nearly all, are validated where they are; longer ones in a thread, a
few at a time, piece by piece (`reading.json_model`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from typing import Any, TypeVar, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from promptgps_service.api.turns import RunTurns
from promptgps_service.errors import Busy, Forbidden
from promptgps_service.flow.access import Access
from promptgps_service.reading.inflate import BrokenGzip, Inflater
from promptgps_service.reading.json_model import Error, ModelReader, Refused

M = TypeVar("M", bound=BaseModel)

JSON = "application/json"
SHORT = 32 * 2**10  # bytes that are validated at once, in a few milliseconds at worst
SMALL = 10**6  # bytes of requests that name things and settings, and carry no columns
MIDDLE = 2**20
READERS = {MIDDLE: 2, 2**63: 1}  # threads at work on bodies up to that size
WAITING = 64  # bodies that may wait for such a thread
ROOM = 512 * 2**20  # bytes of bodies that one process holds at a time


class TooLarge(HTTPException):
    """The body is over the limit.

    It is an HTTPException, because the framework takes any other for a body that is broken.
    """

    def __init__(self, limit: int, what: str = "the body") -> None:
        super().__init__(413, f"{what} is over {limit / 1e6:g} MB")


class WrongBody(RequestValidationError):
    """A body that is not what its route asks for.

    Attributes:
        complete: whether its errors are all that there are.
    """

    def __init__(self, errors: list[Error], *, complete: bool = True) -> None:
        super().__init__([{**error, "loc": ("body", *error["loc"])} for error in errors])
        self.complete = complete


class Bodies:
    """What the bodies of one process may take together: memory, and threads to validate them.

    Args:
        most: bytes of the largest body.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._limiters = {size: anyio.CapacityLimiter(threads) for size, threads in READERS.items()}
        self._held = 0

    @contextmanager
    def held(self) -> Iterator[Callable[[int], None]]:
        """Account for a body while it is there.

        The context is a function to be told of each piece's size.

        Raises:
            Busy: there is no room for more.
        """
        own = 0

        def add(size: int) -> None:
            nonlocal own
            own += size
            self._held += size
            if self._held > ROOM and own > SHORT:
                raise Busy(
                    "the service holds as much of other requests as it can; nothing was stored"
                )

        try:
            yield add
        finally:
            self._held -= own

    async def run(self, function: Callable[[], M], size: int) -> M:
        """Run a function on a body of that size, at once or in a thread.

        Raises:
            Busy: too many wait for a thread.
        """
        if size <= SHORT:
            return function()

        limiter = next(limiter for most, limiter in self._limiters.items() if size <= most)
        if limiter.statistics().tasks_waiting >= WAITING:
            raise Busy("too many large requests at once; nothing was stored")
        return await anyio.to_thread.run_sync(function, limiter=limiter)


_MODELS: dict[Callable[..., Any], type[BaseModel]] = {}


def json_body(model: type[M], *, most: int | None = None, changes: bool = True) -> Any:
    """A parameter of a route that is its JSON body.

    Args:
        model: what the body is.
        most: bytes of the largest such body; default: what the settings say.
        changes: whether the route changes something, so that a key for reading has no business
            there.
    """
    reader = ModelReader(model)

    async def read(request: Request) -> AsyncIterator[M]:
        check_rights_before_reading(request, changes=changes)
        if content_type(request) != JSON:
            raise WrongBody([_not_json(f"must be sent as {JSON}")])
        bodies = cast(Bodies, request.app.state.bodies)
        limit = bodies.most if most is None else min(most, bodies.most)
        with bodies.held() as add:
            value = await read_json(request, reader, limit, add)
            async with _turn(request, value, changes=changes):
                yield value

    _MODELS[read] = model
    return Depends(read)


def _turn(
    request: Request, value: BaseModel, *, changes: bool
) -> AbstractAsyncContextManager[None]:
    """The turn of a request among those of its run; who has no right there takes none.

    Raises:
        Forbidden: the key is limited to other names.
    """
    run = request.path_params.get("run") or getattr(value, "run", None)
    if run is None:
        return nullcontext()

    access = cast(Access, request.state.access)
    if changes:
        access.may_change(str(run))
    else:
        access.may_read(str(run))

    turns = cast(RunTurns, request.app.state.turns)
    sequence: int | None = getattr(value, "sequence", None)
    waits = getattr(value, "wait_seconds", 0) > 0
    return turns.turn(str(run), sequence=sequence, waits=waits)


async def read_json(
    request: Request, reader: ModelReader[M], most: int, add: Callable[[int], None]
) -> M:
    """The body of a request as a model.

    Args:
        request: whose body is read.
        reader: of that model.
        most: bytes that it may have, once it is inflated.
        add: is told of each piece's size.

    Raises:
        WrongBody: it is not what the model asks for.
        HTTPException: as of `pieces_of`.
        Busy: there is no room for it, or too many wait for a thread.
    """
    bodies = cast(Bodies, request.app.state.bodies)
    body = bytearray()
    async for piece in pieces_of(request, most):
        add(len(piece))
        body += piece

    if not body:
        raise WrongBody([_not_json("is missing")])
    read = reader.small if len(body) <= SHORT else reader.large
    try:
        return await bodies.run(lambda: read(body), len(body))
    except Refused as refused:
        raise WrongBody(refused.errors, complete=refused.complete) from None


def _not_json(detail: str) -> Error:
    return {"type": "body", "loc": (), "msg": detail, "input": None}


def body_model(call: Callable[..., Any] | None) -> type[BaseModel] | None:
    """The model of a dependency that `json_body` made; None for any other."""
    return _MODELS.get(cast(Callable[..., Any], call))


def check_rights_before_reading(request: Request, *, changes: bool) -> None:
    """Refuse whom the address alone tells to have no right, before anything of the body is read.

    Raises:
        Forbidden: the key is for reading, or limited to other names than the one in the address.
    """
    access = cast(Access, request.state.access)
    if changes and access.read_only:
        raise Forbidden("this API key is for reading only")

    for part in ("run", "pool"):
        if part in request.path_params and changes:
            access.may_change(str(request.path_params[part]))


def content_type(request: Request) -> str:
    """The type of the body without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def pieces_of(request: Request, most: int, *, inflate: bool = True) -> AsyncIterator[bytes]:
    """The body as it comes, inflated where it is gzip.

    Args:
        request: whose body is read.
        most: bytes that it may have, once it is inflated.
        inflate: whether to inflate it; whoever reads it may do that as well, and knows when to
            stop.

    Raises:
        HTTPException: 415 for another encoding, 400 for broken gzip, 413 (`TooLarge`) where there
            are more bytes.
        ClientDisconnect: the client went away.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise HTTPException(
            415, f"content encoding {encoding[:100]!r} is not taken: send gzip, or none"
        )

    parts = request.stream() if encoding == "identity" or not inflate else _inflated(request)
    return _counted(
        parts, most, announced=encoding == "identity" and request.headers.get("content-length")
    )


async def _counted(
    parts: AsyncIterator[bytes], most: int, announced: str | bool | None
) -> AsyncIterator[bytes]:
    if announced and int(announced) > most:
        raise TooLarge(most)

    read = 0
    async for part in parts:
        read += len(part)
        if read > most:
            raise TooLarge(most)
        if part:
            yield part


async def _inflated(request: Request) -> AsyncIterator[bytes]:
    inflater = Inflater()
    try:
        async for part in request.stream():
            for piece in inflater.feed(part):
                yield piece
                await anyio.lowlevel.checkpoint()  # a small part may make thousands of pieces
        inflater.close()
    except BrokenGzip as error:
        raise HTTPException(400, str(error)) from error

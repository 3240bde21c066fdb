"""What endpoints ask for: the context, a checked key, a body on disk."""

from __future__ import annotations

import hmac
import tempfile
from collections.abc import AsyncIterator
from typing import Annotated, BinaryIO, cast

from fastapi import Depends, Header, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from promptgps_service.errors import Unauthorized
from promptgps_service.flow.context import Context
from promptgps_service.settings import Settings

SPOOL_IN_MEMORY = 8 * 2**20

_bearer = HTTPBearer(auto_error=False, description="One of PROMPTGPS_API_KEYS, where the service has any.")


async def _context(request: Request) -> Context:  # async, as the next: a def would cost a thread hop
    return cast(Context, request.app.state.context)


async def check_key(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    """Let nobody in without a key, where the service has keys.

    Raises:
        Unauthorized: no key, or an unknown one.
    """
    settings = cast(Settings, request.app.state.settings)
    if not settings.api_keys:
        return
    given = credentials.credentials.encode() if credentials is not None else b""
    # every key is compared, in constant time: how long a refusal takes tells nothing
    matches = [hmac.compare_digest(given, key.get_secret_value().encode()) for key in settings.api_keys]
    if not any(matches):
        raise Unauthorized("no API key, or an unknown one: send `Authorization: Bearer KEY`")


async def spooled_body(request: Request) -> AsyncIterator[BinaryIO]:
    """The body as a seekable file, in memory while it is small; the size limit has been set at the edge."""
    with tempfile.SpooledTemporaryFile(SPOOL_IN_MEMORY) as spool:
        async for part in request.stream():
            spool.write(part)
        spool.seek(0)
        yield cast(BinaryIO, spool)


Ctx = Annotated[Context, Depends(_context)]
Body = Annotated[BinaryIO, Depends(spooled_body)]
IdempotencyKey = Annotated[
    str | None,
    Header(alias="Idempotency-Key", min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$"),
]

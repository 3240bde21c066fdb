"""What endpoints ask for: the context, who calls."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Header, Request
from fastapi.dependencies.models import Dependant
from fastapi.security import HTTPBearer

from promptgps_service.errors import Forbidden
from promptgps_service.flow.access import Access
from promptgps_service.flow.context import Context

# Only for the document: keys are checked at the edge, before a body is read.
_bearer = HTTPBearer(
    auto_error=False,
    description="A key of `promptgps keys add` or of PROMPTGPS_API_KEYS, where the "
    "service has any.",
)


# async, as the next: a def would cost a thread hop
async def _context(request: Request) -> Context:
    return cast(Context, request.app.state.context)


async def caller(request: Request) -> Access:
    """Rights of whoever sent the request, as the edge found them."""
    return cast(Access, request.state.access)


async def check_rights(request: Request, access: Annotated[Access, Depends(caller)]) -> None:
    """Keep limited keys out of endpoints that do not ask who calls.

    Such an endpoint cannot keep them to their own.

    Raises:
        Forbidden: the key is limited to names, or to reading and this is not a GET.
    """
    limited = access.patterns or (access.read_only and request.method != "GET")
    if limited and not _asks(request.scope["route"].dependant):
        raise Forbidden("this endpoint needs an API key without limits")


def _asks(dependant: Dependant) -> bool:
    """Whether an endpoint, or what it depends on, asks for the caller."""
    own = [part for part in dependant.dependencies if part.call is not check_rights]
    return any(part.call is caller or _asks(part) for part in own)


Ctx = Annotated[Context, Depends(_context)]
Caller = Annotated[Access, Depends(caller)]
GUARDS = [Depends(_bearer), Depends(check_rights)]  # of every router
IdempotencyKey = Annotated[
    str | None,
    Header(alias="Idempotency-Key", min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$"),
]

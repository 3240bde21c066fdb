"""The only table from error to status, rendered as RFC 9457 problem+json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from promptgps_client.wire import Problem, ProblemFault
from promptgps_client.wire.faults import fault_of, meant
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from promptgps_service.errors import (
    Busy,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    NotOpen,
    PoolNotOpen,
    PromptGPSError,
    RunGone,
    TooMuch,
    Unauthorized,
    Unavailable,
)
from promptgps_service.reading.shown import shown

_log = structlog.get_logger(__name__)
MEDIA_TYPE = "application/problem+json"
NO_VALUE = frozenset(
    {
        "body",
        "columns",
        "extra_forbidden",
        "missing",
        "too_long",
        "too_short",
        "string_too_long",
        "number_too_long",
    }
)
FAULTS_SHOWN = 20  # a body of 100,000 wrong rows must not get an answer of the same size

STATUS: dict[type[PromptGPSError], tuple[int, str, str]] = {
    Invalid: (422, "invalid-request", "The request is not valid"),
    RunGone: (404, "not-found", "There is no such thing"),
    NotFound: (404, "not-found", "There is no such thing"),
    NotOpen: (409, "run-not-open", "The run is archived or faulty"),
    PoolNotOpen: (409, "pool-not-open", "The pool is archived"),
    TooMuch: (413, "too-large", "The request is too large"),
    Conflict: (409, "conflict", "The request contradicts what is there"),
    Busy: (429, "busy", "Too much at once"),
    Unavailable: (503, "unavailable", "The database does not answer"),
    Unauthorized: (401, "unauthorized", "An API key is needed"),
    Forbidden: (403, "forbidden", "The API key does not allow this"),
}
_HTTP_TITLES = {
    400: ("malformed", "The request cannot be read"),
    404: ("not-found", "There is no such address"),
    405: ("method-not-allowed", "The address does not take this method"),
    413: ("too-large", "The request is too large"),
    415: ("unsupported-media-type", "The content type is not one of those that are taken"),
}


def problem(
    request_id: str | None,
    status: int,
    kind: str,
    title: str,
    detail: str,
    faults: Sequence[ProblemFault] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem+json answer."""
    body = Problem(
        type=f"urn:promptgps:problem:{kind}",
        title=title,
        status=status,
        detail=detail,
        errors=list(faults),
        request_id=request_id,
    )
    return Response(body.model_dump_json(), status, dict(headers or {}), media_type=MEDIA_TYPE)


def _id(request: Request) -> str | None:
    return getattr(request.state, "request_id", None)


def answer_error(request: Request, error: Exception) -> Response:
    """Answer an error that the service raised on purpose."""
    assert isinstance(error, PromptGPSError)
    status, kind, title = STATUS[type(error)]
    faults = [
        ProblemFault(field=fault.field, row=fault.row, detail=fault.detail)
        for fault in error.faults[:FAULTS_SHOWN]
    ]
    headers = {}

    if isinstance(error, Busy):
        headers["Retry-After"] = f"{max(error.retry_after, 1):.0f}"
    if isinstance(error, Unavailable):
        headers["Retry-After"] = "1"
        _log.warning("database unavailable", cause=repr(error.__cause__))
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"

    return problem(_id(request), status, kind, title, error.detail, faults, headers)


def answer_validation(request: Request, error: Exception) -> Response:
    """Answer a body or parameter that the wire vocabulary refuses, field by field, row by row."""
    assert isinstance(error, RequestValidationError)
    errors = meant(error.errors())
    # of bodies that were read no further than to their first faults
    complete = getattr(error, "complete", True)
    if any(item["type"] == "json_invalid" for item in errors):
        detail = (
            f"the body is not JSON: {errors[0].get('ctx', {}).get('error', 'it cannot be parsed')}"
        )
        return problem(_id(request), 400, "malformed", _HTTP_TITLES[400][1], detail)

    faults = [_fault(item) for item in errors[:FAULTS_SHOWN]]
    first = faults[0]
    where = first.field if first.row is None else f"{first.field}, row {first.row}"
    rest = len(errors) - 1
    more = f" (and {'' if complete else 'at least '}{rest} more)" if rest else ""
    status, kind, title = STATUS[Invalid]
    if all(item["type"] == "too_long" for item in errors):
        status, kind, title = 413, *_HTTP_TITLES[413]

    return problem(_id(request), status, kind, title, f"{where}: {first.detail}{more}", faults)


def _fault(item: Mapping[str, Any]) -> ProblemFault:
    """A pydantic error as field and row; a fault of the body as a whole is one of ``body``."""
    loc = [part for part in item["loc"] if part not in ("body", "query", "path", "header")]
    fault = fault_of(loc, _told(item), item["ctx"] if item["type"] == "columns" else {})
    return fault if fault.field else fault.model_copy(update={"field": "body"})


def _told(item: Mapping[str, Any]) -> str:
    """What is wrong, with the value where it is one that can be shown."""
    message = str(item["msg"])
    value = item.get("input")
    if (
        item["type"] in NO_VALUE
        or not item.get("told", True)
        or not isinstance(value, str | int | float | bool | None)
    ):
        return message

    return f"{message}, not {shown(value)}"


def answer_http(request: Request, error: Exception) -> Response:
    """Answer what the framework refuses."""
    assert isinstance(error, HTTPException)
    kind, title = _HTTP_TITLES.get(error.status_code, ("http-error", "The request was refused"))
    headers = {"Allow": ", ".join(_methods(request))} if error.status_code == 405 else error.headers
    return problem(_id(request), error.status_code, kind, title, str(error.detail), (), headers)


def _methods(request: Request) -> list[str]:
    """Every method that the address takes; the framework tells only those of its first route."""
    asked = [
        (method, {**request.scope, "method": method})
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
    ]

    routes = request.app.routes
    return [
        method
        for method, scope in asked
        if any(route.matches(scope)[0] is Match.FULL for route in routes)
    ]


def answer_gone(request: Request, _error: Exception) -> Response:
    """Answer for the log alone: the client hung up, or was cut off, before its body was there."""
    return problem(_id(request), 400, "malformed", _HTTP_TITLES[400][1], "the body was broken off")


def answer_unexpected(request: Request, error: Exception) -> Response:
    """Answer a fault of ours: the log has it, the answer only its id."""
    _log.error("unexpected error", path=request.url.path, exc_info=error)
    detail = "an unexpected error; the service's log has it under this request id"
    return problem(_id(request), 500, "internal", "The service failed", detail)


def install(app: FastAPI) -> None:
    """Make an app answer every error as a problem."""
    for kind in STATUS:
        app.add_exception_handler(kind, answer_error)

    app.add_exception_handler(RequestValidationError, answer_validation)
    app.add_exception_handler(HTTPException, answer_http)
    app.add_exception_handler(ClientDisconnect, answer_gone)
    app.add_exception_handler(Exception, answer_unexpected)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for the problems that an endpoint answers with."""
    titles = {code: title for code, (_, title) in _HTTP_TITLES.items()}
    titles |= {status: title for status, _, title in STATUS.values()}
    return {
        status: {
            "description": titles[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in (400, 401, 403, 413, 422, 503, *statuses)
    }

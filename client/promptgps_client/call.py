"""One logical request before there is any network.

It says what goes out, how the answer is read, and what may be tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from promptgps_client.columns import NESTED, Column, NoColumn, plain
from promptgps_client.errors import faults_of, invalid_request
from promptgps_client.wire import Name, ProblemFault, Wire

A = TypeVar("A")
W = TypeVar("W", bound=Wire)

NO_COLUMNS: Mapping[str, Column] = {}
JSON = {"Content-Type": "application/json"}


class Retry(Enum):
    """Which failures may be tried again."""

    SAFE = "whatever may pass: the call does the same however often it is sent"
    UNLESS_DONE = "only what was certainly not done"
    NEVER = "nothing: the call asks for the state of this moment"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[A]):
    """One logical request, and how to read its answer."""

    method: str
    path: str
    read: Callable[[bytes], A]
    retry: Retry = Retry.SAFE
    body: bytes | Path | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_seconds: float = 0.0
    idempotency_key: str | None = None
    first_row: int = 0
    also_answers: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


_NAME: TypeAdapter[str] = TypeAdapter(Name)


# One question in several requests, each made from the answer to the one before.
Paged: TypeAlias = Generator[Call[A], A, A]


def read_as(answer: type[W]) -> Callable[[bytes], W]:
    """Reads an answer.

    Fields that it does not know are passed over, so that a newer service can say more.
    """
    return lambda body: answer.model_validate_json(body, extra="ignore")


def get(path: str, answer: type[W]) -> Call[W]:
    """Ask for something."""
    return Call(method="GET", path=path, read=read_as(answer))


def act(method: str, path: str, answer: type[W], *, retry: Retry = Retry.SAFE) -> Call[W]:
    """Have something done that needs no more words."""
    return Call(method=method, path=path, read=read_as(answer), retry=retry)


def send(
    method: str,
    path: str,
    request: type[Wire],
    answer: type[W],
    fields: Mapping[str, Any],
    *,
    kinds: Mapping[str, Column] = NO_COLUMNS,
    retry: Retry = Retry.SAFE,
    wait_seconds: float = 0.0,
    idempotency_key: str | None = None,
    first_row: int = 0,
) -> Call[W]:
    """Send fields as a request of the wire vocabulary; those that are None are left out.

    Args:
        method: Of the request.
        path: Where to.
        request: What the fields must be.
        answer: What comes back.
        fields: By name.
        kinds: Which of them are columns, and of what kind.
        retry: What may be tried again.
        wait_seconds: How long the service may wait before it answers.
        idempotency_key: By which it knows a repetition.
        first_row: Where the columns of this request begin in the caller's.

    Raises:
        InvalidRequest: the vocabulary refuses them.
    """
    given = read_fields(f"{method} {path}", fields, kinds)
    try:
        body = request.model_validate(given).model_dump_json(exclude_unset=True).encode()
    except ValidationError as refused:
        raise invalid_request(f"{method} {path}", *faults_of(refused, first_row)) from refused

    return Call(
        method=method,
        path=path,
        read=read_as(answer),
        retry=retry,
        body=body,
        headers=JSON,
        wait_seconds=wait_seconds,
        idempotency_key=idempotency_key,
        first_row=first_row,
    )


def read_fields(
    call: str, fields: Mapping[str, Any], kinds: Mapping[str, Column]
) -> dict[str, Any]:
    """Fields in Python's own values, those that are not None.

    Raises:
        InvalidRequest: One that must be a column is none.
    """
    given = {}
    for name, value in fields.items():
        if value is not None:
            nested = NESTED.get(name) if isinstance(value, Mapping) else None
            given[name] = (
                _field(call, name, value, kinds)
                if nested is None
                else {
                    inner: _field(call, inner, column, nested, f"{name}.")
                    for inner, column in value.items()
                }
            )

    return given


def _field(call: str, name: str, value: Any, kinds: Mapping[str, Column], prefix: str = "") -> Any:
    try:
        return kinds[name].read(value) if name in kinds and value is not None else plain(value)
    except NoColumn as fault:
        told = ProblemFault(field=prefix + name, row=fault.row, detail=fault.detail)
        raise invalid_request(call, told) from fault


def named(argument: str, name: str) -> str:
    """A name for a path; the check keeps `..` and `/` out of it.

    Raises:
        InvalidRequest: it cannot be one.
    """
    try:
        return quote(_NAME.validate_python(name, strict=True), safe="")
    except ValidationError as refused:
        fault = ProblemFault(field=argument, detail=refused.errors()[0]["msg"])
        raise invalid_request(f"with {argument} {name!r}", fault) from refused

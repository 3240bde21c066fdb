"""What was asked, as a short digest: the same question twice is a replay, another a conflict."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Set

from pydantic import BaseModel
from pydantic_core import to_json

SLICE = 8_192  # elements of a list that are written at a time: writing holds the interpreter's lock


def request_digest(request: BaseModel, ignoring: Set[str]) -> str:
    """Digest of a request's content, without fields that do not change what is meant."""
    digest = hashlib.blake2b(digest_size=16)
    for part in _json(request, ignoring):
        digest.update(part)
    return digest.hexdigest()


def _json(request: BaseModel, ignoring: Set[str]) -> Iterator[bytes]:
    """The request as pydantic writes it, nulls left out, in parts of bounded size."""
    separator = b"{"
    for name in type(request).model_fields:
        value = getattr(request, name)
        if name in ignoring or value is None:
            continue

        if type(value) is list and len(value) > SLICE:
            yield separator + to_json(name) + b":["
            for start in range(0, len(value), SLICE):
                rows = to_json(value[start : start + SLICE])[1:-1]
                yield b"," + rows if start else rows
            yield b"]"
        else:
            yield (
                separator
                + request.model_dump_json(include={name}, exclude_none=True)[1:-1].encode()
            )

        separator = b","

    yield b"{}" if separator == b"{" else b"}"

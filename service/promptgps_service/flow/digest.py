"""What was asked, as a short digest: the same question twice is a replay, another one a conflict."""

from __future__ import annotations

import hashlib
from collections.abc import Set

from pydantic import BaseModel


def request_digest(request: BaseModel, ignoring: Set[str]) -> str:
    """Digest of a request's content, without fields that do not change what is meant."""
    content = request.model_dump_json(exclude=set(ignoring), exclude_none=True)
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

"""What can go wrong, without a word of HTTP.

PromptGPSError
├── NotFound            a pool, run, prompt or draw that is not there
├── Invalid             a request that contradicts itself or the run; names field and row
├── TooMuch             what was sent is larger, or unpacks to more, than is taken at once
├── Conflict            the same name or sequence with another content; another import under way
├── Busy                a bounded lane or queue is full; try again after ``retry_after`` seconds
├── Unavailable         the database is away; try again
├── Unauthorized        no key, or a wrong one
└── Forbidden           a key that does not reach so far
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One fault of a request: the field, the row in its list (if it is one), and what is wrong."""

    field: str
    detail: str
    row: int | None = None


class PromptGPSError(Exception):
    """Root of every error the service raises on purpose."""

    def __init__(self, detail: str, faults: tuple[Fault, ...] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.faults = faults


class NotFound(PromptGPSError):
    """A pool, run, prompt or draw that is not there."""


class Invalid(PromptGPSError):
    """A request that contradicts itself, the pool or the run."""

    @classmethod
    def at(cls, field: str, detail: str, row: int | None = None) -> Invalid:
        """One fault at a field (and row)."""
        return cls(detail, (Fault(field, detail, row),))


class TooMuch(PromptGPSError):
    """What was sent is larger, or unpacks to more, than is taken at once."""


class Conflict(PromptGPSError):
    """The same identity with another content."""


class Busy(PromptGPSError):
    """Too much at once; ``retry_after`` is in seconds."""

    def __init__(self, detail: str, retry_after: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Unavailable(PromptGPSError):
    """The database does not answer."""


class Unauthorized(PromptGPSError):
    """No API key, or an unknown one."""


class Forbidden(PromptGPSError):
    """The API key is limited to other runs, or to reading."""

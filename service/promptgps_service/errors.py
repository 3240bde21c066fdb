"""What can go wrong, without a word of HTTP.

PromptGPSError
├── NotFound            a pool, run, prompt or draw that is not there
│   └── RunGone         a run that this process has opened, and that was deleted since
├── Invalid             a request that contradicts itself or the run; names field and row
├── TooMuch             what was sent is larger, or unpacks to more, than is taken at once
├── Conflict            the same name or sequence with another content; another import under way
├── NotOpen             a run that is archived or faulty
├── PoolNotOpen         a pool that is archived
├── Busy                as many wait as may; try again after ``retry_after`` seconds
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


class RunGone(NotFound):
    """A run that this process has opened, and that was deleted since; another may have its name.

    Attributes:
        run_id: of the one that was deleted.
    """

    def __init__(self, run_id: int) -> None:
        super().__init__("the run was deleted")
        self.run_id = run_id


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


class NotOpen(PromptGPSError):
    """A run that is archived, or faulty: it takes no draws and no outcomes."""


class PoolNotOpen(PromptGPSError):
    """A pool that is archived: it takes no prompts and no new runs."""


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

"""How far a caller may go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Limits:
    """Limits of one process.

    Attributes:
        open_draws: draws of one run that may be without an outcome.
        embedding_root: what pools may name folders of; None: nothing.
        waiting: requests that may wait for the model at a time; each holds a thread, and some must
            be left for others.
    """

    open_draws: int = 10_000_000
    embedding_root: Path | None = None
    waiting: int = 48

"""Whose fault an error is: a run's, or the machine's and the database's, which passes."""

from __future__ import annotations

import torch

from promptgps_service.errors import Busy, NotOpen, RunGone, Unavailable

PASSING = (Unavailable, Busy, NotOpen, RunGone)  # no fault of the run, or one that was told already


def is_short_of_memory(error: Exception) -> bool:
    """Whether it is the machine, and not the run, that is at fault.

    Torch has no class of its own for the host.
    """
    short = isinstance(error, MemoryError | torch.cuda.OutOfMemoryError)
    return short or (isinstance(error, RuntimeError) and "alloc" in str(error))

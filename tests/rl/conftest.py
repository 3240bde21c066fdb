from __future__ import annotations

import pytest

from benchmarks.rl.policy import Policy
from benchmarks.rl.warmstart import WarmStart, train

SMALL = WarmStart(
    steps=130, batch=32, families=("swap", "reverse"), level_decay=0.3, matrix_lr=0.015
)


@pytest.fixture(scope="session")
def base() -> Policy:
    """A policy that half knows two families; a few seconds."""
    return train(SMALL)

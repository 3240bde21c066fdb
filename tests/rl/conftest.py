from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from benchmarks.rl.policy import Policy
from benchmarks.rl.warmstart import WarmStart, train

SMALL = WarmStart(steps=130, batch=32, families=("swap", "reverse"), level_decay=0.3, matrix_lr=0.015)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def base() -> Policy:
    """A policy that half knows two families; a few seconds."""
    return train(SMALL)

"""TransferQueue on a local Ray, which is enough for it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ.update(
    RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", VERL_LOGGING_LEVEL="WARNING"
)

import ray
import transfer_queue

from tests.adapters.verl.training import clear


@pytest.fixture(scope="session")
def queue() -> Iterator[None]:
    """Its actors ask for a CPU each, and use next to none."""
    ray.init(num_cpus=8, include_dashboard=False, object_store_memory=128 << 20)
    transfer_queue.init()
    yield
    transfer_queue.close()
    ray.shutdown()


@pytest.fixture(autouse=True)
def _empty(queue: None) -> Iterator[None]:
    yield
    clear()

"""Requests that wait for the model hold threads: no more than some may.

The others get their batch all the same.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from promptgps_service.flow.context import Context
from promptgps_service.flow.limits import Limits
from promptgps_service.flow.trainer import Learning
from promptgps_service.store.unit import Store

from tests.flow.driving import add, open_run, report_groups, select

SECONDS = 3.0
WAITING = 2


def test_who_finds_too_many_waiting_does_not_wait(database_url: str) -> None:
    context = Context(
        Store(database_url),
        device=torch.device("cpu"),
        learning=Learning(
            enabled=False, groups=1, seconds=0.0
        ),  # so that whoever waits does so to the end
        callers=8,
        limits=Limits(waiting=WAITING),
    )
    try:
        add(context, 40)
        open_run(context)
        report_groups(context, select(context, 2))
        with ThreadPoolExecutor(5) as threads:
            batches = list(
                threads.map(lambda _: select(context, 2, wait_seconds=SECONDS), range(5))
            )
        late = [
            any("had not learned" in warning for warning in batch.warnings) for batch in batches
        ]
        hasty = [
            any("too many requests" in warning for warning in batch.warnings) for batch in batches
        ]
        assert sum(late) == WAITING
        assert sum(hasty) == 5 - WAITING
        assert len({draw for batch in batches for draw in batch.draws.draw_id}) == 10
        assert not any(
            "too many" in warning for warning in select(context, 2, wait_seconds=0.1).warnings
        )
    finally:
        context.close()

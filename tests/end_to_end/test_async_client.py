"""The asynchronous client in the same loop, with requests under way at the same time."""

from __future__ import annotations

import asyncio

import pytest
from promptgps_client import AsyncPromptGPS, Conflict, InvalidRequest, NotFound
from promptgps_client.wire import Batch

from tests.end_to_end.learner import make_tasks
from tests.server import Server

STEPS = 5
BATCH = 8
ROLLOUTS = 4


def test_an_asynchronous_trainer_draws_and_reports_in_any_order(server: Server) -> None:
    asyncio.run(_train(server.url))


async def _train(url: str) -> None:
    tasks = make_tasks(21, count=120)
    async with AsyncPromptGPS(url) as client:
        await client.create_pool("async")
        added = await client.add_prompts(
            "async", keys=[t.key for t in tasks], texts=[t.text for t in tasks]
        )
        assert (added.added, added.total) == (120, 120)
        await client.create_run(name="async", pool="async", rollouts_per_prompt=ROLLOUTS)
        batches = await asyncio.gather(
            *(
                client.select_batch(run="async", sequence=step, batch_size=BATCH)
                for step in range(STEPS)
            )
        )
        # nothing was reported yet: what is drawn is pending, and not handed out again
        drawn = [key for batch in batches for key in batch.draws.prompt]
        assert len(set(drawn)) == len(drawn) == STEPS * BATCH
        await asyncio.gather(*(_report(client, batch) for batch in reversed(batches)))
        again = await asyncio.gather(*(_report(client, batch) for batch in batches))
        assert {answer[0] for answer in again} == {0}
        run = await client.run("async")
        assert run.log_position == STEPS * BATCH * ROLLOUTS
        last = await client.select_batch(run="async", batch_size=BATCH, wait_seconds=30.0)
        assert last.trained_through == run.log_position
        assert last.warnings == [] or "mixed" in last.warnings[0]
        told = await client.predict_difficulty(run="async", keys=drawn)
        assert len(told.success_mean) == len(drawn)
        await _goes_back(client, drawn)
        await _errors_are_typed(client)


async def _goes_back(client: AsyncPromptGPS, keys: list[str]) -> None:
    spread = await client.allocate_budget(run="async", keys=keys, mean=4.0)
    assert sum(spread.samples) == 4 * len(keys)
    assert (await client.snapshot("async", "here")).tag == "here"
    first = await client.select_batch(
        run="async", sequence=100, batch_size=BATCH, wait_seconds=30.0
    )
    assert (await client.restore("async", "here")).superseded.draws == BATCH
    again = await client.select_batch(
        run="async", sequence=100, batch_size=BATCH, wait_seconds=30.0
    )
    assert again.draws.prompt == first.draws.prompt
    assert set(again.draws.draw_id).isdisjoint(first.draws.draw_id)
    assert [one.tag for one in (await client.snapshots("async")).snapshots] == ["here"]


async def _report(client: AsyncPromptGPS, batch: Batch) -> tuple[int, int]:
    ids = [draw for draw in batch.draws.draw_id for _ in range(ROLLOUTS)]
    stored = await client.report_rollouts(
        run="async",
        draw_id=ids,
        rollout_index=list(range(ROLLOUTS)) * BATCH,
        reward=[float(index % 2) for index in range(len(ids))],
    )
    assert stored.stored + stored.duplicates == len(ids)
    assert stored.conflicts == []
    return stored.stored, stored.duplicates


async def _errors_are_typed(client: AsyncPromptGPS) -> None:
    for kind, call in (
        (NotFound, client.run("nobody")),
        (Conflict, client.select_batch(run="async", sequence=0, batch_size=BATCH + 1)),
        (InvalidRequest, client.select_batch(run="async", batch_size=121)),
    ):
        with pytest.raises(kind) as caught:
            await call
        assert caught.value.request_id

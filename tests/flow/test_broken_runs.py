"""A broken run costs only itself, however it was broken: while it is open, and over a restart."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import pytest
import torch
from promptgps_client.wire import TakeSnapshot
from promptgps_service.errors import NotOpen
from promptgps_service.flow.context import Context
from promptgps_service.flow.open_run import list_runs
from promptgps_service.flow.snapshot import take_snapshot
from promptgps_service.model.checkpoint import pack, unpack
from promptgps_service.store.tables import (
    model_versions,
    outcomes,
    pool_chunks,
    pools,
    run_segments,
    runs,
    selections,
)
from promptgps_service.store.unit import Store
from sqlalchemy import Connection, update
from sqlalchemy import select as select_rows

from tests.databases import opened_context
from tests.flow.driving import WAIT, add, open_run, report_groups, select, settle, step
from tests.server import wait_for

BATCH = 6
STEPS = 3
Damage = Callable[[Connection, int, int], None]  # of a run and its pool, by their ids


def of_run(table: Any, **values: Any) -> Damage:
    """Overwrite columns in every row of the run."""

    def damage(connection: Connection, run_id: int, _pool_id: int) -> None:
        owner = table.c.id if table is runs else table.c.run_id
        assert connection.execute(update(table).where(owner == run_id).values(**values)).rowcount

    return damage


def of_pool(table: Any, **values: Any) -> Damage:
    """Overwrite columns in every row of the pool."""

    def damage(connection: Connection, _run_id: int, pool_id: int) -> None:
        owner = table.c.id if table is pools else table.c.pool_id
        assert connection.execute(update(table).where(owner == pool_id).values(**values)).rowcount

    return damage


def settings(change: Callable[[dict[str, Any]], Any]) -> Damage:
    """Change the stored settings."""

    def damage(connection: Connection, run_id: int, _pool_id: int) -> None:
        (stored,) = connection.execute(
            select_rows(runs.c.settings).where(runs.c.id == run_id)
        ).one()
        changed = json.loads(json.dumps(stored))
        changed = change(changed) or changed
        connection.execute(update(runs).where(runs.c.id == run_id).values(settings=changed))

    return damage


def states(change: Callable[[dict[str, torch.Tensor], dict[str, str]], bytes | None]) -> Damage:
    """Change every stored model state; its digest is right."""

    def damage(connection: Connection, run_id: int, _pool_id: int) -> None:
        query = select_rows(model_versions.c.version, model_versions.c.state)
        for version, state in connection.execute(
            query.where(model_versions.c.run_id == run_id)
        ).all():
            tensors, metadata = unpack(bytes(state))
            changed = change(tensors, metadata) or pack(tensors, metadata)
            own = (model_versions.c.run_id == run_id) & (model_versions.c.version == version)
            connection.execute(update(model_versions).where(own).values(state=changed))

    return damage


def every_tensor(change: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    def on_state(tensors: dict[str, torch.Tensor], _metadata: dict[str, str]) -> None:
        for name, tensor in tensors.items():
            tensors[name] = change(tensor)

    return states(on_state)


def told(**metadata: str) -> Damage:
    return states(lambda _, known: known.update(metadata))


def not_finite(tensor: torch.Tensor) -> torch.Tensor:
    return torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else tensor


MODELS: dict[str, Damage] = {
    "no checkpoint at all": states(lambda *_: b"\x00" * 100),
    "not finite": every_tensor(not_finite),
    "other shapes": every_tensor(lambda tensor: torch.zeros(2, 3)),
    "nothing in it": states(lambda tensors, _: tensors.clear()),
    "huge numbers": every_tensor(
        lambda t: torch.full_like(t, 1e30) if t.is_floating_point() else t
    ),
    "more rows than there are": told(rows="1000000000"),
    "rows that are no number": told(rows="many"),
    "rows below zero": told(rows="-3"),
    "a timeline of another form": told(timeline='{"a": []}'),
    "of another predictor": told(identity="('neural', {})"),
    "learned past the log": of_run(model_versions, trained_through=10**12),
}
RUNS: dict[str, Damage] = {
    "no settings": settings(lambda _: {}),
    "settings of another form": settings(lambda _: ["settings"]),
    "an unknown predictor": settings(lambda s: s["selection"].update(predictor="oracle")),
    "parameters that the predictor does not take": settings(
        lambda s: s["selection"].update(predictor_parameters={"wings": 2})
    ),
    "a pool that is not there": settings(lambda s: s.update(pools=[{"pool": "elsewhere"}])),
    "a warm start from nowhere": settings(lambda s: s.update(warm_start_from="elsewhere")),
    "a gap in settings": settings(lambda s: s["selection"].update(uniform_share=None)),
    "more outcomes than there are": of_run(runs, log_position=10_000),
    "fewer draws than there are": of_run(runs, draws=1),
    "more selections than there are": of_run(runs, selections=10_000),
    "a draw of a prompt that is not there": of_run(selections, rows=b"\xff\xff\xff\x7f" * BATCH),
    "draws that count from the end": of_run(selections, rows=b"\xff\xff\xff\xff" * BATCH),
    "half of a selection": of_run(selections, rows=b"\x00" * 4),
    "a selection that is no whole numbers": of_run(selections, rows=b"\x00" * 3),
    "an outcome of a prompt that is not there": of_run(outcomes, row=10**6),
    "an outcome of a draw that is not there": of_run(outcomes, draw=outcomes.c.draw + 10**6, row=0),
    "outcomes of fewer than no trials": of_run(outcomes, trials=-5),
    "more prompts than its pool has": of_run(run_segments, size=10_000),
    "prompts from before its pool's first": of_run(run_segments, start=-7),
    "half of the vectors": of_pool(pool_chunks, embedding=b"\x00" * 7),
    "vectors that are not finite": of_pool(pool_chunks, embedding=b"\xff\x7f" * 6 * 40),
    "no identities": of_pool(pool_chunks, identity=b""),
    "another dimension": of_pool(pools, dimension=7),
    "an embedding of another form": of_pool(pools, embedding={"kind": "unheard of"}),
}


def prepare(context: Context) -> tuple[int, int]:
    """Two runs over a pool each, both under way.

    Answers the ids of the one that is to be broken and of its pool.
    """
    for name in ("broken", "sound"):
        add(context, 40, pool=f"pool-of-{name}")
        open_run(context, name=name, pool=f"pool-of-{name}")
        for sequence in range(STEPS):
            step(context, BATCH, run=name, sequence=sequence)
        settle(context, name)
    with context.store.read() as unit:
        return unit.runs.get("broken").id, unit.pools.get("pool-of-broken").id


def break_run(store: Store, damage: Damage, run_id: int, pool_id: int) -> None:
    with store.write() as unit:
        damage(unit.connection, run_id, pool_id)
        unit.runs.advance(run_id)  # every process notices


def sound_run_goes_on(context: Context, sequence: int) -> None:
    """Draws, reports and learns; and the process says that it is ready."""
    step(context, BATCH, run="sound", sequence=sequence)
    run = settle(context, "sound")
    assert run.trained_through == run.log_position
    context.open_all()
    assert set(context.checks().values()) == {"ok"}


def use(context: Context, sequence: int) -> str | None:
    """Use the broken run for what a trainer does; what is said where it is out of service."""
    try:
        report_groups(context, select(context, BATCH, run="broken", sequence=sequence))
        take_snapshot(context, "broken", TakeSnapshot(tag=f"at-{sequence}"))
        desk = context.desk("broken")
        desk.trainer.ask(desk.state.log_position)
        desk.state.wait_learned(desk.state.log_position, WAIT)
        select(context, BATCH, run="broken", sequence=sequence + 1)
    except NotOpen as refused:
        return refused.detail
    return None


def marked(context: Context) -> str | None:
    (run,) = [run for run in list_runs(context).runs if run.name == "broken"]
    return run.fault if run.state == "faulty" else None


@pytest.mark.parametrize("how", RUNS)
def test_a_broken_run_is_marked_and_everything_else_goes_on(database_url: str, how: str) -> None:
    with opened_context(database_url) as before:
        broken = prepare(before)
        break_run(before.store, RUNS[how], *broken)
        sound_run_goes_on(before, STEPS)

    for restart in range(2):
        with opened_context(database_url) as after:
            after.open_all()
            refused = use(after, STEPS + 10 * restart)
            sound_run_goes_on(after, STEPS + 1 + restart)
            if refused is not None:
                assert marked(after)
                with pytest.raises(NotOpen, match="faulty"):
                    after.desk("broken")
                with after.store.read() as unit:
                    holder = unit.leases.holder(broken[0])
                assert holder is None


@pytest.mark.parametrize("how", MODELS)
def test_a_model_that_cannot_be_read_is_learned_again(database_url: str, how: str) -> None:
    with opened_context(database_url) as before:
        broken = prepare(before)
    store = Store(database_url)
    break_run(store, MODELS[how], *broken)
    store.close()

    with opened_context(database_url) as after:
        after.open_all()
        run = settle(after, "broken")
        assert run.trained_through == run.log_position == STEPS * BATCH
        assert use(after, STEPS) is None
        sound_run_goes_on(after, STEPS)


def test_what_breaks_while_it_learns_is_marked_after_another_try(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(context)
    trainer = context.desk("broken").trainer
    tried = []

    def breaks(*_: Any) -> Any:
        tried.append(True)
        raise ZeroDivisionError("of the test")

    monkeypatch.setattr(trainer, "_step", breaks)
    report_groups(context, select(context, BATCH, run="broken", sequence=STEPS))
    wait_for(lambda: marked(context) is not None, WAIT, "the run to be marked")
    assert len(tried) == 2
    assert "ZeroDivisionError: of the test" in cast(str, marked(context))
    sound_run_goes_on(context, STEPS)


def test_a_shortage_of_memory_is_no_fault_of_the_run(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(context)
    trainer = context.desk("broken").trainer
    original = trainer._step
    failures = [MemoryError(), torch.cuda.OutOfMemoryError(), MemoryError()]

    def short(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return original(*arguments)

    monkeypatch.setattr(trainer, "_step", short)
    report_groups(context, select(context, BATCH, run="broken", sequence=STEPS))
    wait_for(lambda: not failures, WAIT, "memory to be there again")
    run = settle(context, "broken")
    assert (run.state, run.trained_through) == ("open", run.log_position)


def test_who_waits_for_a_run_that_breaks_is_not_kept(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(context)
    trainer = context.desk("broken").trainer

    def breaks(*_: Any) -> Any:
        raise ZeroDivisionError("of the test")

    monkeypatch.setattr(trainer, "_step", breaks)
    report_groups(context, select(context, BATCH, run="broken", sequence=STEPS))
    with suppress(NotOpen):
        select(context, BATCH, run="broken", sequence=STEPS + 1, wait_seconds=WAIT)
    wait_for(lambda: marked(context) is not None, WAIT, "the run to be marked")

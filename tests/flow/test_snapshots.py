"""Back to a snapshot: the run is as it was and goes on as it did.

It forgets nothing of what came after.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import torch
from promptgps_client.wire import Batch, ChangeRun, Restore, Restored, Snapshot, TakeSnapshot
from promptgps_service.errors import Conflict, NotFound
from promptgps_service.flow.context import Context
from promptgps_service.flow.metrics import run_metrics
from promptgps_service.flow.open_run import change_run, describe_run
from promptgps_service.flow.restore import restore_run
from promptgps_service.flow.snapshot import list_snapshots, take_snapshot
from promptgps_service.flow.trainer import Learning
from sqlalchemy import text

from tests.databases import opened_context
from tests.flow.driving import (
    WAIT,
    add,
    log_length,
    open_run,
    report,
    report_groups,
    select,
    settle,
    step,
    successes,
)
from tests.flow.test_restart import STRATEGIES, same_draws
from tests.server import wait_for

# whatever can be learned is learned, whenever there is time
EAGER = Learning(enabled=True, groups=2, seconds=0.0)
SERVING = Learning(enabled=False, groups=1, seconds=0.0)


def snapshot(context: Context, tag: str, run: str = "run") -> Snapshot:
    return take_snapshot(context, run, TakeSnapshot(tag=tag))[0]


def restore(context: Context, tag: str, run: str = "run", key: str | None = None) -> Restored:
    return restore_run(context, run, Restore(tag=tag), key)


def drive(context: Context, steps: range) -> list[Batch]:
    return [step(context, 8, sequence=number, policy_version=number) for number in steps]


def stored(context: Context, query: str) -> list[tuple[Any, ...]]:
    with context.store.read() as unit:
        return [tuple(row) for row in unit.connection.execute(text(query))]


# ---- as it was, and on as the first time ---------------------------------------------------------


@pytest.mark.parametrize(
    "selection", STRATEGIES, ids=[str(number) for number in range(len(STRATEGIES))]
)
def test_a_run_that_is_put_back_draws_what_it_drew_the_first_time(
    database_url: str, selection: dict[str, object]
) -> None:
    with opened_context(database_url) as context:
        add(context, 60)
        open_run(context, selection=selection)
        drive(context, range(3))
        at = describe_run(context, "run")
        snapshot(context, "step-3")
        expected = drive(context, range(3, 7))
        restore(context, "step-3")
        back = describe_run(context, "run")
        assert (back.draws, back.selections, back.log_position) == (
            at.draws,
            at.selections,
            at.log_position,
        )
        assert back.epoch == 1
        first = drive(context, range(3, 5))
    with opened_context(database_url) as after:  # and after a restart in the middle
        again = [*first, *drive(after, range(5, 7))]
        for one, other in zip(expected, again, strict=True):
            same_draws(one, other)
            assert one.draws.draw_id != other.draws.draw_id
            assert not other.replayed
        assert [batch.draws.draw_id[0] for batch in again] == [
            f"d1.1-{8 * number}" for number in range(3, 7)
        ]


def test_counts_pending_and_predictions_are_those_of_the_snapshot(context: Context) -> None:
    add(context, 40)
    open_run(context)
    drive(context, range(2))
    waiting = select(context, 5)
    report(context, draw_id=waiting.draws.draw_id[:1] * 2, rollout_index=[0, 3], reward=[1.0, 0.0])
    report(context, prompt=["pool-0"], successes=[1], trials=[3])
    settle(context)
    snapshot(context, "here")
    state = context.desk("run").state
    kept = {name: getattr(state, name).clone() for name in ("successes", "trials")}
    kept |= {
        name: getattr(state.traffic, name).clone() for name in ("open", "last_draw", "last_clock")
    }
    mean = state.table.posterior.mean.clone()
    reported = state.issued.reported.view.tolist()

    report(context, draw_id=waiting.draws.draw_id[1:], successes=[8] * 4, trials=[8] * 4)
    report(context, prompt=["pool-0", "pool-1"], successes=[3, 3], trials=[3, 3])
    drive(context, range(10, 13))
    assert not torch.equal(state.trials, kept["trials"])
    restore(context, "here")
    for name, value in kept.items():
        assert torch.equal(
            getattr(state if hasattr(state, name) else state.traffic, name), value
        ), name
    assert torch.equal(state.table.posterior.mean, mean)
    assert state.issued.reported.view.tolist() == reported


def test_steps_reported_in_pieces_are_learned_the_same_way_again(
    context: Context, database_url: str
) -> None:
    """A trainer that waits for the model gets the same batches.

    However the model's time falls between its reports.
    """
    context.close()

    def pieces(process: Context, steps: range) -> list[Batch]:
        batches = []
        for number in steps:
            batch = select(process, 12, sequence=number, wait_seconds=WAIT)
            solved = successes(batch)
            size = 1 + number % 5
            for start in range(
                0, 12 - number % 2, size
            ):  # of every other step one outcome comes after the next batch
                part = slice(start, min(start + size, 12 - number % 2))
                won = solved[part]
                report(
                    process, draw_id=batch.draws.draw_id[part], successes=won, trials=[8] * len(won)
                )
            for late in batches[-1:]:
                report(
                    process,
                    draw_id=late.draws.draw_id[-1:],
                    successes=successes(late)[-1:],
                    trials=[8],
                )
            batches.append(batch)
        return batches

    with opened_context(database_url, learning=EAGER) as eager:
        add(eager, 80)
        open_run(eager)
        pieces(eager, range(2))
        snapshot(eager, "two")
        expected = pieces(eager, range(2, 8))
        restore(eager, "two")
    lazy = Learning(enabled=True, groups=2, seconds=3600.0)
    with opened_context(database_url, learning=lazy, lease_seconds=0.5) as process:
        with ExitStack() as stack:  # the same through a replica
            replica = stack.enter_context(opened_context(database_url, learning=SERVING))
            for one, other in zip(expected, pieces(replica, range(2, 8)), strict=True):
                same_draws(one, other)
        assert process.opened("run") is not None


def test_settings_go_back_too(context: Context) -> None:
    add(context, 60)
    open_run(context)
    drive(context, range(2))
    before = describe_run(context, "run").selection
    snapshot(context, "two")
    expected = drive(context, range(2, 4))
    change_run(
        context,
        "run",
        ChangeRun.model_validate({"selection": {"predictor": "beta", "utility": "band"}}),
    )
    drive(context, range(4, 6))
    restore(context, "two")
    assert describe_run(context, "run").selection == before
    for one, other in zip(expected, drive(context, range(2, 4)), strict=True):
        same_draws(one, other)


def test_before_anything_was_learned_is_a_place_to_go_back_to(context: Context) -> None:
    add(context, 40)
    open_run(context)
    snapshot(context, "start")
    expected = drive(context, range(4))
    assert settle(context).model_version > 0
    assert restore(context, "start").superseded.outcomes == 32
    back = describe_run(context, "run")
    assert (back.model_version, back.trained_through, back.draws, back.log_position) == (0, 0, 0, 0)
    assert run_metrics(context, "run").steps == 0
    for one, other in zip(expected, drive(context, range(4)), strict=True):
        same_draws(one, other)
    assert settle(context).trained_through == 32
    assert run_metrics(context, "run").steps == 4


def test_prompts_that_came_since_stay(context: Context) -> None:
    add(context, 20)
    open_run(context)
    drive(context, range(2))
    snapshot(context, "small")
    add(context, 10, first=20)
    drive(context, range(2, 4))
    restore(context, "small")
    assert describe_run(context, "run").prompts == 30
    assert len(set(select(context, 30).draws.prompt)) == 30


# ---- again and again -----------------------------------------------------------------------------


def test_a_tag_stands_for_one_snapshot(context: Context) -> None:
    add(context, 20)
    open_run(context)
    made, new = take_snapshot(context, "run", TakeSnapshot(tag="a"))
    assert new
    drive(context, range(1))
    assert take_snapshot(context, "run", TakeSnapshot(tag="a")) == (made, False)
    with pytest.raises(NotFound, match="'b'"):
        restore(context, "b")
    with pytest.raises(NotFound, match="nobody"):
        snapshot(context, "a", run="nobody")


def test_restoring_again_changes_nothing(context: Context) -> None:
    add(context, 40)
    open_run(context)
    drive(context, range(2))
    snapshot(context, "two")
    drive(context, range(2, 4))
    first = restore(context, "two")
    assert (first.epoch, first.selections, first.draws, first.log_position) == (1, 2, 16, 16)
    assert (first.superseded.selections, first.superseded.draws, first.superseded.outcomes) == (
        2,
        16,
        16,
    )
    again = restore(context, "two")
    assert (again.epoch, again.log_position) == (1, 16)
    assert (again.superseded.selections, again.superseded.outcomes) == (0, 0)
    drive(context, range(2, 3))
    assert restore(context, "two").epoch == 2


def test_a_restore_is_done_once_for_each_key(context: Context) -> None:
    add(context, 40)
    open_run(context)
    snapshot(context, "start")
    drive(context, range(2))
    first = restore(context, "start", key="restart-1")
    batch = select(context, 8, sequence=0)  # one rank goes on, the other one's restore comes late
    assert restore(context, "start", key="restart-1") == first
    assert report_groups(context, batch).stored == 8
    with pytest.raises(Conflict):
        restore(context, "other", key="restart-1")
    assert restore(context, "start", key="restart-2").epoch == 2
    assert restore(context, "start", key="restart-1") == first


def test_later_snapshots_are_superseded_and_their_tags_are_free_again(context: Context) -> None:
    add(context, 60)
    open_run(context)
    for number in range(4):
        drive(context, range(number, number + 1))
        snapshot(context, f"step-{number}")
    assert restore(context, "step-1").superseded.snapshots == 2
    with pytest.raises(NotFound, match="superseded"):
        restore(context, "step-2")
    listed = list_snapshots(context, "run")
    assert [(each.tag, each.superseded) for each in listed.snapshots] == [
        ("step-0", False),
        ("step-1", False),
        ("step-2", True),
        ("step-3", True),
    ]
    drive(context, range(2, 3))
    assert snapshot(context, "step-2").epoch == 1
    drive(context, range(3, 5))
    assert restore(context, "step-2").epoch == 2
    assert restore(context, "step-0").epoch == 3
    assert [(each.epoch, each.tag) for each in list_snapshots(context, "run").restores] == [
        (1, "step-1"),
        (2, "step-2"),
        (3, "step-0"),
    ]
    assert log_length(context) == 8


def test_a_snapshot_keeps_its_model_however_much_is_learned_since(context: Context) -> None:
    add(context, 60)
    open_run(context)
    drive(context, range(3))
    settle(context)
    kept = snapshot(context, "three")
    drive(context, range(3, 9))
    settle(context)
    versions = [
        version
        for (version,) in stored(context, "SELECT version FROM model_versions ORDER BY version")
    ]
    assert kept.model_version in versions
    assert len(versions) == 3
    restore(context, "three")
    assert stored(context, "SELECT version FROM model_versions") == [(kept.model_version,)]


def test_what_came_after_is_kept_and_counted(context: Context) -> None:
    add(context, 40)
    open_run(context)
    drive(context, range(2))
    snapshot(context, "two")
    drive(context, range(2, 5))
    settle(context)
    before = stored(
        context,
        "SELECT position, draw, row, rollout, successes, trials FROM outcomes ORDER BY position",
    )
    steps = stored(context, "SELECT version FROM steps ORDER BY version")
    restore(context, "two")
    live = stored(
        context,
        "SELECT position, draw, row, rollout, successes, trials FROM outcomes ORDER BY position",
    )
    kept = (
        "SELECT position, draw, row, rollout, successes, trials"
        " FROM superseded_outcomes ORDER BY position"
    )
    assert live + stored(context, kept) == before
    assert len(live) == 16
    (count,) = stored(context, "SELECT count(*), sum(size) FROM superseded_selections")
    assert count == (3, 24)
    left = stored(context, "SELECT version FROM steps ORDER BY version")
    assert left + stored(context, "SELECT version FROM superseded_steps ORDER BY version") == steps


# ---- other processes -----------------------------------------------------------------------------


def test_every_process_notices(database_url: str) -> None:
    with ExitStack() as stack:
        worker, *replicas = (
            stack.enter_context(opened_context(database_url, learning=learning))
            for learning in (EAGER, SERVING, SERVING)
        )
        near, far = replicas
        add(near, 60)
        open_run(near)
        drive(near, range(3))
        snapshot(near, "three")
        expected = drive(far, range(3, 6))
        restore(near, "three")
        for one, other in zip(expected, drive(far, range(3, 6)), strict=True):
            same_draws(one, other)

        def together() -> bool:
            tables = [process.desk("run").state.table for process in (worker, near, far)]
            heads = {(table.epoch, table.model_version, table.trained_through) for table in tables}
            return len(heads) == 1 and tables[0].epoch == 1

        settle(near)
        wait_for(together, WAIT, "all processes to serve the same")
        assert log_length(near) == 48


def test_what_is_learned_while_the_run_is_put_back_is_dropped(
    context: Context, database_url: str
) -> None:
    add(context, 60)
    open_run(context)
    drive(context, range(2))
    settle(context)
    snapshot(context, "two")
    trainer = context.desk("run").trainer
    release = []

    def advance(*arguments: Any) -> Any:
        if not release:
            with opened_context(database_url, learning=SERVING) as replica:
                release.append(restore(replica, "two"))
        return original(*arguments)

    original = trainer._advance
    trainer._advance = advance  # type: ignore[method-assign]
    batch = select(context, 8, sequence=2, policy_version=2)
    report_groups(context, batch)
    wait_for(
        lambda: bool(release) and context.desk("run").state.epoch == 1,
        WAIT,
        "the restore to be noticed",
    )
    again = select(context, 8, sequence=2, policy_version=2)
    same_draws(batch, again)
    report_groups(context, again)
    run = settle(context)
    assert (run.trained_through, run.epoch) == (24, 1)
    assert sum(run_metrics(context, "run").series["rollouts"]) == 24 * 8

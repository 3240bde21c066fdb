"""A new training never inherits an old run by accident, and is never taken for one that does."""

from __future__ import annotations

import json
import pickle
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from promptgps_client import ExistingRun, PromptGPS, Selector
from promptgps_client.selector import courier

from tests.server import Server, wait_for

from .conftest import BATCH, KEYS, Make, report, train

# ---- a relaunch is stopped -----------------------------------------------------------------------


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"seed": 9},
        {"spool": "other"},
        {"prompts": KEYS[::-1]},
        {"prompts": KEYS[:20]},
        {"batch_size": 3},
        {"rollouts": 2},
        {"wait_seconds": 1.0},
        {"prefetch": True},
        {"fallback": "scores"},
    ],
    ids=str,
)
def test_a_relaunch_is_stopped_at_its_first_batch(
    make: Make, client: PromptGPS, run: str, tmp_path: Path, finished: bool, changed: dict[str, Any]
) -> None:
    old = make(spool=tmp_path / "spool")
    train(old, 2)
    client.snapshot(run, "step-2")
    if not finished:
        old.next_batch(2)
    old.close()
    before = client.run(run)
    again = make(**changed | {"spool": tmp_path / changed.get("spool", "spool")})
    with pytest.raises(ExistingRun) as raised:
        again.next_batch(0)
    told = str(raised.value)
    assert f"'{run}' has been trained on before" in told
    for way in (
        "load the trainer's checkpoint",
        "on_existing='resume'",
        "(step-2)",
        "on_existing='new'",
        f"'{run}-2'",
    ):
        assert way in told
    assert (raised.value.run, raised.value.snapshots, raised.value.new_name) == (
        run,
        ("step-2",),
        f"{run}-2",
    )
    assert str(pickle.loads(pickle.dumps(raised.value))) == told
    after = client.run(run)
    assert (after.selections, after.log_position) == (before.selections, before.log_position)
    with pytest.raises(ExistingRun):  # a loop that swallows errors does not get through
        again.next_batch(0)


def test_by_position_and_by_number_it_is_stopped_too(make: Make) -> None:
    train(make(), 3)
    with pytest.raises(ExistingRun, match="batch 0"):
        next(make().draws())
    with pytest.raises(ExistingRun, match="batch 2"):
        make().batch_at(2)
    # who goes on behind the old batches, by his own numbers, replays nothing
    assert make().batch_at(3).source == "service"


def test_a_training_whose_first_batches_were_local_is_one_too(
    make: Make, run: str, client: PromptGPS
) -> None:
    old = make()
    old._fallbacks = {0, 1}
    train(old, 3)
    again = make()
    # these are nobody's
    assert [again.next_batch(step).source for step in range(2)] == ["service"] * 2
    with pytest.raises(ExistingRun, match="batch 2"):
        again.next_batch(2)


def test_reports_that_still_wait_are_an_old_trainings_and_go_to_its_run(
    make: Make, client: PromptGPS, run: str, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    with (
        pytest.MonkeyPatch.context() as patched
    ):  # as if it were killed before anything was delivered
        patched.setattr(courier.Courier, "_work", lambda self: None)
        old = make(spool=spool)
        report(old, old.next_batch(0), 0)
        old.close()
    assert client.run(run).log_position == 0
    again = make(spool=spool, on_existing="new")
    batch = again.next_batch(0)
    report(again, batch, 0)
    assert again.flush()
    assert client.run(run).log_position == client.run(f"{run}-2").log_position == BATCH
    assert batch.source == "service"
    with pytest.raises(ExistingRun):
        make().next_batch(0)


@pytest.mark.parametrize("on_existing", ["fail", "resume", "new"])
def test_with_its_state_a_training_goes_on(
    make: Make, client: PromptGPS, run: str, on_existing: Any
) -> None:
    old = make()
    batches = train(old, 2)
    state = json.loads(json.dumps(old.state_dict()))
    later = old.next_batch(2)
    again = make(on_existing=on_existing)
    again.load_state_dict(state)
    assert again.next_batch(2).draw_id == later.draw_id
    assert again.batch_at(0, 0).draw_id == batches[0].draw_id
    assert [one.name for one in client.runs().runs if one.name.startswith(run)] == [run]


def test_back_at_a_snapshot_from_before_there_is_nothing_to_inherit(
    make: Make, client: PromptGPS, run: str
) -> None:
    client.snapshot(run, "start")
    old = train(make(), 2)
    client.restore(run, "start")
    batches = train(make(), 2)
    assert {batch.source for batch in batches} == {"service"}
    assert batches[0].draw_id != old[0].draw_id


def test_an_unknown_way_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="on_existing 'maybe' is none of fail, resume, new"):
        make(on_existing="maybe")


# ---- no relaunch ---------------------------------------------------------------------------------


@pytest.mark.parametrize("on_existing", ["fail", "resume", "new"])
def test_ranks_of_one_launch_are_none(
    make: Make, client: PromptGPS, run: str, on_existing: Any
) -> None:
    # offline pass rates
    client.report_groups(run=run, prompt=KEYS[:9], successes=[1.0] * 9, trials=[4] * 9)
    ranks = [make(on_existing=on_existing) for _ in range(3)]
    for step in range(3):
        # the first has reported by the time the last asks
        batches = [rank.next_batch(step) for rank in ranks]
        for rank, batch in zip(ranks, batches, strict=True):
            assert batch.draw_id == batches[0].draw_id
            report(rank, batch.part(ranks.index(rank), 3), step)
            assert rank.flush()
    assert [one.name for one in client.runs().runs if one.name.startswith(run)] == [run]
    assert client.run(run).log_position == 9 + 3 * BATCH


def test_a_rank_that_starts_after_another_has_drawn_is_none(
    make: Make, run: str, client: PromptGPS
) -> None:
    client.report_groups(run=run, prompt=KEYS[:9], successes=[1.0] * 9, trials=[4] * 9)
    first = make()
    batch = first.next_batch(0)
    second = make()
    report(first, batch, 0)
    assert first.flush()
    again = second.next_batch(0)
    assert (again.source, again.draw_id) == ("replay", batch.draw_id)


def test_a_training_that_had_reported_nothing_leaves_nothing_to_inherit(make: Make) -> None:
    old = make()
    batch = old.next_batch(0)
    old.close()
    again = make()
    assert again.next_batch(0).draw_id == batch.draw_id
    report(again, batch, 0)


# ---- resume --------------------------------------------------------------------------------------


def test_resumed_batches_come_after_those_that_were_had_on_all_ranks(
    make: Make, client: PromptGPS, run: str
) -> None:
    old = train(make(), 3)
    ranks = [make(on_existing="resume") for _ in range(3)]
    drawn = []
    for step in range(2):
        batches = [rank.next_batch(step) for rank in ranks]
        assert [batch.sequence for batch in batches] == [step] * 3
        assert batches[0].draw_id == batches[1].draw_id == batches[2].draw_id
        assert sorted(batch.source for batch in batches) == ["replay", "replay", "service"]
        report(ranks[step], batches[0], step)
        assert ranks[step].flush()
        drawn += batches[0].draw_id
    assert set(drawn).isdisjoint(draw_id for batch in old for draw_id in batch.draw_id)
    found = client.run(run)
    assert (found.selections, found.log_position) == (5, 5 * BATCH)
    assert found.progress is not None
    # the steps of this training count on from those of the old one: its outcomes are the newest
    assert (found.progress.next_sequence, found.progress.policy_version) == (5, 4)
    assert len({json.dumps(rank.state_dict()) for rank in ranks}) == 1
    # and a restart from its checkpoint is at the same place
    again = make(on_existing="resume")
    again.load_state_dict(json.loads(json.dumps(ranks[0].state_dict())))
    assert again.next_batch(2).source == "service"
    assert client.run(run).progress.next_sequence == 6  # type: ignore[union-attr]


def test_each_launch_resumes_behind_the_one_before(make: Make, client: PromptGPS, run: str) -> None:
    for launch in range(3):
        batches = train(make(on_existing="resume"), 2)
        assert {batch.source for batch in batches} == {"service"}
        assert client.run(run).log_position == 2 * (launch + 1) * BATCH
    # of a launch that has reported nothing the next one takes the place
    unreported = make(on_existing="resume").next_batch(0)
    assert make(on_existing="resume").next_batch(0).draw_id == unreported.draw_id
    other = make(on_existing="resume", batch_size=BATCH - 1).next_batch(0)
    assert (other.source, len(other)) == ("service", BATCH - 1)


def test_policy_versions_that_go_on_by_themselves_are_left_alone(
    make: Make, client: PromptGPS, run: str
) -> None:
    train(make(), 3)
    resumed = make(on_existing="resume")
    report(resumed, resumed.next_batch(100), 100)
    assert resumed.flush()
    assert client.run(run).progress.policy_version == 100  # type: ignore[union-attr]


def test_many_ranks_at_once_agree(make: Make, client: PromptGPS, run: str) -> None:
    train(make(), 2)
    for on_existing, name in (("resume", run), ("new", f"{run}-2")):
        ranks = [make(on_existing=on_existing) for _ in range(8)]
        batches: dict[int, list[str]] = {}

        def draw(
            number: int, ranks: list[Selector] = ranks, batches: dict[int, list[str]] = batches
        ) -> None:
            batches[number] = ranks[number].next_batch(0).draw_id

        threads = [threading.Thread(target=draw, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({tuple(ids) for ids in batches.values()}) == 1 <= len(batches) == 8
        assert {rank.course.run for rank in ranks} == {name}
        assert len({rank.course for rank in ranks}) == 1


# ---- anew ----------------------------------------------------------------------------------------


def test_a_new_run_has_the_settings_and_none_of_the_past(
    make: Make, client: PromptGPS, run: str, caplog: pytest.LogCaptureFixture
) -> None:
    client.change_run(
        run,
        rollouts_per_prompt=3,
        selection={"utility": "target", "target": 0.4, "candidate_factor": None},
    )
    train(make(), 2)
    selector = make(on_existing="new")
    batches = train(selector, 2)
    assert {batch.source for batch in batches} == {"service"}
    assert selector.course.run == f"{run}-2"
    assert f"this training is run {run}-2" in caplog.text
    old = client.run(run)
    new = client.run(f"{run}-2")
    for setting in ("pools", "rollouts_per_prompt", "seed", "selection", "reward"):
        assert getattr(new, setting) == getattr(old, setting)
    assert (old.log_position, new.log_position) == (2 * BATCH, 2 * BATCH)
    # its checkpoint goes back to it, whatever on_existing says; without one there is a third
    state = json.loads(json.dumps(selector.state_dict()))
    for asked, options in ((run, {}), (run, {"on_existing": "new"}), (f"{run}-2", {})):
        again = make(run=asked, **options)
        again.load_state_dict(state)
        assert again.next_batch(2).draw_id == selector.batch_at(2, 2).draw_id
    third = make(on_existing="new")
    third.next_batch(0)
    assert third.course.run == f"{run}-3"
    with pytest.raises(ValueError, match="not of 'another'"):
        make(run="another").load_state_dict(state)


def test_a_rank_that_only_reports_comes_to_the_same_new_run(
    make: Make, client: PromptGPS, run: str
) -> None:
    train(make(), 1)
    draws = make(on_existing="new")
    reports = make(on_existing="new")
    for step in range(2):
        report(reports, draws.next_batch(step), step)
        assert reports.flush()
    assert client.run(f"{run}-2").log_position == 2 * BATCH
    assert reports.course == draws.course


def test_runs_of_others_are_not_taken(make: Make, client: PromptGPS, run: str) -> None:
    train(make(), 1)
    client.create_run(name=f"{run}-2", pool=run, seed=99)
    selector = make(on_existing="new")
    selector.next_batch(0)
    assert selector.course.run == f"{run}-3"


# ---- the service is away at first ----------------------------------------------------------------


@contextmanager
def gate(server: Server) -> Iterator[tuple[str, threading.Event]]:
    """An address that leads to the server only once the event is set."""
    opened = threading.Event()
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    target = ("127.0.0.1", int(server.url.rsplit(":", 1)[1]))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def relay(near: socket.socket) -> None:
        with near, socket.create_connection(target) as far:
            back = threading.Thread(target=pump, args=(far, near))
            back.start()
            pump(near, far)
            back.join()

    def serve() -> None:
        while not over.is_set():
            try:
                near, _ = listener.accept()
            except OSError:
                return
            if not opened.is_set():
                near.close()
                continue
            threading.Thread(target=relay, args=(near,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", opened
    finally:
        over.set()
        listener.close()


@pytest.mark.parametrize("on_existing", ["fail", "new"])
def test_a_relaunch_without_the_service_is_known_when_it_is_back(
    make: Make, client: PromptGPS, run: str, server: Server, on_existing: Any
) -> None:
    train(make(), 30)
    with gate(server) as (url, opened):
        again = make(service=url, deadline=0.2, on_existing=on_existing)
        for step in range(2):
            batch = again.next_batch(step)
            assert batch.source == "fallback"
            report(again, batch, step)
        opened.set()

        def met() -> bool:
            return again.next_batch(2).source != "fallback"

        if on_existing == "fail":
            with pytest.raises(ExistingRun):
                wait_for(met, 30.0, "the service", pause=0.4)
            # nothing of the new training is in the old run
            assert client.run(run).log_position == 30 * BATCH
        else:
            wait_for(met, 30.0, "the service", pause=0.4)
            assert again.flush()
            assert client.run(run).log_position == 30 * BATCH
            assert client.run(f"{run}-2").log_position == 2 * BATCH


def test_ranks_that_started_without_the_service_are_no_relaunch(
    make: Make, client: PromptGPS, run: str, server: Server
) -> None:
    with gate(server) as (url, opened):
        first, second = (make(service=url, deadline=0.2) for _ in range(2))
        for rank in (first, second):
            report(rank, rank.next_batch(0).part(0 if rank is first else 1, 2), 0)
        opened.set()
        steps = iter(range(1, 1000))
        wait_for(
            lambda: first.next_batch(next(steps)).source == "service",
            30.0,
            "the service",
            pause=0.1,
        )
        report(first, first.batch_at(first.state_dict()["sequence"] - 1))
        assert first.flush()
        assert client.run(run).progress.reported_draws > 0  # type: ignore[union-attr]
        later = iter(range(1, 1000))
        wait_for(
            lambda: second.next_batch(next(later)).source != "fallback",
            30.0,
            "the service",
            pause=0.1,
        )
        assert second.flush()
        assert client.run(run).log_position == 2 * BATCH

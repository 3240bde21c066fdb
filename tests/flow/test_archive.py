"""A run carried to another database goes on there as it would have gone on here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from promptgps_client.wire import PredictDifficulty, Restore, Run, TakeSnapshot
from promptgps_service.errors import Conflict, Invalid, NotFound
from promptgps_service.flow.archive_export import export_run
from promptgps_service.flow.archive_import import Imported, import_run
from promptgps_service.flow.context import Context
from promptgps_service.flow.metrics import run_metrics
from promptgps_service.flow.open_run import describe_run
from promptgps_service.flow.predict import predict_difficulty
from promptgps_service.flow.restore import restore_run
from promptgps_service.flow.snapshot import list_snapshots, take_snapshot
from safetensors.torch import load_file

from tests.databases import copied_file, opened_context, postgres_database
from tests.flow.driving import add, open_run, report_groups, select, settle, step
from tests.flow.test_restart import same_draws


@pytest.fixture(params=["sqlite", "postgresql"])
def other(
    request: pytest.FixtureRequest, tmp_path: Path, sqlite_template: Path, postgres_server: str
) -> Iterator[Context]:
    """Another service, on a database of its own."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            (tmp_path / "other").mkdir()
            url = copied_file(sqlite_template, tmp_path / "other")
        else:
            url = stack.enter_context(postgres_database(postgres_server))
        yield stack.enter_context(opened_context(url))


def live(context: Context) -> None:
    """A run with a past: two pools, one that grows, an open batch, a snapshot, a restore."""
    add(context, 30, pool="a", domains=["maths", None, "code"] * 10, prior=[None, (2.0, 8.0)] * 15)
    add(context, 20, pool="b")
    open_run(
        context,
        pools=[{"pool": "a", "weight": 2.0}, {"pool": "b", "weight": 1.0}],
        selection={"cooldown": 1},
    )
    for number in range(3):
        step(context, 6, sequence=number)
    take_snapshot(context, "run", TakeSnapshot(tag="three"))
    step(context, 6, sequence=3)
    restore_run(context, "run", Restore(tag="three"), None)
    add(context, 10, pool="a", first=30)
    step(context, 6, sequence=3)
    select(context, 6, sequence=4)
    settle(context)


def carried(context: Context, other: Context, folder: Path, name: str | None = None) -> Imported:
    export_run(context.store, "run", folder)
    return import_run(other.store, folder, name)


def described(context: Context, run: str) -> Run:
    """A run without the seconds since it was last heard of."""
    return describe_run(context, run).model_copy(update={"progress": None})


def told(context: Context, run: str = "run") -> list[Any]:
    metrics = run_metrics(context, run).model_dump()
    keys = [f"a-{number}" for number in range(40)]
    return [
        described(context, run),
        [entry.model_dump() for entry in list_snapshots(context, run).snapshots],
        metrics,
        predict_difficulty(context, PredictDifficulty(run=run, keys=keys)),
    ]


def test_it_goes_on_with_the_same_draws(context: Context, other: Context, tmp_path: Path) -> None:
    live(context)
    assert carried(context, other, tmp_path / "archive") == Imported(
        "run", 5, 24, same_draw_ids=True
    )
    assert told(other) == told(context)
    before = [select(each, 6, sequence=4) for each in (context, other)]
    assert before[0].replayed
    assert before[0] == before[1]
    for each in (context, other):
        report_groups(each, before[0])  # drawn there, reported here
    for number in range(5, 8):
        same_draws(step(context, 6, sequence=number), step(other, 6, sequence=number))
    again = [restore_run(each, "run", Restore(tag="three"), None) for each in (context, other)]
    assert again[0].superseded == again[1].superseded
    same_draws(step(context, 6, sequence=3), step(other, 6, sequence=3))


def test_a_run_that_started_from_another_brings_it_along(
    context: Context, other: Context, tmp_path: Path
) -> None:
    add(context, 30)
    open_run(context, name="first")
    report_groups(context, select(context, 20, run="first"))
    settle(context, "first")
    add(context, 20, pool="later")
    open_run(context, pool="later", warm_start_from="first")
    for _ in range(3):
        step(context, 4)
    settle(context)
    carried(context, other, tmp_path / "archive")
    assert described(other, "first") == described(context, "first")
    keys = [f"later-{number}" for number in range(20)]
    predicted = [
        predict_difficulty(each, PredictDifficulty(run="run", keys=keys))
        for each in (context, other)
    ]
    assert predicted[0] == predicted[1]
    open_run(context, name="third", pool="later", warm_start_from="run")
    export_run(context.store, "third", tmp_path / "third")
    import_run(other.store, tmp_path / "third")  # both that it comes from are there
    assert described(other, "third") == described(context, "third")


def test_beside_other_runs_it_draws_from_the_pools_that_are_there(
    context: Context, other: Context, tmp_path: Path
) -> None:
    live(context)
    add(other, 1, pool="own")
    open_run(other, name="own", pool="own")
    carried(context, other, tmp_path / "archive")
    copy = import_run(other.store, tmp_path / "archive", "copy")
    assert (copy.run, copy.same_draw_ids) == ("copy", False)
    assert described(other, "copy").model_copy(update={"name": "run"}) == described(other, "run")
    assert (
        select(other, 6, run="copy", sequence=9).draws.prompt
        == select(other, 6, sequence=9).draws.prompt
    )
    open_run(other, name="next", pool="own")  # ids that were given do not come again


def test_what_is_there_already_is_not_touched(
    context: Context, other: Context, tmp_path: Path
) -> None:
    live(context)
    add(other, 4, pool="b", first=1)
    with pytest.raises(Conflict, match="pool 'b' with other prompts"):
        carried(context, other, tmp_path / "archive")
    with pytest.raises(NotFound):
        other.desk("run")
    with other.store.read() as unit:
        assert [pool.name for pool in unit.pools.all()] == ["b"]  # all of it or nothing
    with pytest.raises(Conflict, match="there is a run 'run'"):
        import_run(context.store, tmp_path / "archive")
    with pytest.raises(Conflict, match="not empty"):
        export_run(context.store, "run", tmp_path / "archive")
    with pytest.raises(NotFound):
        export_run(context.store, "nobody", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_damaged_archive_is_refused_by_file_and_line(
    context: Context, other: Context, tmp_path: Path
) -> None:
    live(context)
    export_run(context.store, "run", tmp_path / "whole")

    def refused(change: Any) -> str:
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", folder)
        change(folder)
        with pytest.raises(Invalid) as refusal:
            import_run(other.store, folder)
        with other.store.read() as unit:
            assert unit.pools.all() == []
        return refusal.value.detail

    log = Path("runs/0/outcomes.jsonl")
    (first, *rest) = (tmp_path / "whole" / log).read_text().splitlines(keepends=True)
    less = "".join([first, *rest[:-1]])
    assert "has 23 lines, 24 were written" in refused(
        lambda folder: (folder / log).write_text(less)
    )
    assert "line 1: position 2 does not follow" in refused(
        lambda folder: (folder / log).write_text("".join(rest))
    )
    assert "outcomes.jsonl line 24" in refused(
        lambda folder: (folder / log).write_text(less + rest[-1][:20])
    )
    assert "outcomes.jsonl line 1: more: " in refused(
        lambda folder: (folder / log).write_text(json.dumps(json.loads(first) | {"more": 1}) + "\n")
    )
    assert "is missing" in refused(lambda folder: (folder / "runs/0/steps.jsonl").unlink())
    assert "not finished" in refused(lambda folder: (folder / "archive.json").unlink())
    model = next((tmp_path / "whole/runs/0").glob("*.safetensors")).name
    assert "model_versions.jsonl line" in refused(
        lambda folder: (folder / "runs/0" / model).unlink()
    )
    assert "pool_chunks.jsonl line 1" in refused(
        lambda folder: (folder / "pools/0/0.safetensors").write_bytes(b"x")
    )


def test_what_is_in_a_folder_can_be_read_without_promptgps(
    context: Context, tmp_path: Path
) -> None:
    live(context)
    export_run(context.store, "run", tmp_path / "archive")
    folder = tmp_path / "archive" / "runs" / "0"
    outcomes = [json.loads(line) for line in (folder / "outcomes.jsonl").read_text().splitlines()]
    assert [row["position"] for row in outcomes] == list(range(1, 25))
    selections = [
        json.loads(line) for line in (folder / "selections.jsonl").read_text().splitlines()
    ]
    assert all(len(row["rows"]) == len(row["predicted"]) == 6 for row in selections)
    newest = max(folder.glob("*.safetensors"), key=lambda file: int(file.stem))
    assert load_file(newest)
    prompts = (tmp_path / "archive/pools/0/prompts.jsonl").read_text().splitlines()
    assert json.loads(prompts[1])["prior_trials"] == 8.0

"""A damaged or tampered archive is refused before a row is written; what is let in works."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from promptgps_client.wire import PredictDifficulty, Restore, SendSubset
from promptgps_service.errors import Conflict, Invalid, PromptGPSError
from promptgps_service.flow import lifecycle
from promptgps_service.flow.archive_export import export_run
from promptgps_service.flow.archive_import import import_run
from promptgps_service.flow.context import Context
from promptgps_service.flow.open_run import describe_run, list_runs
from promptgps_service.flow.predict import predict_difficulty
from promptgps_service.flow.prompt_columns import PromptChunk
from promptgps_service.flow.register import add_prompts
from promptgps_service.flow.restore import restore_run
from promptgps_service.flow.snapshot import list_snapshots
from promptgps_service.flow.subsets import send_subset
from promptgps_service.flow.sweep import sweep
from promptgps_service.store.tables import metadata
from promptgps_service.store.unit import Store
from safetensors.numpy import load_file, save_file
from sqlalchemy import func, select

from tests.databases import copied_file, opened_context, opened_store
from tests.flow.driving import report, report_groups, settle, step
from tests.flow.driving import select as draw

OLD = Path(__file__).with_name("archive-0.1.0")
Tamper = Callable[[Path], None]


@pytest.fixture(scope="module")
def whole(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with something in every file."""
    place = tmp_path_factory.mktemp("whole")
    with opened_context(copied_file(sqlite_template, place)) as context:
        import_run(context.store, OLD)
        vectors = np.eye(4, dtype=np.float32)
        for keys in (["q0", "q1", "q2", "q3"], ["r0", "r1", "r2", "r3"]):
            add_prompts(context, "old", [PromptChunk(0, keys=keys, vectors=vectors)], "merge")
        for number in range(3, 5):
            step(context, 4, sequence=number)
        send_subset(context, "run", SendSubset(keys=["p1", "p3", "q0"]))
        batch = draw(context, 3, sequence=9)
        report(
            context, draw_id=batch.draws.draw_id[:1] * 2, rollout_index=[0, 3], reward=[1.0, 0.0]
        )
        settle(context)
        export_run(context.store, "run", place / "archive")
    return place / "archive"


def rows_in(store: Store) -> int:
    with store.read() as unit:
        return sum(
            unit.connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in metadata.sorted_tables
            if table.name not in ("events", "workers", "leases")
        )


def works(context: Context) -> None:
    """The run opens, predicts, draws and learns, and goes back to its snapshots."""
    with context.store.read() as unit:
        record = unit.runs.get("run")
    if record.state == "faulty":
        return  # it was when it was exported, and says so
    if record.state == "archived":
        lifecycle.reopen_run(context, "run", None)
    assert describe_run(context, "run").state == "open"
    predicted = predict_difficulty(context, PredictDifficulty(run="run", keys=["p0", "p5"]))
    assert np.isfinite(predicted.success_mean).all()
    report_groups(context, draw(context, 4))
    settle(context)
    standing = [
        each.tag for each in list_snapshots(context, "run").snapshots if not each.superseded
    ]
    for tag in reversed(standing):
        restore_run(context, "run", Restore(tag=tag), None)
        report_groups(context, draw(context, 4))
        settle(context)
    assert {run.state for run in list_runs(context).runs} == {"open"}


def put_away(context: Context) -> None:
    """Everything that came, for the next to come."""
    for run in reversed(list_runs(context).runs):  # `run` started from `first`
        lifecycle.delete_run(context, run.name, None, dry_run=False)
    with context.store.read() as unit:
        pools = unit.pools.all()
    for pool in pools:
        lifecycle.delete_pool(context, pool.name, None, dry_run=False)
    sweep(context.store, lambda _: True)
    assert rows_in(context.store) == 0


# ---- archives of version 0.1.0 -------------------------------------------------------------------


def test_a_run_that_version_0_1_0_exported_goes_on_here(context: Context) -> None:
    import_run(context.store, OLD)
    described = describe_run(context, "run")
    assert (described.selections, described.log_position, described.epoch) == (3, 13, 1)
    assert described.model_version == 4
    assert draw(context, 4, sequence=2).replayed
    works(context)


def test_an_archive_of_a_schema_that_is_not_known_is_refused(tmp_path: Path, store: Store) -> None:
    folder = changed(OLD, tmp_path, in_manifest("schema", value="0999"))
    with pytest.raises(Invalid, match="has schema 0999"):
        import_run(store, folder)


# ---- changes, each of which cannot be ------------------------------------------------------------


def changed(whole: Path, tmp_path: Path, change: Tamper) -> Path:
    folder = tmp_path / "changed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    change(folder)
    return folder


def in_manifest(*where: str | int, value: Any) -> Tamper:
    """Another value somewhere in archive.json."""

    def change(folder: Path) -> None:
        file = folder / "archive.json"
        manifest = json.loads(file.read_text())
        _set(manifest, where, value)
        file.write_text(json.dumps(manifest))

    return change


def in_run(*where: str | int, value: Any) -> Tamper:
    return in_manifest("runs", 0, "row", *where, value=value)


def in_pool(*where: str | int, value: Any) -> Tamper:
    return in_manifest("pools", 0, "row", *where, value=value)


def in_line(name: str, number: int, *where: str | int, value: Any) -> Tamper:
    """Another value in a line of a file; a function is given the one that is there."""

    def change(folder: Path) -> None:
        file = folder / f"{name}.jsonl"
        lines = file.read_text().splitlines()
        row = json.loads(lines[number])
        _set(row, where, value)
        lines[number] = json.dumps(row)
        file.write_text("".join(f"{line}\n" for line in lines))

    return change


def _set(inside: Any, where: tuple[str | int, ...], value: Any) -> None:
    for part in where[:-1]:
        inside = inside[part]
    last = where[-1]
    there = inside.get(last) if isinstance(inside, dict) else inside[last]
    inside[last] = value(there) if callable(value) else value


def again(name: str, number: int) -> Tamper:
    """A line twice, and counted so."""

    def change(folder: Path) -> None:
        file = folder / f"{name}.jsonl"
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join([*lines, lines[number]]))
        kind, place, table = name.split("/")
        in_manifest(kind, int(place), "lines", table, value=len(lines) + 1)(folder)

    return change


def in_arrays(file: str, name: str, change_array: Callable[[Any], Any]) -> Tamper:
    def change(folder: Path) -> None:
        arrays = load_file(folder / file)
        arrays[name] = np.ascontiguousarray(change_array(arrays[name].copy()))
        save_file(arrays, folder / file)

    return change


def in_model(folder: Path) -> None:
    """A tensor that is not finite, in a file that is whole otherwise."""
    file = max((folder / "runs/0").glob("*.safetensors"), key=lambda file: int(file.stem))
    body = bytearray(file.read_bytes())
    length = int.from_bytes(body[:8], "little")
    header = json.loads(body[8 : 8 + length])
    name, entry = next(
        (n, e) for n, e in header.items() if n != "__metadata__" and e["dtype"] in ("F32", "F64")
    )
    start = 8 + length + entry["data_offsets"][0]
    size = int(entry["dtype"][1:]) // 8
    body[start : start + size] = np.array(np.nan, f"<f{size}").tobytes()
    file.write_bytes(bytes(body))
    assert name


def write(file: str, content: str | bytes) -> Tamper:
    return lambda folder: (folder / file).write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )


def link(file: str, target: Path) -> Tamper:
    def change(folder: Path) -> None:
        (folder / file).unlink()
        os.symlink(target, folder / file)

    return change


def nudge(by: float) -> Callable[[Any], Any]:
    return lambda value: value + by


TAMPERED: dict[str, tuple[Tamper, str]] = {
    # heads and settings
    "a name with a way out": (in_run("name", value="../run"), r"archive.json: runs.0.row.name"),
    "a name of another alphabet": (in_pool("name", value="a/b"), r"archive.json: pools.0.row.name"),
    "an id that is text": (in_run("id", value="1"), r"archive.json: runs.0.row.id"),
    "a state that is none": (in_run("state", value="deleting"), r"archive.json: runs.0.row.state"),
    "a fault of an open run": (
        in_run("fault", value="x"),
        "fault is there where the state is `faulty`",
    ),
    "a strategy that is none": (
        in_run("settings", "selection", "strategy", value="x"),
        "selection.strategy",
    ),
    "a setting that is none": (in_run("settings", "selection", "more", value=1), "selection.more"),
    "a setting that is missing": (
        in_run("settings", "selection", "utility", value=None),
        "utility is missing",
    ),
    "a reward without a threshold": (
        in_run("settings", "reward", "kind", value="threshold"),
        "threshold",
    ),
    "too many rollouts": (
        in_run("settings", "rollouts_per_prompt", value=5_000),
        "rollouts_per_prompt",
    ),
    "a seed that is text": (in_run("settings", "seed", value="1"), "settings.seed"),
    "an infinity": (in_run("settings", "selection", "bonus", value=float("inf")), "."),
    "a predictor's parameter": (
        in_run("settings", "selection", "predictor_parameters", value={"nonsense": 1}),
        "predictor_parameters",
    ),
    "a domain that no prompt has": (
        in_run("settings", "selection", "domain_quotas", value={"nowhere": 1.0}),
        "no prompt has the domain 'nowhere'",
    ),
    "quotas from a draw to come": (in_run("settings", "quotas_from", value=10**6), "quotas_from"),
    "a pool that is not here": (
        in_run("settings", "pools", 0, "pool", value="other"),
        "pools are not those",
    ),
    "another source": (in_run("settings", "warm_start_from", value="nobody"), "runs are not those"),
    "what it was opened with": (in_run("request", "seed", value=-1), "settings.seed"),
    "a log that is longer": (in_run("log_position", value=nudge(1)), "outcomes.jsonl: .* lines"),
    "a log that is shorter": (
        in_run("log_position", value=nudge(-1)),
        "past the log|snapshot|lines",
    ),
    "draws that are not there": (in_run("draws", value=nudge(4)), "selections.jsonl: .* draws"),
    "selections that are not there": (in_run("selections", value=nudge(1)), "the ordinals are not"),
    "a version that is not there": (
        in_run("model_version", value=nudge(1)),
        "model_versions.jsonl: version",
    ),
    "learned past the log": (in_run("trained_through", value=10**6), "past the log"),
    "an epoch to come": (in_run("epoch", value=nudge(1)), "restores.jsonl"),
    "lines that were not written": (
        in_manifest("runs", 0, "lines", "steps", value=nudge(1)),
        "steps.jsonl has",
    ),
    "lines that are not told": (
        in_manifest("runs", 0, "lines", value={}),
        "the number of lines of",
    ),
    "two runs of one name": (in_manifest("runs", 1, "row", "name", value="run"), "one name twice"),
    "the embedding's kind": (in_pool("embedding", "kind", value="folder"), "embedding"),
    "a dimension that is not the embedding's": (
        in_pool("dimension", value=5),
        "dimension 5 is not",
    ),
    "no prompts": (in_pool("prompts", value=0), "prompts"),
    "prompts that are not there": (in_pool("prompts", value=nudge(1)), "prompts, the pool has"),
    "a frame past the pool": (in_pool("frame_rows", value=10**6), "frame_rows"),
    "deep nesting": (write("archive.json", '{"format": ' + "[" * 100_000), "archive.json"),
    "no JSON": (write("archive.json", b"\xff\xfe"), "archive.json"),
    # pools
    "a prompt in another place": (
        in_line("pools/0/prompts", 3, "position", value=7),
        "line 4: position 7",
    ),
    "an empty key": (in_line("pools/0/prompts", 3, "key", value=""), "line 4: key"),
    "a key that is a number": (in_line("pools/0/prompts", 3, "key", value=3), "line 4: key"),
    "a key with a NUL": (in_line("pools/0/prompts", 3, "key", value="a\0b"), "line 4: key"),
    "a key twice": (
        in_line("pools/0/prompts", 3, "key", value="p2"),
        "line 4: the key is there already|identity",
    ),
    "a digest that is none": (
        in_line("pools/0/prompts", 3, "digest", value="zz"),
        "line 4: digest",
    ),
    "another digest": (
        in_line("pools/0/prompts", 3, "digest", value="0" * 32),
        "identity is not that",
    ),
    "a text of another digest": (
        in_line("pools/0/prompts", 3, "text", value="a"),
        "digest is not that of the text",
    ),
    "more successes than trials": (
        in_line("pools/0/prompts", 3, "prior_successes", value=3.0),
        "3.0 of 2.0",
    ),
    "trials without an end": (
        in_line("pools/0/prompts", 3, "prior_trials", value=1e300),
        "line 4: prior_trials",
    ),
    "an alias of no prompt": (
        in_line("pools/0/prompt_aliases", 1, "position", value=999),
        "line 2: position 999",
    ),
    "an alias that is a key": (
        in_line("pools/0/prompt_aliases", 1, "key", value="p1"),
        "the key is there already",
    ),
    "a chunk with a way out": (
        in_line("pools/0/pool_chunks", 0, "start", value="../0"),
        "line 1: start",
    ),
    "a chunk in another place": (
        in_line("pools/0/pool_chunks", 1, "start", value=11),
        "line 2: prompts 11",
    ),
    "a chunk without an end": (
        in_line("pools/0/pool_chunks", 1, "size", value=2**30),
        "line 2: prompts 12",
    ),
    "vectors that are not finite": (
        in_arrays("pools/0/0.safetensors", "embedding", lambda a: a * np.nan),
        "line 1: embedding is not finite",
    ),
    "vectors of another length": (
        in_arrays("pools/0/0.safetensors", "embedding", lambda a: a * 2),
        "embedding 0 has length 2",
    ),
    "vectors of another shape": (
        in_arrays("pools/0/0.safetensors", "embedding", lambda a: a[:, :2]),
        r"embedding has shape \(12, 2\)",
    ),
    "vectors of another type": (
        in_arrays("pools/0/0.safetensors", "embedding", lambda a: a.astype(np.float64)),
        "of type float64",
    ),
    "surfaces of another shape": (
        in_arrays("pools/0/0.safetensors", "surface", lambda a: np.zeros((12, 7), np.float32)),
        "surface has shape",
    ),
    "identities of others": (
        in_arrays("pools/0/0.safetensors", "identity", lambda a: a[::-1]),
        "identity is not that of the prompts",
    ),
    "no arrays": (write("pools/0/0.safetensors", b"x"), "pool_chunks.jsonl line 1"),
    "arrays without an end": (write("pools/0/0.safetensors", bytes(2**22)), "over .* bytes"),
    # runs
    "a segment of another pool": (
        in_line("runs/0/run_segments", 0, "pool_id", value=77),
        "pool_id 77",
    ),
    "a segment with a gap": (
        in_line("runs/0/run_segments", 1, "offset", value=14),
        "line 2: offset 14",
    ),
    "a segment past the pool": (
        in_line("runs/0/run_segments", 0, "size", value=2**29),
        "ends past",
    ),
    "a segment from elsewhere": (
        in_line("runs/0/run_segments", 0, "start", value=1),
        "line 1: start 1",
    ),
    "an ordinal twice": (
        in_line("runs/0/selections", 1, "ordinal", value=0),
        "the ordinals are not",
    ),
    "a sequence twice": (
        in_line("runs/0/selections", 1, "sequence", value=0),
        "line 2: sequence 0",
    ),
    "a first draw elsewhere": (
        in_line("runs/0/selections", 1, "first_draw", value=5),
        "first_draw does not follow",
    ),
    "a size of another": (in_line("runs/0/selections", 1, "size", value=3), "rows has 4 entries"),
    "a row past the run": (
        in_line("runs/0/selections", 1, "rows", 0, value=999),
        "line 2: row 999",
    ),
    "a row below zero": (in_line("runs/0/selections", 1, "rows", 0, value=-1), "line 2: rows.0"),
    "a row twice": (
        in_line("runs/0/selections", 1, "rows", value=lambda r: [r[0], *r[:-1]]),
        "drawn twice",
    ),
    "a prediction that is none": (
        in_line("runs/0/selections", 1, "predicted", 0, value=float("nan")),
        "line 2",
    ),
    "a selection of an epoch to come": (
        in_line("runs/0/selections", 1, "epoch", value=9),
        "epoch 9",
    ),
    "a draw of a model to come": (
        in_line("runs/0/selections", 1, "model_version", value=999),
        "past the run's",
    ),
    "a line of the log twice": (again("runs/0/outcomes", 0), "position 1 does not follow"),
    "a position that is missing": (
        in_line("runs/0/outcomes", 2, "position", value=9),
        "line 3: position 9",
    ),
    "an outcome of no draw": (
        in_line("runs/0/outcomes", 2, "draw", value=10**6),
        "draw 1000000 is not",
    ),
    "an outcome of another row": (
        in_line("runs/0/outcomes", 2, "row", value=nudge(1)),
        "is not that of draw",
    ),
    "an outcome told twice": (
        in_line("runs/0/outcomes", 1, "draw", value=0),
        "is not that of draw|parts of a rollout",
    ),
    "a part without its first": (
        in_line("runs/0/outcomes", 2, "part", value=1),
        "parts of a rollout",
    ),
    "a rollout of none": (
        in_line("runs/0/outcomes", 2, "rollout", value=99),
        "line 3: successes 2 of 8",
    ),
    "successes past the trials": (
        in_line("runs/0/outcomes", 2, "successes", value=99.0),
        "99 of 8 trials",
    ),
    "successes below zero": (
        in_line("runs/0/outcomes", 2, "successes", value=-1.0),
        "line 3: successes",
    ),
    "a status that is none": (in_line("runs/0/outcomes", 2, "status", value=9), "line 3: status"),
    "a column that is missing": (
        in_line("runs/0/outcomes", 2, "part", value=None),
        "line 3: part",
    ),
    "a line without an end": (
        write("runs/0/outcomes.jsonl", "x" * (33 * 2**20)),
        "line 1 is over 32 MB",
    ),
    "a subset of other rows": (
        in_line("runs/0/run_subsets", 0, "rows", 0, value=0),
        "id is not that|ascending",
    ),
    "a subset that goes down": (
        in_line("runs/0/run_subsets", 0, "rows", value=lambda r: r[::-1]),
        "ascending",
    ),
    "an answer that is none": (
        in_line("runs/0/receipts", 0, "answer", value={"stored": "x"}),
        "receipts.jsonl line 1",
    ),
    "a version with a way out": (
        in_line("runs/0/model_versions", 0, "version", value="../../x"),
        "line 1: version",
    ),
    "a version twice": (
        in_line("runs/0/model_versions", 1, "version", value=0),
        "line 2: version 0",
    ),
    "a version that learned the future": (
        in_line("runs/0/model_versions", 1, "trained_through", value=10**6),
        "line 2: trained_through",
    ),
    "a predictor that is none": (
        in_line("runs/0/model_versions", 1, "predictor", value="x"),
        "line 2: predictor",
    ),
    "a model that is not finite": (in_model, "is not finite"),
    "what it started from is damaged": (
        in_line("runs/0/model_versions", 0, "damaged", value=True),
        "damaged",
    ),
    "a metric that is none": (
        in_line("runs/0/steps", 0, "metrics", "rollouts", value=float("inf")),
        "line 1",
    ),
    "a step to come": (in_line("runs/0/steps", 0, "version", value=10**6), "line 1: version"),
    "a snapshot past the log": (
        in_line("runs/0/snapshots", 0, "log_position", value=10**6),
        "line 1: log_position",
    ),
    "a snapshot of other draws": (
        in_line("runs/0/snapshots", 0, "draws", value=nudge(1)),
        "other draws",
    ),
    "a snapshot of a model that is gone": (
        in_line("runs/0/snapshots", 0, "model_version", value=1),
        "version 1, that of 'two', is missing",
    ),
    "a snapshot of a longer log": (
        in_line("runs/0/snapshots", 0, "log_position", value=nudge(2)),
        "tells of draws|trained_through|past",
    ),
    "a snapshot's settings": (
        in_line("runs/0/snapshots", 0, "settings", "seed", value=99),
        "another seed",
    ),
    "a snapshot twice": (again("runs/0/snapshots", 0), "is there already"),
    "a restore to come": (in_line("runs/0/restores", 0, "epoch", value=2), "line 1: epoch 2"),
    "a superseded line twice": (again("runs/0/superseded_outcomes", 0), "is there already"),
    "superseded in an epoch to come": (
        in_line("runs/0/superseded_selections", 0, "superseded_in", value=2),
        "superseded_in 2",
    ),
    "a file that leads out": (
        link("runs/0/outcomes.jsonl", Path("/etc/hostname")),
        "leads out of the archive",
    ),
    "arrays that lead out": (
        link("pools/0/0.safetensors", Path("/etc/hostname")),
        "leads out of the archive",
    ),
    "a file without an end": (link("runs/0/outcomes.jsonl", Path("/dev/zero")), "is missing"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_cannot_be_is_refused_by_name_before_a_row_is_written(
    what: str, whole: Path, tmp_path: Path, sqlite_template: Path
) -> None:
    change, told = TAMPERED[what]
    folder = changed(whole, tmp_path, change)
    with opened_store(copied_file(sqlite_template, tmp_path)) as store:
        with store.read() as unit:
            before = unit.connection.exec_driver_sql("PRAGMA data_version").scalar_one()
        with pytest.raises(Invalid, match=told) as refusal:
            import_run(store, folder)
        with store.read() as unit:
            assert unit.connection.exec_driver_sql("PRAGMA data_version").scalar_one() == before
        assert rows_in(store) == 0
    assert str(folder) in refusal.value.detail


def test_what_a_run_started_from_must_be_what_is_here(
    whole: Path, tmp_path: Path, context: Context
) -> None:
    import_run(context.store, whole, "once")
    lifecycle.delete_run(context, "once", None, dry_run=False)
    folder = changed(whole, tmp_path, in_manifest("runs", 1, "row", "settings", "seed", value=12))
    in_manifest("runs", 1, "row", "request", "seed", value=12)(folder)
    with pytest.raises(Conflict, match="another run 'first'"):
        import_run(context.store, folder)
    import_run(context.store, whole)
    works(context)


def test_an_import_that_breaks_off_leaves_nothing_and_others_do_not_notice(
    context: Context, whole: Path
) -> None:
    import_run(context.store, whole, "there")
    before = rows_in(context.store)
    events = len(_events(context))
    seen: list[list[str]] = []

    def trial(store: Store, *_: object) -> None:
        seen.append([run.name for run in list_runs(context).runs])
        draw(context, 2, run="there")  # all but the last word of the import is written
        raise Invalid("no")

    with pytest.raises(Invalid, match="no"):
        import_run(context.store, whole, "new", trial=trial)
    assert seen == [["first", "there"]]
    sweep(context.store, lambda _: True)
    assert rows_in(context.store) == before + 1
    assert len(_events(context)) == events


def test_what_a_killed_import_has_left_is_taken_away(
    database_url: str, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened_store(database_url) as store:
        monkeypatch.setattr(
            "promptgps_service.flow.archive_import._Arrival.abandon", lambda self: None
        )

        def killed(*_: object) -> None:
            raise Invalid("killed")

        with pytest.raises(Invalid, match="killed"):
            import_run(store, whole, trial=killed)
        assert rows_in(store) > 50
    with opened_context(database_url) as context:
        assert list_runs(context).runs == []
        sweep(context.store, lambda _: True)
        assert rows_in(context.store) == 0
        monkeypatch.undo()
        import_run(context.store, whole)
        works(context)


def test_an_import_that_was_taken_for_dead_does_not_go_on(store: Store, whole: Path) -> None:
    def trial(store: Store, *_: object) -> None:
        with store.write() as unit:
            for run_id in (1, 2):
                unit.leases.release(run_id)
        sweep(store, lambda _: True)

    with pytest.raises(PromptGPSError, match="taken for dead"):
        import_run(store, whole, trial=trial)
    sweep(store, lambda _: True)
    assert rows_in(store) == 0


def test_a_pool_that_an_import_draws_from_is_not_deleted_meanwhile(
    context: Context, whole: Path
) -> None:
    import_run(context.store, whole, "there")
    lifecycle.delete_run(context, "there", None, dry_run=False)
    lifecycle.delete_run(context, "first", None, dry_run=False)
    told: list[str] = []

    def trial(*_: object) -> None:
        with pytest.raises(Conflict) as refusal:
            lifecycle.delete_pool(context, "old", None, dry_run=False)
        told.append(refusal.value.detail)

    import_run(context.store, whole, trial=trial)
    assert "being imported" in told[0]
    works(context)


def test_an_import_leaves_events_with_the_name_of_the_key(context: Context, whole: Path) -> None:
    import_run(context.store, whole, "new", by="alice")
    told = [(event.action, event.run or event.pool, event.key) for event in _events(context)]
    assert told == [
        ("run-imported", "first", "alice"),
        ("run-imported", "new", "alice"),
        ("pool-imported", "old", "alice"),
    ]


def test_states_and_aliases_and_subsets_travel(
    context: Context, whole: Path, tmp_path: Path
) -> None:
    import_run(context.store, whole)
    assert predict_difficulty(context, PredictDifficulty(run="run", keys=["r1"])).success_mean
    subset = send_subset(context, "run", SendSubset(keys=["q0", "p1", "p3"])).subset
    assert set(draw(context, 3, subset=subset).draws.prompt) == {"p1", "p3", "q0"}
    lifecycle.archive_run(context, "run", None)
    export_run(context.store, "run", tmp_path / "again")
    lifecycle.delete_run(context, "run", None, dry_run=False)
    import_run(context.store, tmp_path / "again")
    assert describe_run(context, "run").state == "archived"
    works(context)


def _events(context: Context) -> list[Any]:
    with context.store.read() as unit:
        return unit.events.page()


# ---- anything changed at random ------------------------------------------------------------------

WORDS = st.sampled_from([
    None, True, False, -1, 0, 1, 2, 3, 7, 8, 255, 2**31 - 1, 2**31, 2**53 - 1, 2**53, 10**30,
    -0.0, 0.5, 1e-300, 1e300, "", "x", "a" * 600, "../../etc", "\u0000",
    "open", "archived", "faulty", [], {}, [1], {"a": 1},
])  # fmt: skip


def _leaves(value: Any, where: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for name, each in inside:
        yield from _leaves(each, (*where, name))
        yield (*where, name)


def tamper_at_random(folder: Path, data: st.DataObject) -> str:
    """Change something; answers what."""
    file = data.draw(
        st.sampled_from(sorted(f for f in folder.rglob("*") if f.is_file() and f.stat().st_size))
    )
    name = str(file.relative_to(folder))
    kind = random.Random(data.draw(st.integers(0, 2**32)))
    if file.suffix == ".safetensors":
        body = bytearray(file.read_bytes())
        place = kind.randrange(len(body))
        body[place] = kind.randrange(256)
        file.write_bytes(bytes(body))
        return f"{name} at {place}"
    if file.suffix == ".json":
        manifest = json.loads(file.read_text())
        where = kind.choice(list(_leaves(manifest)))
        _set(manifest, where, data.draw(WORDS))
        file.write_text(json.dumps(manifest))
        return f"{name} {where}"
    lines = file.read_text().splitlines()
    number = kind.randrange(len(lines))
    how = kind.choice(["value", "value", "value", "other's", "missing", "swapped"])
    row = json.loads(lines[number])
    where = kind.choice(list(_leaves(row)))
    if how == "value":
        _set(row, where, data.draw(WORDS))
    elif how == "other's":
        row[where[0]] = json.loads(kind.choice(lines))[where[0]]
    elif how == "missing":
        del row[where[0]]
    lines[number] = json.dumps(row)
    if how == "swapped":
        lines[0], lines[number] = lines[number], lines[0]
    file.write_text("".join(f"{line}\n" for line in lines))
    return f"{name} line {number + 1} {how} {where}"


@settings(
    max_examples=int(os.environ.get("PROMPTGPS_TEST_TAMPERINGS", "25")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_whatever_is_changed_is_refused_or_works(
    data: st.DataObject, context: Context, whole: Path, tmp_path: Path
) -> None:
    what: list[str] = []
    folder = changed(whole, tmp_path, lambda folder: what.append(tamper_at_random(folder, data)))
    try:
        import_run(context.store, folder, "run")
    except (Invalid, Conflict):
        assert list_runs(context).runs == []
    else:
        works(context)
    finally:
        put_away(context)
    assert what

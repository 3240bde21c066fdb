"""A database that version 0.1.0 has made is upgraded, and everything in it goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from promptgps_client.wire import PredictDifficulty, Restore
from promptgps_service.errors import Conflict
from promptgps_service.flow.context import Context
from promptgps_service.flow.open_run import describe_run
from promptgps_service.flow.predict import predict_difficulty
from promptgps_service.flow.prompt_columns import PromptChunk
from promptgps_service.flow.register import add_prompts, describe_pool
from promptgps_service.flow.restore import restore_run
from promptgps_service.store.engine import make_engine
from promptgps_service.store.migrate import downgrade, upgrade
from sqlalchemy import Engine, MetaData, func, insert, text
from sqlalchemy import select as select_rows

from tests.databases import opened_context, postgres_database
from tests.flow.driving import log_length, report, select, settle
from tests.migrations.make_data import BATCH, KEYED, vectors

DATA = Path(__file__).parent / "data"
REVISION = "0004"


@pytest.fixture(params=("sqlite", "postgresql"))
def upgraded_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The database that version 0.1.0 has made, brought up to date."""
    file = tmp_path / "old.db"
    shutil.copyfile(DATA / "version_0_1_0.db", file)
    old = make_engine(f"sqlite:///{file}")
    if request.param == "sqlite":
        upgrade(old)
        old.dispose()
        yield f"sqlite:///{file}"
        return
    with postgres_database(request.getfixturevalue("postgres_server")) as url:
        new = make_engine(url)
        downgrade(new, REVISION)
        copy_rows(old, new)
        upgrade(new)
        old.dispose()
        new.dispose()
        yield url


def copy_rows(source: Engine, target: Engine) -> None:
    """Every row of every table, from SQLite to PostgreSQL."""
    tables = MetaData()
    theirs = MetaData()
    tables.reflect(target)
    theirs.reflect(source)
    with source.connect() as reader, target.begin() as writer:
        for table in tables.sorted_tables:
            rows = [
                dict(row)
                for row in reader.execute(select_rows(theirs.tables[table.name])).mappings()
            ]
            if rows and table.name != "alembic_version":
                writer.execute(insert(table), rows)
        for name in ("pools", "runs", "snapshots"):
            newest = select_rows(func.max(tables.tables[name].c.id)).scalar_subquery()
            writer.execute(select_rows(func.setval(text(f"'{name}_id_seq'"), newest)))


@pytest.fixture
def old(upgraded_url: str) -> Iterator[Context]:
    """A process of this version on it."""
    with opened_context(upgraded_url) as opened:
        yield opened


@pytest.fixture
def said() -> dict[str, Any]:
    """What version 0.1.0 answered."""
    answers: dict[str, Any] = json.loads((DATA / "version_0_1_0.json").read_text())
    return answers


@pytest.mark.parametrize("run", ["learned", "waiting"])
def test_old_sequences_are_answered_as_they_were(
    old: Context, said: dict[str, Any], run: str
) -> None:
    for sequence, draws in said[run].items():
        number = int(sequence)
        batch = select(old, BATCH, run=run, sequence=number, policy_version=number)
        assert batch.replayed
        answered = batch.draws.model_dump()
        assert {name: answered[name] for name in draws} == draws
        assert batch.draws.pool is not None


def test_the_run_and_its_predictions_are_what_they_were(old: Context, said: dict[str, Any]) -> None:
    described = describe_run(old, "learned").model_dump()
    told = (
        "selections",
        "draws",
        "log_position",
        "trained_through",
        "model_version",
        "epoch",
        "prompts",
        "seed",
    )
    assert {name: described[name] for name in told} == {
        name: said["described"][name] for name in told
    }
    asked = PredictDifficulty(run="learned", keys=["0", "3", "grown-1"])
    assert predict_difficulty(old, asked).success_mean == pytest.approx(said["predicted"], rel=1e-4)


def test_old_draws_can_be_reported_and_the_run_goes_on(old: Context, said: dict[str, Any]) -> None:
    before = describe_run(old, "learned")
    draws = said["learned"]["3"]["draw_id"]
    late = report(old, run="learned", draw_id=draws[-1:], successes=[3], trials=[8])
    assert (late.stored, late.log_position) == (1, before.log_position + 1)
    again = report(old, run="learned", draw_id=draws[:2], successes=[3, 4], trials=[8, 8])
    assert (again.stored, again.duplicates) == (0, 2)
    gone = report(
        old, run="learned", draw_id=said["superseded"], successes=[1] * BATCH, trials=[8] * BATCH
    )
    assert (gone.stored, gone.superseded) == (0, BATCH)

    batch = select(old, BATCH, run="learned", sequence=4, policy_version=4, wait_seconds=30.0)
    assert not batch.replayed
    report(
        old, run="learned", draw_id=batch.draws.draw_id, successes=[4] * BATCH, trials=[8] * BATCH
    )
    assert settle(old, "learned").trained_through == late.log_position + BATCH


def test_a_log_that_nobody_had_learned_is_learned(old: Context) -> None:
    assert settle(old, "waiting").trained_through == 10
    batch = select(old, BATCH, run="waiting", sequence=2)
    assert batch.draws.pool is not None
    assert sorted(batch.draws.pool) == ["hashed"] * 3 + ["texts"] * 3
    asked = PredictDifficulty(run="waiting", keys=["text-3"])
    assert 0.0 < predict_difficulty(old, asked).success_mean[0] < 1.0


def test_an_old_snapshot_is_gone_back_to(old: Context, said: dict[str, Any]) -> None:
    answer = restore_run(old, "learned", Restore(tag="second"), None)
    assert (answer.selections, answer.epoch) == (2, 2)
    batch = select(old, BATCH, run="learned", sequence=1, policy_version=1)
    assert batch.draws.prompt == said["learned"]["1"]["prompt"]
    report(old, run="learned", prompt=["grown-0"], successes=[2], trials=[8])
    assert settle(old, "learned").trained_through == answer.log_position + 1


def test_imports_go_on(old: Context) -> None:
    texts = [f"What is {number} + {number * 7}?" for number in range(20)]
    assert add_prompts(old, "texts", [PromptChunk(0, keys=KEYED, texts=texts)]).duplicates == 20
    with pytest.raises(Conflict):
        add_prompts(old, "texts", [PromptChunk(0, keys=["text-1"], texts=["another"])])
    assert add_prompts(old, "texts", [PromptChunk(0, keys=["twin"], texts=texts[:1])]).added == 1
    assert (
        add_prompts(
            old, "texts", [PromptChunk(0, keys=["name"], texts=texts[1:2])], "merge"
        ).aliases
        == 1
    )
    hashed = [f"Solve x + {number} = 12." for number in range(13)]
    found = add_prompts(old, "hashed", [PromptChunk(0, texts=hashed)])
    assert (found.added, found.duplicates) == (1, 12)

    keys = [str(number) for number in range(20)]
    assert (
        add_prompts(old, "vectors", [PromptChunk(0, keys=keys, vectors=vectors(0, 20))]).duplicates
        == 20
    )
    with pytest.raises(Conflict):
        add_prompts(old, "vectors", [PromptChunk(0, keys=["3"], vectors=vectors(4, 1))])
    assert (
        add_prompts(old, "vectors", [PromptChunk(0, keys=["new"], vectors=vectors(300, 1))]).added
        == 1
    )
    assert describe_pool(old, "vectors").prompts == 23

    asked = PredictDifficulty(run="waiting", keys=["twin", "name", "text-1"])
    told = predict_difficulty(old, asked).success_mean
    assert told[1] == told[2]
    report(old, run="waiting", prompt=["twin", "name"], successes=[1, 2], trials=[2, 2])
    report(old, run="learned", prompt=["new"], successes=[1], trials=[2])
    for run in ("waiting", "learned"):
        assert settle(old, run).trained_through == log_length(old, run)

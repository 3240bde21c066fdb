"""The sampler in a real `DataLoader`, against a real service, and the example that uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from promptgps_client import ExistingRun, Selector
from promptgps_client.adapters.seam import DRAW_ID
from promptgps_client.adapters.torch import DrawnRows, DrawSampler
from torch.utils.data import DataLoader

from tests.adapters.processes import ROOT, program
from tests.adapters.sums import KEYS, TEXTS, Run
from tests.adapters.trl.told import number

ROWS = [{"key": key, "text": text} for key, text in zip(KEYS, TEXTS, strict=True)]


def selector_of(run: Run, spool: Path, **settings: Any) -> Selector:
    return Selector(
        run.server.url, run=run.name, batch_size=8, prompts=KEYS, spool=spool, **settings
    )


def batches(
    selector: Selector, count: int, first: int = 0, workers: int = 0, **part: int
) -> list[dict[str, Any]]:
    """The first batches of a loader, each reported with rewards that its draws' numbers tell."""
    sampler = DrawSampler(selector, first, **part)
    loader = DataLoader(DrawnRows(ROWS), batch_sampler=sampler, num_workers=workers)
    read = []
    for step, batch in zip(range(first, first + count), loader, strict=False):
        successes = [number(draw_id) % 5 for draw_id in batch[DRAW_ID]]
        selector.report(
            batch[DRAW_ID], successes=successes, trials=batch["rollouts"], policy_version=step
        )
        read.append(batch)
    assert selector.flush()
    return read


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_the_rows_of_the_draws(run: Run, tmp_path: Path, workers: int) -> None:
    with selector_of(run, tmp_path) as selector:
        read = batches(selector, 4, workers=workers)
    drawn = {
        number(draw_id): key
        for batch in read
        for draw_id, key in zip(batch[DRAW_ID], batch["key"], strict=True)
    }
    assert sorted(drawn) == list(range(32))
    texts = dict(zip(KEYS, TEXTS, strict=True))
    assert [text for batch in read for text in batch["text"]] == [
        texts[key] for batch in read for key in batch["key"]
    ]
    outcomes = run.outcomes()
    assert {row["draw"]: KEYS[row["row"]] for row in outcomes} == drawn
    assert {row["draw"]: row["successes"] for row in outcomes} == {draw: draw % 5 for draw in drawn}
    assert {row["policy_version"] for row in outcomes} == {0, 1, 2, 3}


def test_a_loader_goes_on_where_a_checkpoint_was_made(run: Run, tmp_path: Path) -> None:
    with selector_of(run, tmp_path) as selector:
        read = batches(selector, 3)
        state = selector.state_dict()
    with selector_of(run, tmp_path) as selector:
        selector.load_state_dict(state)
        again = batches(selector, 3, first=1)
    assert [batch[DRAW_ID] for batch in again[:2]] == [batch[DRAW_ID] for batch in read[1:]]
    assert set(again[2][DRAW_ID]).isdisjoint(
        draw_id for batch in read for draw_id in batch[DRAW_ID]
    )


def test_the_ranks_parts_make_the_whole(run: Run, tmp_path: Path) -> None:
    ranks = [selector_of(run, tmp_path / str(rank)) for rank in range(3)]
    parts = [batches(selector, 2, rank=rank, world_size=3) for rank, selector in enumerate(ranks)]
    drawn = [
        number(draw_id) for step in range(2) for part in parts for draw_id in part[step][DRAW_ID]
    ]
    assert drawn == list(range(16))
    assert len(run.outcomes()) == 16
    for selector in ranks:
        selector.close()


def test_a_loader_that_begins_anew_is_stopped_or_does_what_is_said(
    run: Run, tmp_path: Path
) -> None:
    with selector_of(run, tmp_path) as selector:
        old = {draw_id for batch in batches(selector, 2) for draw_id in batch[DRAW_ID]}
    with selector_of(run, tmp_path) as selector, pytest.raises(ExistingRun):
        batches(selector, 2)
    for on_existing, name in (("resume", run.name), ("new", f"{run.name}-2")):
        ranks = [
            selector_of(run, tmp_path / str(rank), on_existing=on_existing) for rank in range(2)
        ]
        parts = [
            batches(selector, 2, rank=rank, world_size=2) for rank, selector in enumerate(ranks)
        ]
        drawn = [draw_id for part in parts for batch in part for draw_id in batch[DRAW_ID]]
        assert len(set(drawn)) == len(drawn) == 16
        assert old.isdisjoint(drawn)
        assert {selector.course.run for selector in ranks} == {name}
        for selector in ranks:
            selector.close()
    assert len(run.outcomes()) == 32


def test_the_example_and_its_going_on(run: Run, tmp_path: Path) -> None:
    example = str(ROOT / "examples/pytorch_loop.py")
    told = program(example, folder=tmp_path, PROMPTGPS_URL=run.server.url)
    assert told.count("solved") == 4
    assert run.client.run("pytorch-example").log_position == 40 * 16
    assert program(example, folder=tmp_path, PROMPTGPS_URL=run.server.url) == ""
    assert run.client.run("pytorch-example").log_position == 40 * 16

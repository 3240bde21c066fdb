"""Trainings started again under the name of a run that is there; data sets as people have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from promptgps_client import ExistingRun, OutcomesRefused
from promptgps_client.adapters.trl import PromptSelection

from tests.adapters.processes import program
from tests.adapters.sums import KEYS, TEXTS, Run
from tests.adapters.trl.told import number
from tests.adapters.trl.training import DATASET, Trace, config, even, read, trainer

TRAINING = Path(__file__).with_name("training.py")


def trained(
    run: Run, folder: Path, *, resume: bool = False, settings: Any = None, **options: Any
) -> list[Any]:
    """Train, and answer what the trainer handed to the rewards."""
    args = config(folder, **options)
    selection = PromptSelection(
        DATASET, args, run=run.name, service=run.server.url, wait_seconds=1.0, **settings or {}
    )
    trace = folder / "trace"
    before = len(read(trace)) if trace.exists() else 0
    made = trainer(args, selection, [selection.reported(even), Trace(trace, {})])
    made.train(resume_from_checkpoint=resume)
    return read(trace)[before:]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same output", "another output"])
def test_a_relaunch_is_stopped(run: Run, tmp_path: Path, elsewhere: bool) -> None:
    trained(run, tmp_path, max_steps=3)
    before = len(run.outcomes())
    folder = tmp_path / "again" if elsewhere else tmp_path
    folder.mkdir(exist_ok=True)
    with pytest.raises(ExistingRun, match=r"has been trained on before.*step-2"):
        trained(run, folder, max_steps=3, seed=7)
    assert len(run.outcomes()) == before


def test_all_ranks_are_stopped(run: Run, tmp_path: Path) -> None:
    trained(run, tmp_path, max_steps=2)
    options = {"max_steps": 2, "per_device_train_batch_size": 3}
    folder = tmp_path / "ranks"
    folder.mkdir()
    told = {
        "folder": str(folder),
        "run": run.name,
        "service": run.server.url,
        "resume": False,
        "kill": {},
    }
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    with pytest.raises(AssertionError, match="ExistingRun"):
        program(*launcher, str(TRAINING), json.dumps(told | {"options": options}), folder=folder)


def test_anew_it_is_another_run_that_its_own_checkpoints_go_back_to(
    run: Run, tmp_path: Path
) -> None:
    anew = {"on_existing": "new"}
    old = trained(run, tmp_path, max_steps=2)
    folder = tmp_path / "new"
    folder.mkdir()
    first = trained(run, folder, max_steps=4, settings=anew)
    second = Run(f"{run.name}-2", run.server, run.client, run.database)
    assert len(run.outcomes()) == 2 * 8
    assert len(second.outcomes()) == 4 * 8
    # from its checkpoint, and with the setting still there, it goes on in the same run
    again = trained(run, folder, resume=True, max_steps=6, settings=anew)
    assert [line["step"] for line in again] == [4, 5]
    assert len(second.outcomes()) == 6 * 8
    drawn = {number(draw_id) for line in first + again for draw_id in line["draw_id"]}
    assert {row["draw"] for row in second.outcomes()} == drawn
    assert len(run.outcomes()) == len(old) * 8
    assert f"{run.name}-3" not in {one.name for one in run.client.runs().runs}


def test_resumed_without_a_checkpoint_it_goes_on_behind_the_old_draws(
    run: Run, tmp_path: Path
) -> None:
    old = trained(run, tmp_path, max_steps=3)
    folder = tmp_path / "again"
    folder.mkdir()
    new = trained(run, folder, max_steps=3, settings={"on_existing": "resume"})
    ids = [{draw_id for line in lines for draw_id in line["draw_id"]} for lines in (old, new)]
    assert not ids[0] & ids[1]
    outcomes = run.outcomes()
    assert len(outcomes) == 6 * 8
    versions = [row["policy_version"] for row in outcomes]
    assert versions == sorted(versions)
    assert min(versions[24:]) > max(versions[:24])  # the newest are the newest
    # its checkpoints are not the old training's, though they are of the same steps
    tags = [mark.tag for mark in run.client.snapshots(run.name).snapshots]
    assert [tag for tag in tags if tag.endswith("step-2")] == [
        "step-2",
        next(tag for tag in tags if "-step-2" in tag),
    ]
    more = trained(run, folder, resume=True, max_steps=5, settings={"on_existing": "resume"})
    assert [line["step"] for line in more] == [3, 4]
    assert len(run.outcomes()) == 8 * 8


def test_rewards_that_the_run_does_not_take_stop_the_training(run: Run, tmp_path: Path) -> None:
    def shaped(completions: list[str], **_: Any) -> list[float]:
        return [0.25 for _ in completions]

    args = config(tmp_path, max_steps=6, save_strategy="no")
    selection = PromptSelection(DATASET, args, run=run.name, service=run.server.url)
    with pytest.raises(OutcomesRefused, match=r"0\.25 is"):
        trainer(args, selection, [selection.reported(shaped)]).train()
    assert run.outcomes() == []


def test_whole_number_keys_in_a_field_and_pools(run: Run, tmp_path: Path) -> None:
    for pool in ("one", "two"):
        run.client.create_pool(f"{run.name}-{pool}")
        texts = [f"{pool}: {text}" for text in TEXTS[:8]]
        run.client.add_prompts(f"{run.name}-{pool}", keys=range(8), texts=texts)
    pools = [{"pool": f"{run.name}-{pool}"} for pool in ("one", "two")]
    run.client.create_run(name=f"{run.name}-pools", pools=pools, rollouts_per_prompt=4)
    dataset = Dataset.from_list(
        [
            {
                "prompt": f"{row}+{half}=",
                "info": {"index": row},
                "pool": f"{run.name}-{pool}",
                "key": f"{row}-{pool}",
            }
            for half, pool in enumerate(("one", "two"))
            for row in range(8)
        ]
    )
    args = config(tmp_path, max_steps=4, save_strategy="no")
    given = {"run": f"{run.name}-pools", "service": run.server.url, "key": "info.index"}
    with pytest.raises(ValueError, match=r"'0' is there twice, as info\.index of the rows 0 and 8"):
        PromptSelection(dataset, args, **given)
    selection = PromptSelection(dataset, args, pool="pool", **given)
    trainer(args, selection, [selection.reported(even), Trace(tmp_path / "trace", {})]).train()
    drawn = {
        number(draw): key
        for line in read(tmp_path / "trace")
        for draw, key in zip(line["draw_id"], line["key"], strict=True)
    }
    outcomes = Run(f"{run.name}-pools", run.server, run.client, run.database).outcomes()
    assert {
        row["draw"]: f"{row['row'] % 8}-{('one', 'two')[row['row'] // 8]}" for row in outcomes
    } == drawn
    assert len({row["row"] // 8 for row in outcomes}) == 2


@pytest.mark.parametrize(
    ("column", "told"),
    [("flag", "flag is True"), ("half", r"half is 0\.5"), ("none", "has no none")],
)
def test_keys_that_are_none_are_told(run: Run, tmp_path: Path, column: str, told: str) -> None:
    rows = {
        "prompt": TEXTS[:4],
        "flag": [True, False] * 2,
        "half": [0.5, 1.5, 2.5, 3.5],
        "none": [None] * 4,
    }
    with pytest.raises(ValueError, match=rf"row 0 of the data set.*{told}"):
        PromptSelection(
            Dataset.from_dict(rows),
            config(tmp_path),
            run=run.name,
            key=column,
            service=run.server.url,
        )


def test_keys_of_another_pool_are_told_as_it_is_made(run: Run, tmp_path: Path) -> None:
    rows = Dataset.from_dict({"prompt": TEXTS, "key": list(range(len(KEYS)))})
    with pytest.raises(ValueError, match=r"'0', '1'.*'sum-0'"):
        PromptSelection(rows, config(tmp_path), run=run.name, service=run.server.url)

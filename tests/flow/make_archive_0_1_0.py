"""Makes `archive-0.1.0`: a run as version 0.1.0 exported it (schema 0004).

With a snapshot, a restore and a warm start.

It is made once, with that version's code on the path, from an empty folder:

    PYTHONPATH=OLD/client:OLD/service:OLD python -m tests.flow.make_archive_0_1_0 FOLDER
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from promptgps_client.wire import CreatePool, Embedding, ReportOutcomes, Restore, TakeSnapshot
from promptgps_service.flow.archive_export import export_run
from promptgps_service.flow.context import Context
from promptgps_service.flow.prompt_columns import PromptChunk
from promptgps_service.flow.record import record_outcomes
from promptgps_service.flow.register import add_prompts, create_pool
from promptgps_service.flow.restore import restore_run
from promptgps_service.flow.snapshot import take_snapshot

from tests.databases import copied_file, migrated_file, opened_context
from tests.flow.driving import open_run, settle, step


def add(context: Context, first: int, count: int) -> None:
    keys = [f"p{number}" for number in range(first, first + count)]
    rows = np.random.default_rng(first).normal(size=(count, 4)).astype(np.float32)
    add_prompts(
        context,
        "old",
        [
            PromptChunk(
                0,
                keys=keys,
                vectors=rows,
                domains=["a", None] * (count // 2),
                prior_successes=[1.0] * count,
                prior_trials=[2.0] * count,
            )
        ],
    )


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "copy").mkdir()
        url = copied_file(migrated_file(Path(place)), Path(place) / "copy")
        with opened_context(url) as context:
            create_pool(
                context, CreatePool(name="old", embedding=Embedding(kind="given", dimension=4))
            )
            add(context, 0, 12)
            open_run(context, name="first", pool="old")
            for number in range(2):
                step(context, 4, run="first", sequence=number)
            settle(context, "first")
            open_run(
                context, name="run", pool="old", warm_start_from="first", selection={"cooldown": 1}
            )
            for number in range(2):
                step(context, 4, sequence=number)
            settle(context)
            take_snapshot(context, "run", TakeSnapshot(tag="two"))
            step(context, 4, sequence=2)
            settle(context)
            restore_run(context, "run", Restore(tag="two"), None)
            add(context, 12, 4)
            step(context, 4, sequence=2)
            report = {"run": "run", "prompt": ["p1"], "successes": [3], "trials": [8]}
            record_outcomes(context, ReportOutcomes.model_validate(report), "once")
            settle(context)
            export_run(context.store, "run", folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

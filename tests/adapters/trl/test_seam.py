"""What adapters share, without any trainer."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import pytest
from promptgps_client.adapters.seam import Seam

from tests.adapters.sums import KEYS, Run


def seam_of(run: Run, spool: Path, **settings: Any) -> Seam:
    given = {
        "service": run.server.url,
        "batch_size": 4,
        "prompts": KEYS,
        "deadline": 2.0,
    } | settings
    return Seam(run=run.name, spool=spool, **given)


def report(seam: Seam, draw_id: str, rollouts: list[int]) -> None:
    seam.selector.report(
        [draw_id] * len(rollouts), reward=[1.0] * len(rollouts), rollout_index=rollouts
    )
    seam.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_each_process_reports_its_part_of_a_draw(run: Run, tmp_path: Path, method: str) -> None:
    seam = seam_of(run, tmp_path)
    draw_id = seam.selector.next_batch().draw_id[0]
    others = multiprocessing.get_context(method)
    workers = [others.Process(target=report, args=(seam, draw_id, part)) for part in ([0, 1], [2])]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    report(seam, draw_id, [3])
    assert sorted(row["rollout"] for row in run.outcomes()) == [0, 1, 2, 3]
    assert {row["draw"] for row in run.outcomes()} == {0}


def test_selectors_have_folders_of_their_own_and_take_up_what_is_free(
    run: Run, tmp_path: Path
) -> None:
    one = seam_of(run, tmp_path)
    other = seam_of(run, tmp_path)
    copy = pickle.loads(pickle.dumps(one))
    assert one.selector is one.selector is not other.selector
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["0", "1"]
    one.close()
    assert copy.selector.next_batch().draw_id == other.selector.next_batch().draw_id
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["0", "1"]
    copy.close()
    other.close()


def test_a_run_goes_back_to_a_snapshot(run: Run, tmp_path: Path) -> None:
    seam = seam_of(run, tmp_path)
    seam.selector.next_batch()
    seam.snapshot("early")
    later = seam.selector.next_batch()
    seam.restore("early")
    assert run.client.run(run.name).selections == 1
    assert set(seam_of(run, tmp_path).selector.batch_at(1).draw_id).isdisjoint(later.draw_id)
    seam.close()


def test_without_a_service_or_a_snapshot_there_are_only_warnings(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        seam_of(run, tmp_path).restore("never-made")
    assert "is not put back to never-made" in caplog.text
    away = seam_of(run, tmp_path, service="http://127.0.0.1:9", deadline=0.2)
    away.selector.report(away.selector.next_batch().draw_id, successes=[1.0] * 4, trials=[4] * 4)
    with caplog.at_level(logging.WARNING):
        away.flush()
        away.snapshot("tag")
    assert "will only be reported after the snapshot" in caplog.text
    assert "there is no snapshot tag" in caplog.text
    away.close()

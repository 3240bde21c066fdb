"""The loop against a scripted service: the reports it sends, and what becomes of refused ones."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import Any

import promptgps_client as gps
import pytest
from promptgps_client import DrawnBatch, Selector
from promptgps_client.selector import courier

from tests.server import wait_for

from .conftest import Reply, Service, run
from .scripted import Make, answer, batches, problem, stored


def sent(service: Service) -> list[dict[str, Any]]:
    return [seen.json() for seen in service.asked("/outcomes")]


def test_groups_and_rollouts_by_draw(service: Service, make: Make) -> None:
    selector = make()
    service.at["/outcomes"].extend([stored()] * 2)
    selector.report(["d1-0", "d1-1"], successes=[3, 0], trials=[8, 8], policy_version=5)
    assert selector.flush()
    selector.report(
        ["d1-2", "d1-3", "d1-2", "d1-2"],
        reward=[True, 0.0, None, math.nan],
        policy_version=[5, 5, 6, 6],
    )
    assert selector.flush()
    assert sent(service) == [
        {
            "run": "r",
            "draw_id": ["d1-0", "d1-1"],
            "successes": [3.0, 0.0],
            "trials": [8, 8],
            "policy_version": [5, 5],
        },
        {
            "run": "r",
            "draw_id": ["d1-2", "d1-3", "d1-2", "d1-2"],
            "rollout_index": [0, 0, 1, 2],
            "reward": [1.0, 0.0, None, None],
            "status": ["ok", "ok", "cancelled", "error"],
            "policy_version": [5, 5, 6, 6],
        },
    ]
    assert selector.counters["outcomes_stored"] == 2


def test_arrays_fit_as_they_are(service: Service, make: Make) -> None:
    numpy = pytest.importorskip("numpy")
    selector = make()
    service.at["/outcomes"].append(stored())
    selector.report(
        numpy.array(["d1-0", "d1-0"], dtype=object),
        reward=numpy.array([1.0, 0.0], numpy.float32),
        rollout_index=numpy.array([4, 5]),
        policy_version=numpy.int64(3),
    )
    assert selector.flush()
    assert sent(service)[0]["rollout_index"] == [4, 5]
    assert sent(service)[0]["policy_version"] == [3, 3]


def test_nothing_is_no_report(service: Service, make: Make) -> None:
    selector = make()
    selector.report([], reward=[])
    assert selector.flush()
    assert not sent(service)


def local_batch(service: Service, selector: Selector, version: int | None) -> DrawnBatch:
    service.at["/select_batch"].appendleft(Reply(501))
    batch = selector.next_batch(version)
    assert batch.source == "fallback"
    return batch


def test_local_groups_travel_by_prompt_with_the_version_of_their_draw(
    service: Service, make: Make
) -> None:
    selector = make()
    batch = local_batch(service, selector, 42)
    later = selector.next_batch(43)
    service.at["/outcomes"].extend([stored()] * 9)
    selector.report(["d1-7", *batch.draw_id], successes=[1.0, 2.0, 3.0], trials=[8, 8, 8])
    selector.report(later.draw_id, successes=[2.0, 3.0], trials=[8, 8], policy_version=50)
    assert selector.flush()
    by_draw, by_prompt, after = sent(service)
    assert by_draw == {"run": "r", "draw_id": ["d1-7"], "successes": [1.0], "trials": [8]}
    assert by_prompt == {
        "run": "r",
        "prompt": batch.prompt,
        "successes": [2.0, 3.0],
        "trials": [8, 8],
        "policy_version": [42, 42],
    }
    assert after["prompt"] == later.prompt
    assert after["policy_version"] == [50, 50]


def test_equal_outcomes_of_two_local_draws_are_two_and_a_repetition_is_none(
    service: Service, make: Make
) -> None:
    selector = make(prompts=["only"], batch_size=1)
    first = local_batch(service, selector, None)
    second = selector.next_batch()
    service.at["/outcomes"].extend([stored()] * 9)
    for draw_id in (first.draw_id, second.draw_id, first.draw_id):
        selector.report(draw_id, successes=[2.0], trials=[8])
    selector.report(first.draw_id, successes=[3.0], trials=[8])
    assert selector.flush()
    keys = [seen.headers["idempotency-key"] for seen in service.asked("/outcomes")]
    assert keys[0] == keys[2]
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    ("reward", "successes"),
    [
        ({"kind": "binary"}, [1.0, 1.0]),
        ({"kind": "threshold", "threshold": 0.5}, [1.0, 1.0]),
        ({"kind": "affine", "low": -1.0, "high": 1.0}, [1.5, 1.0]),
    ],
)
def test_local_rollouts_travel_as_groups_under_the_runs_own_reward(
    service: Service, make: Make, reward: dict[str, Any], successes: list[float]
) -> None:
    service.standing["/runs/r"] = Reply(200, run(reward=reward))
    selector = make()
    service.at["/runs/r"] = deque([Reply(503)])
    one, two = local_batch(service, selector, 9).draw_id
    service.at["/outcomes"].extend([stored()] * 2)
    selector.report([one, two, one, one], reward=[1.0, 1.0, 0.0, None])
    selector.report([two], reward=[1.0], status=["error"])
    assert selector.flush()
    keys = [draw_id.split("-")[-1] for draw_id in (one, two)]
    assert sent(service) == [
        {
            "run": "r",
            "prompt": keys,
            "successes": successes,
            "trials": [2, 1],
            "policy_version": [9, 9],
        },
        {"run": "r", "prompt": keys[1:], "successes": [0.0], "trials": [0], "policy_version": [9]},
    ]
    # as the selector is made, and for the reward, once it is answered
    assert len(service.asked("/runs/r")) == 3


@pytest.mark.parametrize(
    ("columns", "field", "row"),
    [
        ({"successes": [9.0, 1.0], "trials": [8, 8]}, "successes", 0),
        ({"successes": [1.0], "trials": [8, 8]}, "successes", None),
        ({"successes": [1.0, 1.0]}, "trials", None),
        ({"reward": [1.0]}, "reward", None),
        ({"reward": [1.0, None], "status": ["ok", "ok"]}, "reward", 1),
        ({"reward": [1.0, 1.0], "policy_version": [1, -1]}, "policy_version", 1),
        ({}, "successes", None),
    ],
)
def test_a_report_that_cannot_be_is_raised_at_first_and_set_aside_later(
    service: Service,
    make: Make,
    tmp_path: Path,
    columns: dict[str, Any],
    field: str,
    row: int | None,
) -> None:
    selector = make()
    with pytest.raises(gps.InvalidRequest) as raised:
        selector.report(["d1-0", "d1-1"], **columns)
    assert [(fault.field, fault.row) for fault in raised.value.problem.errors] == [(field, row)]
    service.at["/outcomes"].extend([stored()] * 3)
    selector.report(["d1-0"], reward=[1.0])
    selector.report(["d1-0", "d1-1"], **columns)
    selector.report(["d1-1"], reward=[1.0])
    assert selector.flush()
    assert selector.counters["reports_refused"] == 1
    assert field in (tmp_path / "spool-0" / "refused.jsonl").read_text()


@pytest.mark.parametrize(
    "refusal", [problem(422), problem(404), problem(409), Reply(413, b"<html>too large")]
)
def test_a_refused_report_is_set_aside_and_the_others_are_delivered(
    service: Service, make: Make, tmp_path: Path, refusal: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    """Four reports: the first is on its way while the others gather to one request.

    That request is refused as a whole.
    """
    first = threading.Event()
    selector = make()
    service.at["/outcomes"].extend(
        [Reply(200, stored().body, until=first), refusal, stored(), refusal, stored()]
    )
    for number in range(4):
        selector.report([f"d1-{number}"], successes=[1.0], trials=[8])
        if number == 0:
            wait_for(lambda: len(sent(service)) == 1, 20.0, "the first report")
    first.set()
    assert selector.flush()
    assert [request["draw_id"] for request in sent(service)] == [
        ["d1-0"],
        ["d1-1", "d1-2", "d1-3"],
        ["d1-1"],
        ["d1-2"],
        ["d1-3"],
    ]
    (kept,) = (tmp_path / "spool-0" / "refused.jsonl").read_text().splitlines()
    assert json.loads(kept)["draw_id"] == ["d1-2"]
    assert str(refusal.status) in json.loads(kept)["refused"]
    assert "is refused" in caplog.text


@pytest.mark.parametrize(
    "fault",
    [
        Reply(503),
        Reply(500),
        Reply(429),
        Reply(401),
        Reply(drop=True),
        Reply(404, b"nginx"),
        Reply(200, b"<html>"),
    ],
)
def test_what_may_pass_keeps_a_report_waiting_and_loses_nothing(
    service: Service, make: Make, fault: Reply
) -> None:
    selector = make()
    service.at["/outcomes"].extend([fault, stored()])
    selector.report(["d1-0"], successes=[1.0], trials=[8])
    wait_for(lambda: len(sent(service)) == 1, 20.0, "the first attempt")
    assert selector.flush()
    first, second = service.asked("/outcomes")
    assert first.body == second.body
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert selector.counters["reports_refused"] == 0


def test_a_report_that_the_service_breaks_at_is_given_up_in_the_end(
    service: Service, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier, "TRIES_AT_500", 3)
    monkeypatch.setattr(courier, "FIRST_WAIT", 0.001)
    selector = make()
    service.at["/outcomes"].extend([*[Reply(500)] * 4, stored()])
    selector.report(["d1-0"], successes=[1.0], trials=[8])
    selector.report(["d1-1"], successes=[1.0], trials=[8])
    assert selector.flush()
    assert [request["draw_id"][0] for request in sent(service)][-2:] == ["d1-0", "d1-1"]
    assert (selector.counters["reports_refused"], selector.counters["outcomes_stored"]) == (1, 1)


def test_what_is_no_report_on_disk_keeps_nothing_up(
    service: Service, make: Make, tmp_path: Path
) -> None:
    (tmp_path / "spool-0").mkdir()
    (tmp_path / "spool-0" / "7.jsonl").write_text('garbage\n{"id": "a", "run": 3}\n\x00\x00\n')
    service.at["/outcomes"].append(stored())
    selector = make()
    selector.report(["d1-1"], successes=[1.0], trials=[8])
    assert selector.flush()
    assert selector.counters["reports_refused"] == 3
    assert len(sent(service)) == 1


def test_conflicts_are_counted_and_told(
    service: Service, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    selector = make()
    service.at["/outcomes"].append(stored(1, conflicts=[1]))
    selector.report(["d1-0", "d1-1"], successes=[1.0, 1.0], trials=[8, 8])
    assert selector.flush()
    assert selector.counters["outcomes_conflicting"] == 1
    assert "of draw d1-1 on" in caplog.text


def test_a_long_report_goes_out_in_several_requests(service: Service, make: Make) -> None:
    selector = make()
    service.at["/outcomes"].extend([stored()] * 9)
    rows = 50_001
    selector.report([f"d1-{row // 8}" for row in range(rows)], reward=[1.0] * rows)
    assert selector.flush()
    assert [len(request["draw_id"]) for request in sent(service)] == [20_000, 20_000, 10_001]
    assert [request["rollout_index"][0] for request in sent(service)] == [0, 0, 0]


def test_a_waiting_report_does_not_keep_the_process_from_ending(tmp_path: Path) -> None:
    script = f"""
from promptgps_client import Selector
selector = Selector("http://127.0.0.1:9", run="r", batch_size=1, prompts=["k"], \
spool={str(tmp_path)!r}, deadline=0.2)
selector.report(selector.next_batch().draw_id, successes=[1.0], trials=[8])
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert "1 reports wait in the spool for the next selector" in ended.stderr


def test_a_forked_process_is_told_to_make_its_own(make: Make, service: Service) -> None:
    selector = make()
    batches(service, answer(0, 1, 2))
    selector.next_batch()
    child = os.fork()
    if child == 0:
        try:
            selector.report(["d1-0"], successes=[1.0], trials=[8])
        except RuntimeError as error:
            os._exit(0 if "make one here" in str(error) else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_it_says_what_it_is_about(
    make: Make, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        reply = answer(0, 1, 2)
        reply.body["warnings"] = ["the pool looks too hard"]
        batches(service, reply)
        assert make().next_batch().warnings == ["the pool looks too hard"]
    assert "the pool looks too hard" in caplog.text

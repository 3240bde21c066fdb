"""The loop against a scripted service: whose draws it hands out, when it asks, what it sends, what it raises."""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import promptgps_client as gps
import pytest
from promptgps_client import DrawnBatch, Selector
from promptgps_client.selector import asking, courier

from tests.server import wait_for

from .conftest import Reply, Service

KEYS = [f"k{number}" for number in range(40)]
READY = Reply(200, {"ready": True, "checks": {}})
Make = Callable[..., Selector]


def answer(sequence: int, *numbers: int, replayed: bool = False, rollouts: int = 8) -> Reply:
    """The service's batch of the prompts with these numbers, which it predicts to succeed in a hundredth of that."""
    draws = {
        "draw_id": [f"d1-{sequence}{number:02d}" for number in numbers], "prompt": [f"k{number}" for number in numbers],
        "predicted_success": [number / 100 for number in numbers], "uncertainty": [0.1] * len(numbers),
        "rollouts": [rollouts] * len(numbers),
    }  # fmt: skip
    return Reply(200, {
        "run": "r", "sequence": sequence, "replayed": replayed, "model_version": 1, "trained_through": 0,
        "strategy": "promptgps", "draws": draws, "warnings": [],
    })  # fmt: skip


def stored(count: int = 1, conflicts: list[int] | None = None) -> Reply:
    return Reply(200, {"stored": count, "duplicates": 0, "conflicts": conflicts or [], "log_position": count})


def problem(status: int, kind: str = "urn:promptgps:problem:some") -> Reply:
    return Reply(status, {"type": kind, "title": "No", "status": status, "detail": "so it is", "errors": []})


@pytest.fixture
def make(service: Service, tmp_path: Path) -> Iterator[Make]:
    """Makes selectors of the scripted service, whose parts are scripted each on its own, and closes them."""
    service.at = {"/select_batch": deque(), "/outcomes": deque(), "/readyz": deque()}
    made: list[Selector] = []

    def selector(**options: Any) -> Selector:
        spool = tmp_path / f"spool-{len(made)}"
        given = {"run": "r", "batch_size": 2, "prompts": KEYS, "spool": spool, "deadline": 5.0, **options}
        made.append(Selector(service.url, **given))
        return made[-1]

    yield selector
    service.over.set()
    for one in made:
        one.close()


def batches(service: Service, *replies: Reply) -> None:
    service.at["/select_batch"].extend(replies)


def asked(service: Service) -> list[dict[str, Any]]:
    return [seen.json() for seen in service.asked("/select_batch")]


# ---- draws ---------------------------------------------------------------------------------------------------


def test_the_services_draws(service: Service, make: Make) -> None:
    rows = {key: {"text": key.upper()} for key in KEYS}
    selector = make(prompts=rows, rollouts=4, wait_seconds=7.0)
    batches(service, answer(0, 30, 7, rollouts=4), answer(1, 9, 8, replayed=True, rollouts=4))
    first, second = selector.next_batch(5), selector.next_batch(6)
    assert first == DrawnBatch(
        sequence=0, source="service", draw_id=["d1-030", "d1-007"], prompt=["k30", "k7"], index=[30, 7],
        rollouts=[4, 4], predicted_success=[0.3, 0.07], row=[rows["k30"], rows["k7"]], warnings=[],
    )  # fmt: skip
    assert second.source == "replay"
    assert asked(service) == [
        {"run": "r", "batch_size": 2, "sequence": step, "policy_version": 5 + step, "rollouts": 4, "wait_seconds": 7.0,
         "include_text": False}
        for step in range(2)
    ]  # fmt: skip
    assert selector.counters["batches_service"] == selector.counters["batches_replay"] == 1
    assert first[1] == list(first)[1]
    assert pickle.loads(pickle.dumps(first)) == first
    assert (first[1].draw_id, first[1].index, first[1].row) == ("d1-007", 7, {"text": "K7"})


@pytest.mark.parametrize("world_size", range(1, 9))
def test_the_parts_of_all_ranks_make_the_whole(service: Service, make: Make, world_size: int) -> None:
    batches(service, answer(0, *range(7)))
    batch = make(batch_size=7).next_batch()
    parts = [batch.part(rank, world_size) for rank in range(world_size)]
    assert [draw for part in parts for draw in part] == list(batch)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert {part.sequence for part in parts} == {0}
    with pytest.raises(ValueError, match="rank"):
        batch.part(world_size, world_size)


def test_draws_by_position(service: Service, make: Make) -> None:
    selector = make()
    batches(service, answer(2, 5, 6), answer(3, 7, 8), answer(0, 1, 2))
    stream = selector.draws(5)
    assert [next(stream).prompt for _ in range(3)] == ["k6", "k7", "k8"]
    assert [next(selector.draws(position)).prompt for position in (6, 0, 1)] == ["k7", "k1", "k2"]
    assert [request["sequence"] for request in asked(service)] == [2, 3, 0]
    assert selector.state_dict()["sequence"] == 0


# ---- silence -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Reply(hang=True), Reply(drop=True), Reply(503), Reply(500), Reply(200, b"<html>")])
def test_without_an_answer_in_time_draws_are_local_and_loud(
    service: Service, make: Make, fault: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    selector = make(deadline=2.0)
    batches(service, *[fault] * 20)
    batch = selector.next_batch(3)
    assert batch.source == "fallback"
    assert batch.rollouts == [8, 8]  # what a run has by default
    assert len(set(batch.prompt)) == 2
    assert set(batch.prompt) <= set(KEYS)
    assert batch.warnings[0].startswith("batch 0 is drawn locally")
    assert batch.warnings[0] in caplog.text
    # and the next steps do not wait for it again
    before = len(asked(service))
    assert [selector.next_batch(step).source for step in range(4, 40)] == ["fallback"] * 36
    assert len(asked(service)) == before
    assert selector.counters["batches_fallback"] == 37


def test_nobody_there_at_all(tmp_path: Path) -> None:
    with Selector(
        "http://127.0.0.1:9", run="r", batch_size=3, prompts=KEYS, spool=tmp_path, deadline=0.2, rollouts=5
    ) as selector:
        batch = selector.next_batch()
        assert (batch.source, batch.rollouts) == ("fallback", [5] * 3)
        selector.report(batch.draw_id, successes=[1.0] * 3, trials=[5] * 3)
        assert selector.counters["reports_waiting"] == 1
    assert len(list(tmp_path.glob("0*.jsonl"))) == 1


def test_a_sign_of_life_ends_the_pause_and_is_looked_for_only_until_then(
    service: Service, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "SHORTER_WHEN_ALIVE", 80)  # 80 s without a sign of life, 1 s with one
    selector = make(deadline=40.0)
    service.at["/readyz"].extend([Reply(503, {"ready": False, "checks": {}}), Reply(drop=True), READY])
    assert selector.next_batch().source == "fallback"  # at once: 501 is no answer that could pass

    def back() -> bool:
        service.at["/select_batch"] = deque([answer(0, 1, 2)])
        return selector.next_batch().source == "service"

    wait_for(back, 60.0, "draws of the service", pause=0.1)
    assert len(service.asked("/readyz")) == 3
    assert len(asked(service)) == 2
    # and all is as before: what passes soon is waited for
    batches(service, Reply(503), answer(0, 1, 2))
    assert selector.next_batch().source == "service"


def test_what_is_answered_too_late_is_never_used(
    service: Service, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    late = threading.Event()
    selector = make(deadline=2.0)
    batches(service, Reply(200, answer(0, 1, 2).body, until=late))
    batch = selector.next_batch()
    assert batch.source == "fallback"
    late.set()
    wait_for(lambda: "answered late" in caplog.text, 20.0, "the late answer")
    assert selector.batch_at(0) == batch
    # nor after a restart from a checkpoint, when the service would replay it
    batches(service, answer(0, 1, 2, replayed=True))
    again = make()
    again.load_state_dict(selector.state_dict())
    assert again.batch_at(0).draw_id == batch.draw_id
    assert len(asked(service)) == 1


def test_local_draws_are_the_same_for_the_same_seed_and_sequence(make: Make, service: Service) -> None:
    service.at["/select_batch"] = deque()  # 501: no answer, at once
    ours, theirs, other = make(seed=3, batch_size=8), make(seed=3, batch_size=8), make(seed=4, batch_size=8)
    drawn = [[selector.next_batch(7).draw_id for _ in range(20)] for selector in (ours, theirs, other)]
    assert drawn[0] == drawn[1] != drawn[2]
    script = f"""
from promptgps_client.selector.fallback import LocalDraws
print([[f"k{{at}}" for at in LocalDraws("uniform", {len(KEYS)}, 8, 3).draw(s, 8)] for s in range(20)])
"""
    elsewhere = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert elsewhere.stdout.strip() == str([[name.split("-")[-1] for name in batch] for batch in drawn[0]])


# ---- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 413, 422])
def test_a_refusal_is_raised_until_the_service_has_answered_once(service: Service, make: Make, status: int) -> None:
    batches(service, problem(status), answer(0, 1, 2), problem(status), answer(2, 3, 4))
    selector = make()
    with pytest.raises(gps.BadAnswer) as raised:
        selector.next_batch()
    assert raised.value.status == status
    assert [selector.next_batch().source for _ in range(3)] == ["service", "fallback", "service"]


def test_a_restarted_trainer_is_not_stopped_by_a_refusal(service: Service, make: Make) -> None:
    batches(service, answer(0, 1, 2), problem(404))
    first, second = make(), make()
    first.next_batch()
    second.load_state_dict(first.state_dict())
    batch = second.next_batch()
    assert (batch.sequence, batch.source) == (1, "fallback")
    assert "404" in batch.warnings[0]


def test_draws_that_the_trainer_does_not_know(service: Service, make: Make) -> None:
    batches(service, answer(0, 1, 99), answer(0, 1, 2), answer(1, 99, 1))
    selector = make()
    with pytest.raises(ValueError, match="'k99', which is not among this selector's prompts"):
        selector.next_batch()
    assert selector.next_batch().source == "service"
    assert selector.next_batch().source == "fallback"


@pytest.mark.parametrize("numbers", [(), (1,), (1, 2, 3)])
def test_batches_of_another_size(service: Service, make: Make, numbers: tuple[int, ...]) -> None:
    batches(service, answer(0, *numbers), answer(0, 1, 2), answer(1, *numbers))
    selector = make()
    with pytest.raises(ValueError, match=rf"columns of \[{len(numbers)}\] draws, not of 2"):
        selector.next_batch()
    assert [selector.next_batch().source for _ in range(2)] == ["service", "fallback"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"prompts": ["a", "b", "a"]}, "'a' is there twice"),
        ({"prompts": ["a"]}, r"batch_size 2 is not in 1\.\.1"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"deadline": 0.0}, "deadline"),
    ],
)
def test_settings_that_cannot_be(make: Make, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make(**options)


# ---- checkpoint and prefetch ---------------------------------------------------------------------------------


def test_a_state_goes_through_json_and_on_at_the_same_sequence(service: Service, make: Make) -> None:
    batches(service, answer(0, 1, 2), answer(1, 3, 4), answer(2, 5, 6), answer(2, 5, 6, replayed=True))
    selector = make(fallback="scores")
    for version in (10, 11):
        selector.next_batch(version)
    state = json.loads(json.dumps(selector.state_dict()))
    selector.next_batch(12)
    again = make(fallback="scores")
    again.load_state_dict(state)
    assert again.next_batch(12).source == "replay"
    assert asked(service)[-1] == asked(service)[-2]
    assert again.state_dict() == selector.state_dict()
    other = make(run="another")
    with pytest.raises(ValueError, match="run 'r', not of 'another'"):
        other.load_state_dict(state)


def test_prefetch_asks_while_the_trainer_rolls_out_and_a_restart_asks_the_same(service: Service, make: Make) -> None:
    batches(service, *(answer(step, step, step + 1) for step in range(4)))
    selector = make(prefetch=True)
    first = selector.next_batch(10)
    wait_for(lambda: len(asked(service)) == 2, 20.0, "the next request")
    second = selector.next_batch(11)
    assert [first.prompt, second.prompt] == [["k0", "k1"], ["k1", "k2"]]
    state = selector.state_dict()
    selector.next_batch(12)
    wait_for(lambda: len(asked(service)) == 4, 20.0, "the next request")
    asks = [(request["sequence"], request["policy_version"]) for request in asked(service)]
    assert asks == [(0, 10), (1, 10), (2, 11), (3, 12)]
    batches(service, answer(2, 2, 3, replayed=True))
    again = make(prefetch=True)
    again.load_state_dict(state)
    assert again.next_batch(12).prompt == ["k2", "k3"]
    assert asked(service)[4] == asked(service)[2]


def test_what_failed_ahead_is_asked_again_in_time(service: Service, make: Make) -> None:
    batches(service, answer(0, 1, 2), problem(422), answer(1, 3, 4))
    selector = make(prefetch=True)
    selector.next_batch()
    wait_for(lambda: len(asked(service)) == 2, 20.0, "the request ahead")
    assert selector.next_batch().prompt == ["k3", "k4"]


# ---- reports -------------------------------------------------------------------------------------------------


def sent(service: Service) -> list[dict[str, Any]]:
    return [seen.json() for seen in service.asked("/outcomes")]


def test_groups_and_rollouts_by_draw(service: Service, make: Make) -> None:
    selector = make()
    service.at["/outcomes"].extend([stored()] * 2)
    selector.report(["d1-0", "d1-1"], successes=[3, 0], trials=[8, 8], policy_version=5)
    assert selector.flush()
    selector.report(["d1-2", "d1-3", "d1-2", "d1-2"], reward=[True, 0.0, None, math.nan], policy_version=[5, 5, 6, 6])
    assert selector.flush()
    assert sent(service) == [
        {"run": "r", "draw_id": ["d1-0", "d1-1"], "successes": [3.0, 0.0], "trials": [8, 8], "policy_version": [5, 5]},
        {"run": "r", "draw_id": ["d1-2", "d1-3", "d1-2", "d1-2"], "rollout_index": [0, 0, 1, 2],
         "reward": [1.0, 0.0, None, None], "status": ["ok", "ok", "cancelled", "error"],
         "policy_version": [5, 5, 6, 6]},
    ]  # fmt: skip
    assert selector.counters["outcomes_stored"] == 2


def test_arrays_fit_as_they_are(service: Service, make: Make) -> None:
    numpy = pytest.importorskip("numpy")
    selector = make()
    service.at["/outcomes"].append(stored())
    selector.report(
        numpy.array(["d1-0", "d1-0"], dtype=object), reward=numpy.array([1.0, 0.0], numpy.float32),
        rollout_index=numpy.array([4, 5]), policy_version=numpy.int64(3),
    )  # fmt: skip
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


def test_local_groups_travel_by_prompt_with_the_version_of_their_draw(service: Service, make: Make) -> None:
    selector = make()
    batch, later = local_batch(service, selector, 42), selector.next_batch(43)
    service.at["/outcomes"].extend([stored()] * 9)
    selector.report(["d1-7", *batch.draw_id], successes=[1.0, 2.0, 3.0], trials=[8, 8, 8])
    selector.report(later.draw_id, successes=[2.0, 3.0], trials=[8, 8], policy_version=50)
    assert selector.flush()
    by_draw, by_prompt, after = sent(service)
    assert by_draw == {"run": "r", "draw_id": ["d1-7"], "successes": [1.0], "trials": [8]}
    assert by_prompt == {
        "run": "r", "prompt": batch.prompt, "successes": [2.0, 3.0], "trials": [8, 8], "policy_version": [42, 42],
    }  # fmt: skip
    assert after["prompt"] == later.prompt
    assert after["policy_version"] == [50, 50]


def test_equal_outcomes_of_two_local_draws_are_two_and_a_repetition_is_none(service: Service, make: Make) -> None:
    selector = make(prompts=["only"], batch_size=1)
    first, second = local_batch(service, selector, None), selector.next_batch()
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
    run = {
        "name": "r", "pools": [], "rollouts_per_prompt": 8, "reward": reward, "seed": 0, "warm_start_from": None,
        "selection": {}, "prompts": 40, "selections": 0, "draws": 0, "log_position": 0, "model_version": 0,
        "trained_through": 0, "created_at": "",
    }  # fmt: skip
    service.at["/runs/r"] = deque([Reply(503), Reply(200, run)])
    selector = make()
    one, two = local_batch(service, selector, 9).draw_id
    service.at["/outcomes"].extend([stored()] * 2)
    selector.report([one, two, one, one], reward=[1.0, 1.0, 0.0, None])
    selector.report([two], reward=[1.0], status=["error"])
    assert selector.flush()
    keys = [draw_id.split("-")[-1] for draw_id in (one, two)]
    assert sent(service) == [
        {"run": "r", "prompt": keys, "successes": successes, "trials": [2, 1], "policy_version": [9, 9]},
        {"run": "r", "prompt": keys[1:], "successes": [0.0], "trials": [0], "policy_version": [9]},
    ]
    assert len(service.asked("/runs/r")) == 2


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
    service: Service, make: Make, tmp_path: Path, columns: dict[str, Any], field: str, row: int | None
) -> None:
    selector = make()
    with pytest.raises(gps.InvalidRequest) as raised:
        selector.report(["d1-0", "d1-1"], **columns)
    assert [(fault.field, fault.row) for fault in raised.value.problem.errors] == [(field, row)]
    service.at["/outcomes"].extend([stored()] * 2)
    selector.report(["d1-0"], reward=[1.0])
    selector.report(["d1-0", "d1-1"], **columns)
    selector.report(["d1-1"], reward=[1.0])
    assert selector.flush()
    assert selector.counters["reports_refused"] == 1
    assert field in (tmp_path / "spool-0" / "refused.jsonl").read_text()


@pytest.mark.parametrize("refusal", [problem(422), problem(404), problem(409), Reply(413, b"<html>too large")])
def test_a_refused_report_is_set_aside_and_the_others_are_delivered(
    service: Service, make: Make, tmp_path: Path, refusal: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    """Four reports: the first is on its way while the others gather to one request, which is refused as a whole."""
    first = threading.Event()
    selector = make()
    service.at["/outcomes"].extend(
        [Reply(200, stored().body, until=first), refusal, stored(), refusal, stored()]
    )  # fmt: skip
    for number in range(4):
        selector.report([f"d1-{number}"], successes=[1.0], trials=[8])
        if number == 0:
            wait_for(lambda: len(sent(service)) == 1, 20.0, "the first report")
    first.set()
    assert selector.flush()
    assert [request["draw_id"] for request in sent(service)] == [
        ["d1-0"], ["d1-1", "d1-2", "d1-3"], ["d1-1"], ["d1-2"], ["d1-3"]
    ]  # fmt: skip
    (kept,) = (tmp_path / "spool-0" / "refused.jsonl").read_text().splitlines()
    assert json.loads(kept)["draw_id"] == ["d1-2"]
    assert str(refusal.status) in json.loads(kept)["refused"]
    assert "is refused" in caplog.text


@pytest.mark.parametrize(
    "fault",
    [Reply(503), Reply(500), Reply(429), Reply(401), Reply(drop=True), Reply(404, b"nginx"), Reply(200, b"<html>")],
)
def test_what_may_pass_keeps_a_report_waiting_and_loses_nothing(service: Service, make: Make, fault: Reply) -> None:
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


def test_what_is_no_report_on_disk_keeps_nothing_up(service: Service, make: Make, tmp_path: Path) -> None:
    (tmp_path / "spool-0").mkdir()
    (tmp_path / "spool-0" / "7.jsonl").write_text('garbage\n{"id": "a", "run": 3}\n\x00\x00\n')
    service.at["/outcomes"].append(stored())
    selector = make()
    selector.report(["d1-1"], successes=[1.0], trials=[8])
    assert selector.flush()
    assert selector.counters["reports_refused"] == 3
    assert len(sent(service)) == 1


def test_conflicts_are_counted_and_told(service: Service, make: Make, caplog: pytest.LogCaptureFixture) -> None:
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
selector = Selector("http://127.0.0.1:9", run="r", batch_size=1, prompts=["k"], spool={str(tmp_path)!r}, deadline=0.2)
selector.report(selector.next_batch().draw_id, successes=[1.0], trials=[8])
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
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


def test_it_says_what_it_is_about(make: Make, service: Service, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        reply = answer(0, 1, 2)
        reply.body["warnings"] = ["the pool looks too hard"]
        batches(service, reply)
        assert make().next_batch().warnings == ["the pool looks too hard"]
    assert "the pool looks too hard" in caplog.text

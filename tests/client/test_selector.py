"""The loop against a scripted service.

Whose draws it hands out, when it asks, what it sends, what it raises.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import Any

import promptgps_client as gps
import pytest
from promptgps_client import DrawnBatch, Selector
from promptgps_client.selector import asking

from tests.server import wait_for

from .conftest import KEYS, SUBSET, Reply, Service
from .scripted import READY, Make, answer, asked, batches, problem

# ---- draws ---------------------------------------------------------------------------------------


def test_the_services_draws(service: Service, make: Make) -> None:
    rows = {key: {"text": key.upper()} for key in KEYS}
    selector = make(prompts=rows, rollouts=4, wait_seconds=7.0)
    batches(service, answer(0, 30, 7, rollouts=4), answer(1, 9, 8, replayed=True, rollouts=4))
    first = selector.next_batch(5)
    second = selector.next_batch(6)
    assert first == DrawnBatch(
        sequence=0,
        source="service",
        draw_id=["d1-030", "d1-007"],
        prompt=["k30", "k7"],
        pool=[None, None],
        index=[30, 7],
        rollouts=[4, 4],
        predicted_success=[0.3, 0.07],
        row=[rows["k30"], rows["k7"]],
        warnings=[],
    )
    assert second.source == "replay"
    assert asked(service) == [
        {
            "run": "r",
            "batch_size": 2,
            "sequence": step,
            "policy_version": 5 + step,
            "rollouts": 4,
            "wait_seconds": 7.0,
            "include_text": False,
            "subset": SUBSET,
        }
        for step in range(2)
    ]
    assert selector.counters["batches_service"] == selector.counters["batches_replay"] == 1
    assert first[1] == list(first)[1]
    assert pickle.loads(pickle.dumps(first)) == first
    assert (first[1].draw_id, first[1].index, first[1].row) == ("d1-007", 7, {"text": "K7"})


@pytest.mark.parametrize("world_size", range(1, 9))
def test_the_parts_of_all_ranks_make_the_whole(
    service: Service, make: Make, world_size: int
) -> None:
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


# ---- silence -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [Reply(hang=True), Reply(drop=True), Reply(503), Reply(500), Reply(200, b"<html>")]
)
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
    assert [selector.next_batch(step).source for step in range(4, 40)] == ["fallback"] * 36
    assert {request["sequence"] for request in asked(service)} == {0}
    assert selector.counters["batches_fallback"] == 37


def test_nobody_there_at_all(tmp_path: Path) -> None:
    with Selector(
        "http://127.0.0.1:9",
        run="r",
        batch_size=3,
        prompts=KEYS,
        spool=tmp_path,
        deadline=0.2,
        rollouts=5,
    ) as selector:
        batch = selector.next_batch()
        assert (batch.source, batch.rollouts) == ("fallback", [5] * 3)
        selector.report(batch.draw_id, successes=[1.0] * 3, trials=[5] * 3)
        assert selector.counters["reports_waiting"] == 1
    assert len(list(tmp_path.glob("0*.jsonl"))) == 1


def test_a_sign_of_life_ends_the_pause_and_is_looked_for_only_until_then(
    service: Service, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 80 s without a sign of life, 1 s with one
    monkeypatch.setattr(asking, "SHORTER_WHEN_ALIVE", 80)
    selector = make(deadline=40.0)
    service.at["/readyz"].extend(
        [Reply(503, {"ready": False, "checks": {}}), Reply(drop=True), READY]
    )
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


def test_local_draws_are_the_same_for_the_same_seed_and_sequence(
    make: Make, service: Service
) -> None:
    service.at["/select_batch"] = deque()  # 501: no answer, at once
    ours = make(seed=3, batch_size=8)
    theirs = make(seed=3, batch_size=8)
    other = make(seed=4, batch_size=8)
    drawn = [
        [selector.next_batch(7).draw_id for _ in range(20)] for selector in (ours, theirs, other)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    script = f"""
from promptgps_client.selector.fallback import LocalDraws
print([[f"k{{at}}" for at in LocalDraws("uniform", {len(KEYS)}, 8, 3).draw(s, 8)] \
for s in range(20)])
"""
    elsewhere = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert elsewhere.stdout.strip() == str(
        [[name.split("-")[-1] for name in batch] for batch in drawn[0]]
    )


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 413, 422])
def test_a_refusal_is_raised_until_the_service_has_answered_once(
    service: Service, make: Make, status: int
) -> None:
    batches(service, problem(status), answer(0, 1, 2), problem(status), answer(2, 3, 4))
    selector = make()
    with pytest.raises(gps.BadAnswer) as raised:
        selector.next_batch()
    assert raised.value.status == status
    assert [selector.next_batch().source for _ in range(3)] == ["service", "fallback", "service"]


def test_a_restarted_trainer_is_not_stopped_by_a_refusal(service: Service, make: Make) -> None:
    batches(service, answer(0, 1, 2), problem(404))
    first = make()
    second = make()
    first.next_batch()
    second.load_state_dict(first.state_dict())
    batch = second.next_batch()
    assert (batch.sequence, batch.source) == (1, "fallback")
    assert "404" in batch.warnings[0]


def test_draws_that_the_trainer_does_not_know(service: Service, make: Make) -> None:
    batches(
        service,
        answer(0, 98, 99),
        answer(0, 1, 2),
        answer(1, 99, 1),
        answer(2, 98, 99),
        answer(3, 5, 6),
    )
    selector = make()
    with pytest.raises(ValueError, match="'k98', which is not among this selector's prompts"):
        selector.next_batch()
    assert selector.next_batch().source == "service"
    mixed = selector.next_batch()
    assert mixed.source == "service"
    assert mixed.draw_id[1] == "d1-101"  # only the stranger's place is taken by a local draw
    assert mixed.draw_id[0] == f"local-1-0--{mixed.prompt[0]}"
    assert mixed.prompt[0] in set(KEYS) - {"k1"}
    assert "'k99'" in mixed.warnings[0]
    assert [selector.next_batch().source for _ in range(2)] == ["fallback", "service"]


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


# ---- checkpoint and prefetch ---------------------------------------------------------------------


def test_a_state_goes_through_json_and_on_at_the_same_sequence(
    service: Service, make: Make
) -> None:
    batches(
        service, answer(0, 1, 2), answer(1, 3, 4), answer(2, 5, 6), answer(2, 5, 6, replayed=True)
    )
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


def test_prefetch_asks_while_the_trainer_rolls_out_and_a_restart_asks_the_same(
    service: Service, make: Make
) -> None:
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

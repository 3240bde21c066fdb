"""Reports of a run that is not open wait in the spool, and don't hold up those of other runs."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import pytest
from promptgps_client import Conflict
from promptgps_client.selector import courier

from tests.server import wait_for

from .conftest import SUBSET, Reply, Service, subset
from .scripted import Make, answer, asked, batches, problem, stored

NOT_OPEN = problem(409, "urn:promptgps:problem:run-not-open")


def sent(service: Service) -> list[dict[str, Any]]:
    return [seen.json() for seen in service.asked("/outcomes")]


def test_they_wait_until_it_is_open_again(
    service: Service, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier, "NOT_OPEN_WAIT", 0.05)
    selector = make()
    service.at["/outcomes"].extend([NOT_OPEN] * 3 + [stored()])
    selector.report(["d1-0"], successes=[1.0], trials=[8])
    wait_for(lambda: len(sent(service)) == 4, 20.0, "the fourth attempt")
    assert selector.flush()
    assert (selector.counters["reports_refused"], selector.counters["outcomes_stored"]) == (0, 1)


def test_a_flush_does_not_wait_for_it(service: Service, make: Make) -> None:
    selector = make()
    service.at["/outcomes"].extend([NOT_OPEN] * 9)
    selector.report(["d1-0"], successes=[1.0], trials=[8])
    assert not selector.flush(20.0)
    assert selector.counters["reports_waiting"] == 1
    batches(service, answer(0, 1, 2), NOT_OPEN, answer(2, 1, 2))
    # nor does the loop, which goes on by itself while the run rests
    assert [selector.next_batch().source for _ in range(3)] == ["service", "fallback", "service"]


def test_at_first_it_is_raised(service: Service, make: Make) -> None:
    batches(service, NOT_OPEN)
    with pytest.raises(Conflict, match="so it is"):
        make().next_batch()


def test_what_an_earlier_training_left_for_it_keeps_nothing_up(
    service: Service, make: Make, tmp_path: Path
) -> None:
    folder = tmp_path / "spool-0"
    folder.mkdir()
    line = '{"id":"a","run":"archived","draw_id":["d9-0"],"successes":[1.0],"trials":[8]}\n'
    (folder / "7.jsonl").write_text(line * 3)

    def answers(body: dict[str, Any]) -> Reply:
        return NOT_OPEN if body["run"] == "archived" else stored()

    service.decide["/outcomes"] = answers
    selector = make()
    for number in range(3):
        selector.report([f"d1-{number}"], successes=[1.0], trials=[8])
        assert selector.flush(20.0)
    assert selector.counters["outcomes_stored"] == 3
    assert selector.counters["reports_waiting"] == 3
    selector.close()
    assert (folder / "7.jsonl").read_text() == line * 3
    assert {request["run"] for request in sent(service)} == {"r", "archived"}


def test_a_subset_that_is_lost_is_sent_again(service: Service, make: Make) -> None:
    other = "f" * 32
    service.at["/runs/r/subsets"] = deque([Reply(201, subset()), Reply(201, subset(subset=other))])
    lost = problem(404)
    lost.body["errors"] = [{"field": "subset", "detail": "it is not there"}]
    batches(service, answer(0, 1, 2), lost, answer(1, 3, 4))
    selector = make()
    assert [selector.next_batch().source for _ in range(2)] == ["service"] * 2
    assert [request["subset"] for request in asked(service)] == [SUBSET, SUBSET, other]
    assert len(service.asked("/runs/r/subsets")) == 2


def test_a_service_without_subsets_is_asked_without(service: Service, make: Make) -> None:
    service.standing["/runs/r/subsets"] = Reply(404, {"detail": "Not Found"})
    batches(service, answer(0, 1, 2))
    assert make().next_batch().source == "service"
    assert "subset" not in asked(service)[0]

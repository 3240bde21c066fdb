"""What is tried again, how long it waits, and what stays the same over the attempts."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import promptgps_client as gps
import pytest
from promptgps_client.transport import seconds_to_wait

from .conftest import Asker, Connect, Reply, Service

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
BATCH = {
    "run": "r",
    "sequence": 0,
    "replayed": False,
    "model_version": 0,
    "trained_through": 0,
    "strategy": "uniform",
    "warnings": [],
    "draws": {
        "draw_id": ["d"],
        "prompt": ["p"],
        "predicted_success": [0.5],
        "uncertainty": [0.1],
        "rollouts": [8],
    },
}
STORED = {"stored": 1, "duplicates": 0, "conflicts": [], "log_position": 1}
SELECT: dict[str, Any] = {"run": "r", "batch_size": 1}
GROUPS: dict[str, Any] = {"run": "r", "prompt": ["p"], "successes": [1.0], "trials": [8]}


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("1 minute", None),
        ("0x10", None),
        ("0", 0),
        ("1", 1),
        (" 7 ", 7),
        ("0.5", 0.5),
        ("60", 60),
        ("61", 60),
        ("86400", 60),
        ("inf", 60),
        ("-1", 0),
        ("Mon, 99 Nov 2026 12:00:00 GMT", None),
        ("Mon, 23 Nov 2026 12:00:30 GMT", 30),
        ("Mon, 23 Nov 2026 12:00:30 -0000", 30),
        ("Mon, 23 Nov 2026 13:00:05 +0100", 5),
        ("Mon, 23 Nov 2026 11:59:00 GMT", 0),
        ("Tue, 24 Nov 2026 12:00:00 GMT", 60),
        ("Monday, 23-Nov-26 12:00:09 GMT", 9),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert seconds_to_wait(header, NOW) == seconds


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_retried(service: Service, ask: Asker, status: int) -> None:
    service.says(Reply(status), Reply(status), Reply(200, {"pools": []}))
    assert ask("pools").pools == []
    assert len(service.seen) == 3


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 409, 413, 422, 501])
def test_what_will_not_pass_is_not(service: Service, ask: Asker, status: int) -> None:
    service.says(Reply(status))
    with pytest.raises(gps.BadAnswer):
        ask("pools")
    assert len(service.seen) == 1


def test_attempts_end(service: Service, ask: Asker) -> None:
    service.says(*[Reply(503)] * 9)
    with pytest.raises(gps.ServerFault):
        ask("pools")
    assert len(service.seen) == 4


def test_the_budget_ends(service: Service, connect: Connect) -> None:
    service.says(*[Reply(503)] * 50)
    began = time.monotonic()
    with pytest.raises(gps.ServerFault):
        connect(service.url, retry_seconds=0.2, attempts=50, first_wait=0.05, longest_wait=0.05)(
            "pools"
        )
    assert time.monotonic() - began < 2
    assert 1 < len(service.seen) < 10


def test_no_budget_is_no_retry(service: Service, connect: Connect) -> None:
    service.says(Reply(503))
    with pytest.raises(gps.ServerFault):
        connect(service.url, retry_seconds=0)("pools")
    assert len(service.seen) == 1


def test_the_services_wish_is_obeyed(service: Service, ask: Asker) -> None:
    service.says(Reply(429, headers={"Retry-After": "0.3"}), Reply(200, {"pools": []}))
    began = time.monotonic()
    ask("pools")
    assert time.monotonic() - began >= 0.3


def test_a_wish_beyond_the_budget_ends_it_at_once(service: Service, ask: Asker) -> None:
    when = (datetime.now(UTC) + timedelta(hours=1)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    service.says(Reply(503, headers={"Retry-After": when}))
    began = time.monotonic()
    with pytest.raises(gps.ServerFault) as raised:
        ask("pools")
    assert raised.value.retry_after == 60
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("fault", [Reply(503), Reply(500), Reply(drop=True), Reply(hang=True)])
def test_a_retry_is_the_same_request(service: Service, connect: Connect, fault: Reply) -> None:
    service.says(fault, fault, Reply(200, STORED), Reply(200, STORED))
    ask = connect(service.url, timeout=0.3)
    ask("report_groups", **GROUPS)
    ask("report_groups", **GROUPS)
    first, second, third, another = service.seen
    for name in ("idempotency-key", "x-request-id"):
        assert (
            first.headers[name]
            == second.headers[name]
            == third.headers[name]
            != another.headers[name]
        )
    assert first.body == second.body == third.body


def test_the_callers_own_idempotency_key(service: Service, ask: Asker) -> None:
    service.says(Reply(200, STORED))
    ask("report_groups", **GROUPS, idempotency_key="spool-7")
    assert service.seen[0].headers["idempotency-key"] == "spool-7"


@pytest.mark.parametrize(
    "fault", [Reply(hang=True), Reply(drop=True), Reply(500), Reply(502), Reply(504), Reply(408)]
)
def test_a_batch_without_sequence_that_may_have_been_drawn_is_not_drawn_twice(
    service: Service, connect: Connect, fault: Reply
) -> None:
    service.says(fault, Reply(200, BATCH))
    with pytest.raises(gps.PromptGPSError):
        connect(service.url, timeout=0.3)("select_batch", **SELECT)
    assert len(service.seen) == 1


@pytest.mark.parametrize("fault", [Reply(429), Reply(503)])
def test_a_batch_without_sequence_that_was_refused_is_asked_again(
    service: Service, ask: Asker, fault: Reply
) -> None:
    service.says(fault, Reply(200, BATCH))
    assert ask("select_batch", **SELECT).draws.prompt == ["p"]
    assert "sequence" not in service.seen[0].json()


@pytest.mark.parametrize("fault", [Reply(hang=True), Reply(drop=True), Reply(500)])
def test_a_batch_with_sequence_is_asked_again(
    service: Service, connect: Connect, fault: Reply
) -> None:
    service.says(fault, Reply(200, BATCH))
    connect(service.url, timeout=0.3)("select_batch", **SELECT, sequence=0)
    assert len(service.seen) == 2


def test_wait_seconds_lengthens_the_timeout(service: Service, connect: Connect) -> None:
    ask = connect(service.url, timeout=0.05, retry_seconds=0)
    service.says(Reply(hang=True))
    began = time.monotonic()
    with pytest.raises(gps.TimedOut, match=r"0\.35 s"):
        ask("select_batch", **SELECT, wait_seconds=0.3)
    assert time.monotonic() - began >= 0.35


def test_retries_use_one_connection(service: Service, connect: Connect) -> None:
    service.says(*[Reply(503)] * 20, Reply(200, {"pools": []}))
    connect(service.url, attempts=30, longest_wait=0.001)("pools")
    assert service.accepted == 1


def test_timeouts_give_their_connections_back(service: Service, connect: Connect) -> None:
    """More than the pool has (100): a leaked one would show as ConnectFailed."""
    service.says(*[Reply(hang=True)] * 110)
    ask = connect(service.url, timeout=0.01, attempts=110, retry_seconds=20, longest_wait=0.0)
    with pytest.raises(gps.TimedOut):
        ask("pools")


def test_probes_are_not_retried(service: Service, ask: Asker) -> None:
    service.says(
        Reply(503, {"ready": False, "checks": {"database": "locked"}}), Reply(503), Reply(500)
    )
    assert ask("ready").checks == {"database": "locked"}
    assert ask("ready") == gps.Ready(ready=False, checks={"service": "Service Unavailable: {}"})
    assert ask("healthy") is False
    assert len(service.seen) == 3

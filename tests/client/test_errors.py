"""What a call raises: the branch of the tree, the message, the ids."""

from __future__ import annotations

import pickle
import socket
import time

import promptgps_client as gps
import pytest
from promptgps_client.wire import Problem

from .conftest import Asker, Connect, Reply, Service

PROBLEM = {
    "type": "about:blank",
    "title": "Invalid",
    "status": 422,
    "detail": "nothing was stored",
    "request_id": "r-1",
    "errors": [{"field": "successes", "row": 3, "detail": "9 of 8: more successes than trials"}],
}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, gps.InvalidRequest),
        (401, gps.Unauthenticated),
        (403, gps.Forbidden),
        (404, gps.NotFound),
        (405, gps.BadAnswer),
        (408, gps.BadAnswer),
        (409, gps.Conflict),
        (413, gps.TooLarge),
        (418, gps.BadAnswer),
        (422, gps.InvalidRequest),
        (429, gps.TooBusy),
        (500, gps.ServerFault),
        (501, gps.ServerFault),
        (503, gps.ServerFault),
        (599, gps.ServerFault),
        (302, gps.BadAnswer),
    ],
)
def test_each_status_has_its_class(
    service: Service, connect: Connect, status: int, kind: type[Exception]
) -> None:
    service.says(Reply(status, {**PROBLEM, "status": status}))
    with pytest.raises(gps.BadAnswer) as raised:
        connect(service.url, attempts=1)("pool", "p")
    assert type(raised.value) is kind
    assert raised.value.status == status
    assert not isinstance(raised.value, gps.NoAnswer | gps.UnreadableAnswer)


def test_the_message_names_field_row_and_request(service: Service, ask: Asker) -> None:
    service.says(Reply(422, {**PROBLEM, "instance": "a field of a newer service"}))
    with pytest.raises(gps.InvalidRequest) as raised:
        ask("report_groups", run="r", draw_id=["d"], successes=[1.0], trials=[8])
    assert str(raised.value) == (
        "POST /outcomes: 422: nothing was stored; successes, row 3: 9 of 8: "
        "more successes than trials (request r-1)"
    )
    assert raised.value.problem.errors[0].row == 3


def test_a_proxys_page_is_quoted_and_the_sent_request_id_kept(service: Service, ask: Asker) -> None:
    service.says(Reply(403, b"<html>no entry</html>"))
    with pytest.raises(gps.Forbidden, match="403: Forbidden: <html>no entry") as raised:
        ask("runs")
    assert raised.value.request_id == service.seen[0].headers["x-request-id"]


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"pools": 3}', b'{"pools": [{"name": "p"}]}', b"\xff\xfe"]
)
def test_a_success_that_cannot_be_read(service: Service, ask: Asker, body: bytes) -> None:
    service.says(Reply(200, body))
    with pytest.raises(gps.UnreadableAnswer, match="GET /pools: 200") as raised:
        ask("pools")
    assert len(service.seen) == 1
    assert raised.value.request_id == service.seen[0].headers["x-request-id"]


def test_a_broken_encoding_is_unreadable(service: Service, ask: Asker) -> None:
    service.says(Reply(200, b"not gzip", headers={"Content-Encoding": "gzip"}))
    with pytest.raises(gps.UnreadableAnswer, match="broken"):
        ask("pools")


def test_connection_refused_comes_fast(connect: Connect) -> None:
    with (
        socket.socket() as taken
    ):  # bound but not listening: nobody else can get the port, and it refuses
        taken.bind(("127.0.0.1", 0))
        ask = connect(f"http://127.0.0.1:{taken.getsockname()[1]}", retry_seconds=0.2)
        began = time.monotonic()
        with pytest.raises(gps.ConnectFailed, match="GET /pools: cannot connect") as raised:
            ask("pools")
    assert time.monotonic() - began < 2
    assert raised.value.request_id is not None


def test_silence_is_timed_out(service: Service, connect: Connect) -> None:
    service.says(Reply(hang=True))
    with pytest.raises(gps.TimedOut, match=r"no answer within 0\.05 s"):
        connect(service.url, timeout=0.05, retry_seconds=0)("pools")


def test_a_dropped_connection_is_no_answer(service: Service, connect: Connect) -> None:
    service.says(Reply(drop=True))
    with pytest.raises(gps.NoAnswer, match="the connection broke") as raised:
        connect(service.url, attempts=1)("pools")
    assert type(raised.value) is gps.NoAnswer


@pytest.mark.parametrize(
    ("method", "arguments", "field", "row"),
    [
        (
            "report_groups",
            {"run": "r", "draw_id": ["a", "b"], "successes": [1.0, 9.0], "trials": [8, 8]},
            "successes",
            1,
        ),
        (
            "report_groups",
            {"run": "r", "draw_id": ["a"], "successes": [float("nan")], "trials": [8]},
            "successes",
            0,
        ),
        (
            "report_groups",
            {"run": "r", "draw_id": ["a", "b"], "successes": [1.0], "trials": [8, 8]},
            "successes",
            None,
        ),
        (
            "report_groups",
            {"run": "r", "draw_id": "ab", "successes": [1.0, 1.0], "trials": [8, 8]},
            "draw_id",
            None,
        ),
        (
            "report_groups",
            {
                "run": "r",
                "draw_id": ["a"],
                "successes": [1.0],
                "trials": [8],
                "policy_version": [-1],
            },
            "policy_version",
            0,
        ),
        (
            "report_rollouts",
            {"run": "r", "draw_id": ["a", "b"], "rollout_index": [0, 1], "reward": [1.0, None]},
            "reward",
            1,
        ),
        ("select_batch", {"run": "r", "batch_size": 0}, "batch_size", None),
        (
            "select_batch",
            {"run": "r", "batch_size": 1, "wait_seconds": 121.0},
            "wait_seconds",
            None,
        ),
        (
            "create_run",
            {"name": "r", "pool": "p", "selection": {"target": 2.0}},
            "selection.target",
            None,
        ),
        (
            "create_run",
            {"name": "r", "pool": "p", "selection": {"band": [0.5, 0.1]}},
            "selection.band",
            None,
        ),
        (
            "create_run",
            {"name": "r", "pool": "p", "reward": {"kind": "threshold"}},
            "reward.threshold",
            None,
        ),
        ("create_run", {"name": "r", "pools": [{"pool": "p"}, {"pool": "no!"}]}, "pools.pool", 1),
        ("change_run", {"name": "r", "selection": {"cooldown": -1}}, "selection.cooldown", None),
        ("pool", {"name": "../runs"}, "name", None),
        ("metrics", {"run": "a/b"}, "run", None),
        ("add_prompts", {"pool": "p"}, "texts", None),
        ("add_prompts", {"pool": "p", "texts": ["a", "b"], "keys": ["a"]}, "keys", None),
        ("add_prompts", {"pool": "p", "texts": ["a", ""]}, "texts", 1),
        ("add_prompts", {"pool": "p", "texts": "ab"}, "texts", None),
        ("add_prompts_file", {"pool": "p", "path": "prompts.xls"}, "path", None),
    ],
)
def test_what_cannot_be_right_is_refused_before_it_is_sent(
    service: Service,
    ask: Asker,
    method: str,
    arguments: dict[str, object],
    field: str,
    row: int | None,
) -> None:
    with pytest.raises(gps.InvalidRequest, match=field) as raised:
        ask(method, **arguments)
    assert (field, row) in [(fault.field, fault.row) for fault in raised.value.problem.errors]
    assert raised.value.request_id is None
    assert not service.seen


def test_only_the_branch_that_was_meant_is_told(ask: Asker) -> None:
    """A policy version is a number or a list; of a wrong row only the list's fault is of use."""
    report = {"run": "r", "draw_id": ["a", "b"], "successes": [1.0, 1.0], "trials": [8, 8]}
    with pytest.raises(gps.InvalidRequest) as raised:
        ask("report_groups", **report, policy_version=[3, -1])
    (fault,) = raised.value.problem.errors
    assert (fault.field, fault.row) == ("policy_version", 1)
    with pytest.raises(gps.InvalidRequest) as raised:
        ask("report_groups", **report, policy_version=-1)
    assert {(fault.field, fault.row) for fault in raised.value.problem.errors} == {
        ("policy_version", None)
    }


@pytest.mark.parametrize(
    "error",
    [
        gps.TimedOut("GET /pools", "no answer within 1 s", "id"),
        gps.Conflict(
            "POST /runs", Problem(type="t", title="t", status=409, detail="taken"), "id", 2.0
        ),
        gps.UnreadableAnswer("GET /pools", "broken", 200, "<html>", "id"),
    ],
)
def test_errors_survive_pickling(error: gps.PromptGPSError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host", "http://"])
def test_an_address_must_be_one(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMPTGPS_URL", raising=False)
    for kind in (gps.PromptGPS, gps.AsyncPromptGPS):
        with pytest.raises(ValueError, match="PROMPTGPS_URL"):
            kind(url)


def test_an_api_key_must_fit_a_header() -> None:
    with pytest.raises(ValueError, match="printable ASCII") as raised:
        gps.PromptGPS("http://host", api_key="secret\n")
    assert "secret" not in str(raised.value)

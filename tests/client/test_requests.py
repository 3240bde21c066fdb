"""What goes out for each method, and how the answers are read."""

from __future__ import annotations

import array
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import promptgps_client as gps
import pytest
import torch
from promptgps_client import columns, wire

from .conftest import Asker, Connect, Reply, Service
from .test_retries import BATCH, STORED

POOL = {
    "name": "p",
    "embedding": {"kind": "wordllama"},
    "dimension": 256,
    "prompts": 0,
    "created_at": "2026-11-23",
}
RUN = {
    "name": "r",
    "pools": [{"pool": "p"}],
    "rollouts_per_prompt": 8,
    "reward": {},
    "seed": 0,
    "warm_start_from": None,
    "selection": {},
    "prompts": 2,
    "selections": 0,
    "draws": 0,
    "log_position": 0,
    "model_version": 0,
    "trained_through": 0,
    "created_at": "2026-11-23",
}
ADDED = {"added": 2, "duplicates": 1, "total": 9}
DIFFICULTY: dict[str, Any] = {"model_version": 1, "trained_through": 2} | {
    name: [0.5] for name in ("success_mean", "success_std", "lower", "upper", "difficulty")
}
BUDGET = {
    "model_version": 1,
    "trained_through": 2,
    "samples": [3, 1],
    "expected_value": 0.5,
    "expected_value_uniform": 0.4,
    "next_gain": 0.1,
}
SUBSET: dict[str, Any] = {
    "run": "r",
    "subset": "0123456789abcdef" * 2,
    "prompts": 2,
    "whole": False,
    "unknown": 0,
    "unknown_keys": [],
}
METRICS = {
    "run": "r",
    "predictor": "beta",
    "served": "beta",
    "steps": 1,
    "series": {"mean_success": [0.5, None]},
}
DELETED = {"name": "r", "dry_run": False, "outcomes": 4}
EVENT = {
    "id": 7,
    "created_at": "2026-11-23",
    "key": None,
    "action": "run-created",
    "run": "r",
    "pool": None,
    "detail": {},
}
EVENTS = {"events": [EVENT], "next": 7}
READY = {"ready": True, "checks": {"database": "ok"}}


@pytest.mark.parametrize(
    ("method", "arguments", "line", "body", "answer", "kind"),
    [
        ("create_pool", {"name": "p"}, "POST /pools", {"name": "p"}, POOL, gps.Pool),
        (
            "create_pool",
            {"name": "p", "embedding": gps.Embedding(kind="given", dimension=3)},
            "POST /pools",
            {"name": "p", "embedding": {"kind": "given", "dimension": 3}},
            POOL,
            gps.Pool,
        ),
        ("pools", {}, "GET /pools", None, {"pools": [POOL]}, gps.Pools),
        ("pool", {"name": "p"}, "GET /pools/p", None, POOL, gps.Pool),
        (
            "add_prompts",
            {"pool": "p", "texts": ("a", "b"), "domains": ["x", None]},
            "POST /pools/p/prompts",
            {"texts": ["a", "b"], "domains": ["x", None]},
            ADDED,
            gps.PromptsAdded,
        ),
        (
            "create_run",
            {"name": "r", "pool": "p"},
            "POST /runs",
            {"name": "r", "pool": "p", "rollouts_per_prompt": 8, "seed": 0},
            RUN,
            gps.Run,
        ),
        (
            "create_run",
            {
                "name": "r",
                "pools": [{"pool": "p", "quota": 1.0}],
                "selection": {"strategy": "mopps"},
            },
            "POST /runs",
            {
                "name": "r",
                "pools": [{"pool": "p", "quota": 1.0}],
                "rollouts_per_prompt": 8,
                "seed": 0,
                "selection": {"strategy": "mopps"},
            },
            RUN,
            gps.Run,
        ),
        (
            "archive_run",
            {"name": "r"},
            "POST /runs/r/archive",
            None,
            RUN | {"state": "archived"},
            gps.Run,
        ),
        ("reopen_run", {"name": "r"}, "POST /runs/r/open", None, RUN, gps.Run),
        ("delete_run", {"name": "r"}, "DELETE /runs/r?dry_run=false", None, DELETED, wire.Deleted),
        (
            "delete_run",
            {"name": "r", "dry_run": True},
            "DELETE /runs/r?dry_run=true",
            None,
            DELETED,
            wire.Deleted,
        ),
        (
            "archive_pool",
            {"name": "p"},
            "POST /pools/p/archive",
            None,
            POOL | {"state": "archived"},
            gps.Pool,
        ),
        ("reopen_pool", {"name": "p"}, "POST /pools/p/open", None, POOL, gps.Pool),
        (
            "delete_pool",
            {"name": "p"},
            "DELETE /pools/p?dry_run=false",
            None,
            DELETED,
            wire.Deleted,
        ),
        ("events", {}, "GET /events?limit=50", None, EVENTS, wire.Events),
        (
            "events",
            {"run": "r", "limit": 3},
            "GET /runs/r/events?limit=3",
            None,
            EVENTS,
            wire.Events,
        ),
        (
            "events",
            {"pool": "p", "before": 9},
            "GET /pools/p/events?limit=50&before=9",
            None,
            EVENTS,
            wire.Events,
        ),
        ("runs", {}, "GET /runs", None, {"runs": [RUN]}, gps.Runs),
        ("run", {"name": "r"}, "GET /runs/r", None, RUN, gps.Run),
        (
            "change_run",
            {"name": "r", "selection": {"target": 0.6}},
            "PATCH /runs/r",
            {"selection": {"target": 0.6}},
            RUN,
            gps.Run,
        ),
        (
            "change_run",
            {
                "name": "r",
                "selection": gps.Selection(candidate_factor=None),
                "rollouts_per_prompt": 4,
            },
            "PATCH /runs/r",
            {"rollouts_per_prompt": 4, "selection": {"candidate_factor": None}},
            RUN,
            gps.Run,
        ),
        (
            "add_prompts",
            {"pool": "p", "keys": ["a", "b"], "texts": ["x", "x"], "on_equal_content": "merge"},
            "POST /pools/p/prompts",
            {"keys": ["a", "b"], "texts": ["x", "x"], "on_equal_content": "merge"},
            ADDED | {"aliases": 1},
            gps.PromptsAdded,
        ),
        (
            "send_subset",
            {"run": "r", "keys": {"b", "a"}, "pool": "p"},
            "POST /runs/r/subsets",
            {"keys": ["a", "b"], "pool": "p"},
            SUBSET,
            gps.Subset,
        ),
        (
            "select_batch",
            {
                "run": "r",
                "batch_size": 1,
                "candidates": ["a", "b"],
                "candidates_pool": ("p", "q"),
                "exclude": ["c"],
                "exclude_pool": "q",
                "subset": SUBSET["subset"],
            },
            "POST /select_batch",
            {
                "run": "r",
                "batch_size": 1,
                "candidates": ["a", "b"],
                "candidates_pool": ["p", "q"],
                "exclude": ["c"],
                "exclude_pool": "q",
                "subset": SUBSET["subset"],
                "include_text": False,
                "wait_seconds": 0.0,
            },
            BATCH,
            gps.Batch,
        ),
        (
            "report_groups",
            {"run": "r", "prompt": ["a"], "pool": "p", "successes": [1], "trials": [2]},
            "POST /outcomes",
            {"run": "r", "prompt": ["a"], "pool": "p", "successes": [1.0], "trials": [2]},
            STORED,
            gps.OutcomesStored,
        ),
        (
            "predict_difficulty",
            {"run": "r", "keys": ["a"], "pool": ["p"]},
            "POST /predict_difficulty",
            {"run": "r", "keys": ["a"], "pool": ["p"], "level": 0.9},
            DIFFICULTY,
            gps.Difficulty,
        ),
        (
            "allocate_budget",
            {
                "run": "r",
                "keys": ["a", "b"],
                "pool": "p",
                "total": 4,
                "calibration": {"keys": ["c"], "pool": "q", "successes": [1], "trials": [2]},
            },
            "POST /allocate_budget",
            {
                "run": "r",
                "keys": ["a", "b"],
                "pool": "p",
                "total": 4,
                "minimum": 0,
                "objective": "best_of_n",
                "calibration": {"keys": ["c"], "pool": "q", "successes": [1], "trials": [2]},
            },
            BUDGET,
            gps.Budget,
        ),
        (
            "select_batch",
            {"run": "r", "batch_size": 1, "sequence": 0, "exclude": {"c", "a", "b"}},
            "POST /select_batch",
            {
                "run": "r",
                "batch_size": 1,
                "sequence": 0,
                "exclude": ["a", "b", "c"],
                "include_text": False,
                "wait_seconds": 0.0,
            },
            BATCH,
            gps.Batch,
        ),
        (
            "report_groups",
            {"run": "r", "draw_id": ["d"], "successes": [3], "trials": [8], "policy_version": 4},
            "POST /outcomes",
            {"run": "r", "draw_id": ["d"], "successes": [3.0], "trials": [8], "policy_version": 4},
            STORED,
            gps.OutcomesStored,
        ),
        (
            "report_rollouts",
            {
                "run": "r",
                "draw_id": ["d"],
                "rollout_index": [0],
                "reward": [None],
                "status": ["error"],
            },
            "POST /outcomes",
            {
                "run": "r",
                "draw_id": ["d"],
                "rollout_index": [0],
                "reward": [None],
                "status": ["error"],
            },
            STORED,
            gps.OutcomesStored,
        ),
        (
            "predict_difficulty",
            {"run": "r", "keys": ["a"]},
            "POST /predict_difficulty",
            {"run": "r", "keys": ["a"], "level": 0.9},
            DIFFICULTY,
            gps.Difficulty,
        ),
        (
            "allocate_budget",
            {
                "run": "r",
                "texts": ("a", "b"),
                "mean": 2,
                "outcomes_so_far": {"successes": np.array([0, 1]), "trials": (2, 2)},
                "calibration": gps.Calibration(
                    texts=["c"], successes=[1], trials=[3], wrong_answers=[[1, 1]]
                ),
            },
            "POST /allocate_budget",
            {
                "run": "r",
                "texts": ["a", "b"],
                "mean": 2.0,
                "minimum": 0,
                "objective": "best_of_n",
                "outcomes_so_far": {"successes": [0, 1], "trials": [2, 2]},
                "calibration": {
                    "texts": ["c"],
                    "successes": [1],
                    "trials": [3],
                    "wrong_answers": [[1, 1]],
                },
            },
            BUDGET,
            gps.Budget,
        ),
        (
            "metrics",
            {"run": "r"},
            "GET /runs/r/metrics?since=0&every=1",
            None,
            METRICS,
            gps.RunMetrics,
        ),
        ("ready", {}, "GET /readyz", None, READY, gps.Ready),
        ("healthy", {}, "GET /healthz", None, b"ok", bool),
    ],
)
def test_each_method(
    service: Service,
    ask: Asker,
    method: str,
    arguments: dict[str, Any],
    line: str,
    body: Any,
    answer: Any,
    kind: type,
) -> None:
    service.says(Reply(200, answer))
    assert type(ask(method, **arguments)) is kind
    (seen,) = service.seen
    assert f"{seen.method} {seen.path}" == line
    assert (seen.json() if seen.body else None) == body
    assert ("idempotency-key" in seen.headers) == (seen.method == "POST")
    assert seen.headers.get("content-type") == ("application/json" if body else None)


def test_a_budget_that_cannot_be_met_is_not_even_asked_for(service: Service, ask: Asker) -> None:
    with pytest.raises(
        gps.InvalidRequest, match="total: 5 samples are too few for 3 prompts with a minimum of 2"
    ):
        ask("allocate_budget", run="r", keys=["a", "b", "c"], total=5, minimum=2)
    so_far = {"successes": [0, 2], "trials": [1, 1]}
    with pytest.raises(gps.InvalidRequest, match=r"outcomes_so_far\.successes, row 1: 2 of 1"):
        ask("allocate_budget", run="r", keys=["a", "b"], total=5, outcomes_so_far=so_far)
    assert not service.seen


def test_fields_of_a_newer_service_are_passed_over(service: Service, ask: Asker) -> None:
    draws = {**BATCH["draws"], "reason": ["near the target"]}  # type: ignore[dict-item]
    service.says(Reply(200, {**BATCH, "draws": draws, "model_kind": "hierarchical"}))
    assert ask("select_batch", run="r", batch_size=1).draws.draw_id == ["d"]


@pytest.mark.parametrize(
    "array_of",
    [
        np.array,
        torch.tensor,
        lambda values: array.array("d" if isinstance(values[0], float) else "q", values),
        lambda values: [np.array(value)[()] for value in values],
        lambda values: [torch.tensor(value) for value in values],
    ],
    ids=["numpy", "torch", "array", "numpy scalars", "torch scalars"],
)
def test_arrays_are_columns(service: Service, ask: Asker, array_of: Any) -> None:
    service.says(Reply(200, STORED))
    ask(
        "report_groups",
        run="r",
        draw_id=["a", "b"],
        successes=array_of([0.5, 8.0]),
        trials=array_of([8, 8]),
    )
    assert service.seen[0].json() == {
        "run": "r",
        "draw_id": ["a", "b"],
        "successes": [0.5, 8.0],
        "trials": [8, 8],
    }


def test_headers(service: Service, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTGPS_URL", f"{service.url}/behind/a/proxy/")
    monkeypatch.setenv("PROMPTGPS_API_KEY", "from-the-environment")
    service.says(*[Reply(200, {"pools": []})] * 2)
    connect(None)("pools")
    connect(f"{service.url}/behind", api_key="given")("pools")
    assert [seen.path for seen in service.seen] == ["/behind/a/proxy/pools", "/behind/pools"]
    assert [seen.headers["authorization"] for seen in service.seen] == [
        "Bearer from-the-environment",
        "Bearer given",
    ]
    assert service.seen[0].headers["user-agent"].startswith("promptgps/")


def test_no_key_no_header(service: Service, ask: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMPTGPS_API_KEY", raising=False)
    service.says(Reply(200, {"pools": []}))
    ask("pools")
    assert "authorization" not in service.seen[0].headers


def test_with_options_shares_the_connections(service: Service, connect: Connect) -> None:
    ask = connect(service.url)
    service.says(Reply(200, {"pools": []}), Reply(503), Reply(200, {"pools": []}))
    ask("pools")
    owner = ask.client
    ask.client = ask.client.with_options(retry_seconds=0, timeout=1.0)
    with pytest.raises(gps.ServerFault):
        ask("pools")
    ask("close")
    ask.client = owner
    ask("pools")
    assert service.accepted == 1


# ---- many prompts --------------------------------------------------------------------------------


def test_long_columns_go_out_in_requests(service: Service, ask: Asker) -> None:
    service.says(*[Reply(200, {**ADDED, "total": total}) for total in (10, 20, 25)])
    rows = 45_000
    added = ask(
        "add_prompts",
        "p",
        keys=[f"k{row}" for row in range(rows)],
        vectors=np.zeros((rows, 2), np.float32),
    )
    assert (added.added, added.duplicates, added.total) == (6, 3, 25)
    sent = [seen.json() for seen in service.seen]
    assert [len(part["vectors"]) for part in sent] == [20_000, 20_000, 5_000]
    assert [key for part in sent for key in part["keys"]] == [f"k{row}" for row in range(rows)]
    assert len({seen.headers["idempotency-key"] for seen in service.seen}) == 3


@pytest.mark.parametrize(
    "column",
    [
        {"texts": ["x" * 3_000] * 10},
        {"texts": ["ü" * 1_500] * 10},
        {"vectors": [[0.125] * 136] * 10},
    ],
)
def test_requests_have_a_size(
    service: Service, ask: Asker, column: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "BYTES_IN_REQUEST", 10_000)
    service.says(*[Reply(200, ADDED)] * 4)
    ask("add_prompts", "p", **column)
    (name,) = column
    assert [len(seen.json()[name]) for seen in service.seen] == [3, 3, 3, 1]
    assert max(len(seen.body) for seen in service.seen) < 10_100


def test_faults_are_told_in_the_callers_rows(
    service: Service, ask: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "ROWS_IN_REQUEST", 2)
    problem = {
        "type": "t",
        "title": "t",
        "status": 422,
        "detail": "texts, row 1: no",
        "errors": [{"field": "texts", "row": 1, "detail": "no"}],
    }
    service.says(Reply(200, ADDED), Reply(422, problem), *[Reply(200, ADDED)] * 2)
    with pytest.raises(gps.InvalidRequest, match="texts, row 3: no"):
        ask("add_prompts", "p", texts=["a", "b", "c", "d", "e"])
    with pytest.raises(gps.InvalidRequest, match="texts, row 4"):
        ask("add_prompts", "p", texts=["a", "b", "c", "d", ""])


def test_columns_that_disagree_are_refused_before_the_first_request(
    service: Service, ask: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "ROWS_IN_REQUEST", 2)
    with pytest.raises(gps.InvalidRequest, match="vectors: has 4 rows"):
        ask("add_prompts", "p", texts=["a", "b", "c"], vectors=np.zeros((4, 2)))
    assert not service.seen


@pytest.mark.parametrize(
    ("name", "kind", "encoding"),
    [
        ("p.jsonl", "application/jsonl", None),
        ("p.jsonl.gz", "application/jsonl", "gzip"),
        ("p.parquet", "application/vnd.apache.parquet", None),
    ],
)
def test_a_file_is_streamed_and_read_again_on_a_retry(
    service: Service, ask: Asker, tmp_path: Path, name: str, kind: str, encoding: str | None
) -> None:
    content = gzip.compress(b'{"text": "a"}\n') if encoding else b'{"text": "a"}\n' * 200_000
    (tmp_path / name).write_bytes(content)
    service.says(Reply(503), Reply(drop=True), Reply(200, ADDED))
    assert ask("add_prompts_file", "p", tmp_path / name).added == 2
    assert [seen.body for seen in service.seen] == [content] * 3
    for seen in service.seen:
        assert (seen.headers["content-type"], seen.headers.get("content-encoding")) == (
            kind,
            encoding,
        )
        assert "transfer-encoding" not in seen.headers


def test_a_file_that_is_not_there(service: Service, ask: Asker, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ask("add_prompts_file", "p", str(tmp_path / "none.jsonl"))
    assert not service.seen

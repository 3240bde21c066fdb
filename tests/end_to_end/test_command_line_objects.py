"""`promptgps runs`, `pools` and `events` as a user meets them, on a running service's database."""

from __future__ import annotations

import json
from pathlib import Path

from promptgps_service.cli import app
from promptgps_service.errors import PromptGPSError
from typer.testing import CliRunner

from tests.end_to_end.test_command_line import promptgps
from tests.server import running, wait_for


def told(url: str, *arguments: str, code: int = 0, answer: str | None = None) -> str:
    """What a command says, in this process: each of its own would import torch first."""
    done = CliRunner().invoke(app, [*arguments, "--database-url", url], input=answer)
    if isinstance(done.exception, PromptGPSError):  # `main` makes a line of it, and exit code 2
        assert code == 2, done.exception.detail
        where = f"{done.exception.faults[0].field} " if done.exception.faults else ""
        return f"{where}{done.exception.detail}"
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def test_runs_and_pools_are_listed_put_away_and_deleted_while_they_are_served(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/a.db"

    with running(url, tmp_path) as server:
        server.json("POST", "/pools", {"name": "p", "embedding": {"kind": "given", "dimension": 2}})
        server.json(
            "POST",
            "/pools/p/prompts",
            {"keys": ["a", "b", "c"], "vectors": [[0, 1], [1, 0], [1, 1]]},
        )
        for run in ("r", "s"):
            server.json("POST", "/runs", {"name": run, "pool": "p"})
        server.json("POST", "/select_batch", {"run": "r", "sequence": 0, "batch_size": 2})

        header, first, second = told(url, "runs", "list").splitlines()
        assert header.split()[:3] == ["name", "state", "pools"]
        assert first.split()[:5] == ["r", "open", "p", "3", "1"]
        assert second.split()[0] == "s"
        assert [run["name"] for run in json.loads(told(url, "runs", "list", "--json"))] == [
            "r",
            "s",
        ]
        assert json.loads(told(url, "runs", "show", "r", "--json"))["draws"] == 2
        assert "rollouts_per_prompt  8" in told(url, "runs", "show", "r")
        assert told(url, "pools", "list").splitlines()[1].split()[:2] == ["p", "open"]
        assert json.loads(told(url, "pools", "show", "p", "--json"))["prompts"] == 3

        assert told(url, "runs", "archive", "r") == "run r is archived\n"
        refused = server.request("POST", "/select_batch", json={"run": "r", "batch_size": 1})
        assert refused.status_code == 409
        told(url, "runs", "open", "r")
        assert (
            server.request("POST", "/select_batch", json={"run": "r", "batch_size": 1}).status_code
            == 200
        )
        told(url, "pools", "archive", "p")
        assert server.request("POST", "/runs", json={"name": "t", "pool": "p"}).status_code == 409
        told(url, "pools", "open", "p")

        assert "run r would be deleted: 2 selections, 3 draws" in told(
            url, "runs", "delete", "r", "--dry-run"
        )
        assert "runs 'r', 's' draws from pool 'p'" in told(
            url, "pools", "delete", "p", "--yes", code=2
        )
        assert (
            told(url, "runs", "delete", "r", "--yes") == "run r is deleted: 2 selections, 3 draws\n"
        )
        assert "no run 'r': it was deleted" in told(url, "runs", "show", "r", code=2)
        wait_for(
            lambda: server.request("GET", "/runs/r").status_code == 404,
            10.0,
            "the service to follow",
        )
        assert (
            server.request("POST", "/select_batch", json={"run": "r", "batch_size": 1}).status_code
            == 404
        )

        lines = told(url, "events", "--run", "r").splitlines()
        assert [line.split()[3] for line in lines[1:]] == [
            "run-deleted",
            "run-opened",
            "run-archived",
            "run-created",
        ]
        assert len(json.loads(told(url, "events", "--json", "--limit", "2"))) == 2
        assert [line.split()[3] for line in told(url, "events", "--pool", "p").splitlines()[1:]][
            -1
        ] == "pool-created"
        assert "--pool" in told(url, "events", "--run", "r", "--pool", "p", code=2)


def test_deleting_asks_first(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    with running(url, tmp_path) as server:
        server.json("POST", "/pools", {"name": "p", "embedding": {"kind": "given", "dimension": 2}})

    for answer in ("n\n", "\n", ""):
        assert "Delete pool p for good" in told(url, "pools", "delete", "p", code=1, answer=answer)
    told(url, "pools", "show", "p")
    told(url, "pools", "delete", "p", answer="y\n")
    told(url, "pools", "show", "p", code=2)


def test_a_refusal_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    refused = promptgps(
        tmp_path,
        "runs",
        "delete",
        "nobody",
        "--yes",
        "--database-url",
        f"sqlite:///{tmp_path}/a.db",
    )
    assert (refused.returncode, refused.stderr) == (2, "promptgps: there is no run 'nobody'\n")

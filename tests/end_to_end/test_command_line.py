"""The `promptgps` command as a user meets it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from promptgps_service.store.engine import make_engine
from sqlalchemy import inspect

from tests.server import command, environment, running

SECONDS = 200  # torch alone takes a minute to import on a machine that does much else
GOLDEN = Path(__file__).parent.parent / "schema" / "openapi.json"


def promptgps(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end in a folder."""
    wide = {"COLUMNS": "200", "TERM": "dumb"} | variables
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(**wide),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def test_help_names_every_command(tmp_path: Path) -> None:
    shown = promptgps(tmp_path, "--help")
    assert shown.returncode == 0
    assert all(
        name in shown.stdout
        for name in ("serve", "migrate", "export", "import", "replay", "settings")
    )
    assert not shown.stderr


def test_help_of_serve_names_its_flags_with_variables_and_defaults(tmp_path: Path) -> None:
    shown = promptgps(tmp_path, "serve", "--help")
    assert shown.returncode == 0
    for word in (
        "--host",
        "--port",
        "--database-url",
        "--no-train",
        "--no-migrate",
        "PROMPTGPS_PORT",
        "127.0.0.1",
    ):
        assert word in shown.stdout


def test_migrate_brings_a_new_database_to_the_newest_schema_and_does_so_again(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/new.db"
    for _ in range(2):
        done = promptgps(tmp_path, "migrate", "--database-url", url)
        assert done.returncode == 0, done.stderr
        assert "head" in done.stdout
    engine = make_engine(url)
    assert {"pools", "runs", "selections", "outcomes"} <= set(inspect(engine).get_table_names())
    engine.dispose()


def test_settings_lists_every_variable_with_its_value_and_hides_keys(tmp_path: Path) -> None:
    shown = promptgps(tmp_path, "settings", PROMPTGPS_PORT="8123", PROMPTGPS_API_KEYS="secret-key")
    assert shown.returncode == 0
    assert "PROMPTGPS_PORT = 8123" in shown.stdout
    assert "PROMPTGPS_DATABASE_URL" in shown.stdout
    assert "secret-key" not in shown.stdout + shown.stderr


def test_settings_hides_the_password_of_the_database(tmp_path: Path) -> None:
    shown = promptgps(
        tmp_path, "settings", PROMPTGPS_DATABASE_URL="postgresql://gps:hunter2@127.0.0.1/gps"
    )
    assert shown.returncode == 0
    assert "hunter2" not in shown.stdout


def test_export_openapi_prints_the_golden_document(tmp_path: Path) -> None:
    printed = promptgps(tmp_path, "export-openapi")
    assert printed.returncode == 0, printed.stderr
    assert json.loads(printed.stdout) == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize(
    ("name", "url", "word"),
    [
        ("migrate", "nonsense", "database"),
        ("migrate", "mysql://127.0.0.1/gps", "mysql"),
        ("migrate", "sqlite://", "file"),
        ("migrate", "sqlite:////nowhere/at/all/gps.db", "database"),
        ("migrate", f"sqlite:///{__file__}", "not a database"),
        ("serve", f"sqlite:///{__file__}", "not a database"),
        ("serve", "nonsense", "database"),
        ("serve", "postgresql://gps:hunter2@127.0.0.1:9/gps", "database"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_clear_line_and_exit_code_2(
    tmp_path: Path, name: str, url: str, word: str
) -> None:
    flags = ("--port", "0") if name == "serve" else ()
    failed = promptgps(tmp_path, name, "--database-url", url, *flags)
    assert failed.returncode == 2, failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1, failed.stderr
    assert failed.stderr.startswith("promptgps: ")
    assert word in failed.stderr
    assert "hunter2" not in failed.stderr
    assert failed.stdout == ""


@pytest.mark.parametrize(
    ("variable", "value"),
    [("PROMPTGPS_PORT", "99999"), ("PROMPTGPS_TRAIN", "perhaps"), ("PROMPTGPS_LOG_FORMAT", "xml")],
)
def test_a_setting_that_cannot_be_is_one_clear_line_and_exit_code_2(
    tmp_path: Path, variable: str, value: str
) -> None:
    failed = promptgps(tmp_path, "serve", **{variable: value})
    assert failed.returncode == 2, failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1, failed.stderr
    assert variable in failed.stderr


def test_a_device_that_is_not_there_is_one_clear_line_and_exit_code_2(tmp_path: Path) -> None:
    failed = promptgps(
        tmp_path,
        "serve",
        "--port",
        "0",
        "--device",
        "nonsense",
        "--database-url",
        f"sqlite:///{tmp_path}/a.db",
    )
    assert failed.returncode == 2, failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1, failed.stderr
    assert "nonsense" in failed.stderr


def test_a_port_that_is_taken_is_one_clear_line_and_exit_code_2(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    with running(url, tmp_path) as server:
        port = server.url.rpartition(":")[2]
        failed = promptgps(tmp_path, "serve", "--port", port, "--database-url", url)
    assert failed.returncode == 2, failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1, failed.stderr
    assert port in failed.stderr


def test_json_logs_are_one_object_a_line_with_the_request_id(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    with running(url, tmp_path, PROMPTGPS_LOG_FORMAT="json") as server:
        server.request("GET", "/pools", headers={"x-request-id": "mine-1"})
        server.stop()
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (asked,) = [line for line in lines if line.get("request_id") == "mine-1"]
    assert (asked["method"], asked["route"], asked["status"]) == ("GET", "/pools", 200)


def test_a_run_is_exported_while_it_is_served_and_imported_into_a_service_that_runs(
    tmp_path: Path,
) -> None:
    there, here = (f"sqlite:///{tmp_path}/{name}.db" for name in ("there", "here"))
    for url in (there, here):
        assert promptgps(tmp_path, "migrate", "--database-url", url).returncode == 0
    with running(there, tmp_path) as server:
        server.json("POST", "/pools", {"name": "p", "embedding": {"kind": "given", "dimension": 2}})
        server.json(
            "POST",
            "/pools/p/prompts",
            {"keys": ["a", "b", "c"], "vectors": [[0, 1], [1, 0], [1, 1]]},
        )
        server.json("POST", "/runs", {"name": "r", "pool": "p"})
        batch = server.json("POST", "/select_batch", {"run": "r", "sequence": 0, "batch_size": 2})
        done = promptgps(tmp_path, "export", "r", "archive", "--database-url", there)
        assert done.returncode == 0, done.stderr
    with running(here, tmp_path) as server:
        done = promptgps(tmp_path, "import", "archive", "--database-url", here)
        assert (done.returncode, done.stdout) == (0, "r: 1 selections, 0 outcomes\n"), done.stderr
        same = server.json("POST", "/select_batch", {"run": "r", "sequence": 0, "batch_size": 2})
        assert same["draws"] == batch["draws"]
        report = {
            "run": "r",
            "draw_id": batch["draws"]["draw_id"],
            "successes": [1, 2],
            "trials": [4, 4],
        }
        assert server.json("POST", "/outcomes", report)["stored"] == 2
    refused = promptgps(tmp_path, "import", "archive", "--database-url", here)
    assert refused.returncode == 2
    assert "there is a run 'r'" in refused.stderr

"""Keys as an operator meets them.

On the command line, and at a server that refuses to be open to all.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.test_command_line import promptgps
from tests.server import running, wait_for


def test_a_key_opens_a_running_server_until_it_is_revoked(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    added = promptgps(
        tmp_path,
        "keys",
        "add",
        "reader",
        "--run",
        "exp-*",
        "--read-only",
        "--days",
        "30",
        "--database-url",
        url,
    )
    assert added.returncode == 0, added.stderr
    key = added.stdout.strip()
    listed = promptgps(tmp_path, "keys", "list", "--database-url", url)
    assert listed.stdout.split("\t")[:2] == ["reader", "read exp-*"]
    assert key not in listed.stdout
    assert key.encode() not in (tmp_path / "a.db").read_bytes()
    with running(url, tmp_path) as server:

        def status(key: str) -> int:
            return server.request(
                "GET", "/pools", headers={"authorization": f"Bearer {key}"}
            ).status_code

        assert [status("guess"), status(key)] == [401, 200]
        other = promptgps(tmp_path, "keys", "add", "other", "--database-url", url)
        assert (
            promptgps(tmp_path, "keys", "revoke", "reader", "--database-url", url).returncode == 0
        )
        wait_for(lambda: status(key) == 401, 30.0, "the revoked key to open nothing", pause=0.2)
        assert [status("guess"), status(other.stdout.strip())] == [401, 200]
        assert key not in server.log.read_text()


def test_a_server_whose_last_key_is_revoked_stays_shut_until_keys_are_forgotten(
    tmp_path: Path,
) -> None:
    flags = ("--database-url", f"sqlite:///{tmp_path}/a.db")
    assert promptgps(tmp_path, "keys", "add", "only", *flags).returncode == 0
    with running(flags[1], tmp_path) as server:

        def status() -> int:
            return server.request("GET", "/pools").status_code

        assert status() == 401
        assert promptgps(tmp_path, "keys", "revoke", "only", *flags).returncode == 0
        wait_for(
            lambda: "keys add" in server.request("GET", "/pools").text,
            30.0,
            "the revoked key to be known",
            0.2,
        )
        assert status() == 401
        assert promptgps(tmp_path, "keys", "list", *flags).stdout == ""
        assert promptgps(tmp_path, "keys", "list", "--all", *flags).stdout.startswith("only\t")
        again = promptgps(tmp_path, "keys", "add", "other", "--first", *flags)
        assert (again.returncode, again.stdout) == (0, "")
        assert promptgps(tmp_path, "keys", "forget-all", *flags).returncode == 0
        wait_for(lambda: status() == 200, 30.0, "the service to be open again", pause=0.2)


def test_what_cannot_be_done_with_keys_is_one_clear_line_and_exit_code_2(tmp_path: Path) -> None:
    url = ("--database-url", f"sqlite:///{tmp_path}/a.db")
    assert promptgps(tmp_path, "keys", "add", "taken", *url).returncode == 0
    for arguments in (
        ("add", "taken"),
        ("add", "a b"),
        ("add", "new", "--run", "a b"),
        ("revoke", "nobody"),
    ):
        failed = promptgps(tmp_path, "keys", *arguments, *url)
        assert failed.returncode == 2, failed.stderr
        assert len(failed.stderr.strip().splitlines()) == 1, failed.stderr
        assert failed.stdout == ""


def test_the_first_key_is_made_once(tmp_path: Path) -> None:
    url = ("--database-url", f"sqlite:///{tmp_path}/a.db")
    made = promptgps(tmp_path, "keys", "add", "trainer", "--first", *url)
    assert made.stdout.startswith("pgps_"), made.stderr
    again = promptgps(tmp_path, "keys", "add", "other", "--first", *url)
    assert (again.returncode, again.stdout) == (0, "")
    assert len(promptgps(tmp_path, "keys", "list", *url).stdout.splitlines()) == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_no_server_without_keys_for_other_machines(tmp_path: Path, host: str) -> None:
    failed = promptgps(
        tmp_path,
        "serve",
        "--host",
        host,
        "--port",
        "0",
        "--database-url",
        f"sqlite:///{tmp_path}/a.db",
    )
    assert failed.returncode == 2, failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1, failed.stderr
    assert "keys add" in failed.stderr
    assert "--insecure" in failed.stderr
    assert failed.stdout == ""

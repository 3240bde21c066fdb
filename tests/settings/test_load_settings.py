"""Settings are read strictly: what is misspelt, empty or wrong is told, all of it at once."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from promptgps_service.errors import Invalid
from promptgps_service.settings import OTHER_PREFIXES, OTHERS, Settings, load_settings, variable

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("PROMPTGPS_") and not name.startswith(OTHER_PREFIXES):
            monkeypatch.delenv(name)


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """A folder of secrets, still empty."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    return folder


def refused(secrets: Path, **flags: object) -> str:
    with pytest.raises(Invalid) as error:
        load_settings(secrets=secrets, **flags)
    return error.value.detail


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("PROMPTGPS_PROT", "PROMPTGPS_PORT"),
        ("PROMPTGPS_API_KEYZ", "PROMPTGPS_API_KEY"),
        ("PROMPTGPS_DATABASE", "PROMPTGPS_DATABASE_URL"),
        ("PROMPTGPS_MAX_BODY", "PROMPTGPS_MAX_BODY_MB"),
        ("PROMPTGPS_ALLOWED_HOST", "PROMPTGPS_ALLOWED_HOSTS"),
        ("promptgps_lease_second", "PROMPTGPS_LEASE_SECONDS"),
        ("PROMPT_GPS_API_KEYS", "PROMPTGPS_API_KEYS"),
        ("PROMTGPS_ALLOW_OPEN", "PROMPTGPS_ALLOW_OPEN"),
    ],
)
def test_a_misspelt_variable_is_told_with_the_one_that_was_meant(
    secrets: Path, monkeypatch: pytest.MonkeyPatch, misspelt: str, meant: str
) -> None:
    monkeypatch.setenv(misspelt, "1")
    told = refused(secrets)
    assert told.startswith(f"{misspelt}: ")
    assert meant in told
    assert "promptgps settings" in told


def test_one_that_resembles_nothing_is_told_too(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTGPS_XYZZY", "1")
    assert "did you mean" not in refused(secrets)


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_misspelling_by_one_character_is_noticed(
    secrets: Path, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    name = variable(field)
    for place in range(len("PROMPTGPS_"), len(name)):
        misspelt = name[:place] + "Q" + name[place + 1 :]
        if misspelt in OTHERS or misspelt == name:
            continue
        with monkeypatch.context() as patch:
            patch.setenv(misspelt, "1")
            assert misspelt in refused(secrets)


@pytest.mark.parametrize(
    "name",
    [
        "PROMPTGPS_URL",
        "PROMPTGPS_API_KEY",
        "PROMPTGPS_IMAGE",
        "PROMPTGPS_SOAK_SECONDS",
        "PROMPTGPS_TEST_ANYTHING",
        "PROMPTGPS_SERVICE_HOST",
        "PROMPTGPS_SERVICE_PORT",
        "PROMPTGPS_SERVICE_PORT_HTTP",
        "PROMPTGPS_PORT_8000_TCP",
        "PROMPTGPS_PORT_8000_TCP_ADDR",
        "PROMPTGPS_API_SERVICE_HOST",
        "PROMPTGPS_API_PORT_8000_TCP_PROTO",
    ],
)
def test_what_others_read_is_no_fault(
    secrets: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "x")
    load_settings(secrets=secrets)


@pytest.mark.parametrize("name", ["PROMPTGPS_PORT", "PROMPTGPS_API_PORT"])
def test_the_address_of_a_kubernetes_service_is_no_port(
    secrets: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.1:8000")
    assert load_settings(secrets=secrets).port == 8000


def test_every_variable_of_the_repository_is_known() -> None:
    """Also those of the client, the compose file, tests and examples: none may stop the service."""
    listed = subprocess.run(
        [
            "git",
            "grep",
            "-hoIE",
            "PROMPTGPS_[A-Z_]*[A-Z]",
            "--",
            ".",
            ":!tests/settings",
            ":!CHANGELOG.md",
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    known = OTHERS | {variable(field) for field in Settings.model_fields}
    found = {name for name in listed.stdout.split() if not name.startswith(OTHER_PREFIXES)}
    assert {"PROMPTGPS_URL", "PROMPTGPS_PORT"} <= found
    assert {
        name for name in found if name not in known and not re.fullmatch("PROMPTGPS_TEST", name)
    } == set()


def test_a_misspelt_secret_is_told(secrets: Path) -> None:
    (secrets / "promptgps_database_urll").write_text("sqlite:///a.db")
    (secrets / "database_password").write_text("not ours")
    told = refused(secrets)
    assert "promptgps_database_urll" in told
    assert "did you mean promptgps_database_url?" in told


def test_a_secret_that_is_no_file_is_told(secrets: Path, tmp_path: Path) -> None:
    (secrets / "promptgps_api_keys").mkdir()
    assert "promptgps_api_keys" in refused(secrets)


@pytest.mark.parametrize("value", ["", " ", ",", " , "])
@pytest.mark.parametrize(
    "field", ["api_keys", "port", "host", "database_url", "allowed_hosts", "train"]
)
def test_a_setting_that_is_there_and_says_nothing_is_told(
    secrets: Path, monkeypatch: pytest.MonkeyPatch, field: str, value: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv(variable(field), value)
        assert refused(secrets).startswith(f"{variable(field)} is empty")
    (secrets / f"promptgps_{field}").write_text(value)
    assert f"promptgps_{field} is empty" in refused(secrets)


WRONG = {
    "PROMPTGPS_PORT": "99999",
    "PROMPTGPS_TRAIN": "perhaps",
    "PROMPTGPS_LOG_FORMAT": "xml",
    "PROMPTGPS_POLL_SECONDS": "nan",
    "PROMPTGPS_MAX_BODY_MB": "inf",
    "PROMPTGPS_LEASE_SECONDS": "3601",
    "PROMPTGPS_EMBEDDING_ROOT": "/no/such/folder",
    "PROMPTGPS_ALLOWED_HOSTS": "localhost:8000",
    "PROMPTGPS_ALLOWED_ORIGINS": "https://app.example/path",
}


def test_everything_wrong_is_told_at_once_with_value_and_what_may_be_there(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in WRONG.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PROMPTGPS_DATABASE_URL", "mysql://gps:hunter2@db/gps")
    monkeypatch.setenv("PROMPTGPS_PROT", "1")
    monkeypatch.setenv("PROMPTGPS_HOST", "")
    told = refused(secrets).split("\n  ")
    assert told[0] == f"{len(WRONG) + 3} settings cannot be"
    for name, value in WRONG.items():
        (line,) = [line for line in told if line.startswith(f"{name}=")]
        assert repr(value) in line
        assert (
            str(Settings.model_fields[name.removeprefix("PROMPTGPS_").lower()].description) in line
        )
    (database,) = [line for line in told if "PROMPTGPS_DATABASE_URL" in line]
    assert "mysql" in database
    assert "hunter2" not in database


def test_a_flag_is_told_as_a_flag_and_a_file_as_a_file(secrets: Path) -> None:
    assert refused(secrets, port=99999).startswith("--port=")
    (secrets / "promptgps_port").write_text("many")
    assert refused(secrets).startswith(f"{secrets}/promptgps_port='many'")


@pytest.mark.parametrize(
    ("names", "read"),
    [
        ("a", ("a",)),
        ("GPS.example, *.b ,", ("gps.example", "*.b")),
        ("*", ("*",)),
        ("[::1],::1", ("[::1]", "::1")),
    ],
)
def test_names_of_hosts_are_a_list(
    secrets: Path, monkeypatch: pytest.MonkeyPatch, names: str, read: tuple[str, ...]
) -> None:
    monkeypatch.setenv("PROMPTGPS_ALLOWED_HOSTS", names)
    assert load_settings(secrets=secrets).allowed_hosts == read

"""Settings that are files, as Docker and others mount secrets."""

from __future__ import annotations

from pathlib import Path

import pytest
from promptgps_service.settings import Settings


def test_a_secret_is_a_file_and_yields_to_the_environment_and_to_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "promptgps_database_url").write_text("postgresql://file/\n")
    (tmp_path / "promptgps_api_keys").write_text("one, two\n")
    found = Settings(_secrets_dir=tmp_path)
    assert found.database_url == "postgresql://file/"
    assert [key.get_secret_value() for key in found.api_keys] == ["one", "two"]
    monkeypatch.setenv("PROMPTGPS_DATABASE_URL", "postgresql://environment/")
    assert Settings(_secrets_dir=tmp_path).database_url == "postgresql://environment/"
    assert (
        Settings(_secrets_dir=tmp_path, database_url="postgresql://flag/").database_url
        == "postgresql://flag/"
    )

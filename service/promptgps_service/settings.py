"""Settings: from flags, the environment (`PROMPTGPS_…`) or files, in this order, with a reason for each default."""

from __future__ import annotations

import os
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

# Where Docker and others mount secrets: the file `promptgps_database_url` is what PROMPTGPS_DATABASE_URL would be.
SECRETS = Path("/run/secrets")


class Settings(BaseSettings):
    """One frozen tree of settings, made once by whoever starts the process."""

    model_config = SettingsConfigDict(
        env_prefix="PROMPTGPS_",
        frozen=True,
        extra="ignore",
        secrets_dir=SECRETS if os.access(SECRETS, os.R_OK) else None,
    )

    database_url: str = Field(
        "sqlite:///promptgps.db", description="sqlite:///FILE (one machine) or postgresql://USER:PASSWORD@HOST/NAME."
    )
    host: str = Field("127.0.0.1", description="Address to listen on; loopback, so that nothing is open by accident.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    device: str = Field("auto", description="Where the model lives: auto (cuda where there is one), cpu, cuda:1 …")
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="Comma-separated keys with all rights, besides those of `promptgps keys`; with a key in either "
        "place, all but the health checks want `Authorization: Bearer KEY`.",
    )
    allow_open: bool = Field(
        False, description="Serve other machines without any API key; without this only loopback is open."
    )
    train: bool = Field(True, description="Whether this process learns; false for a replica that only serves.")
    torch_threads: int = Field(
        0, ge=0, le=256, description="Threads of one torch operation; 0 leaves one core for the requests."
    )
    device_callers: int = Field(
        32, ge=1, le=96, description="Requests that may wait for the device, half of them of one run; others get 429."
    )
    learn_groups: int = Field(
        32, ge=1, description="Complete groups that are learned from without waiting for the rest."
    )
    learn_seconds: float = Field(
        2.0, ge=0, le=3600, description="Longest time that outcomes of an unfinished step wait to be learned "
        "from; where the trainer asks for its batches with wait_seconds, they wait until it asks."
    )
    poll_seconds: float = Field(
        0.25, gt=0, le=60, description="Pause between two looks at what other processes have written."
    )
    lease_seconds: float = Field(
        10.0, ge=0.5, le=3600, description="A worker that shows no sign of life for so long loses its runs to others, "
        "an import its pool after twice that."
    )
    max_body_mb: float = Field(64.0, gt=0, description="Largest JSON body, in MB (10^6 bytes).")
    max_file_mb: float = Field(8192.0, gt=0, description="Largest pool file (JSON Lines, Parquet), in MB.")
    max_open_draws: int = Field(
        10_000_000, ge=1, description="Draws of one run that may be without an outcome before it gets no more (429)."
    )
    max_connections: int = Field(4096, ge=1, description="Open connections; further ones are closed at once.")
    request_seconds: float = Field(
        20.0, gt=0, description="Longest time for the head of a request, and for its body besides a second per 16 kB."
    )
    embedding_root: Path | None = Field(
        None, description="Folder of sentence-transformers models that pools may name; unset, no pool may name one."
    )
    log_format: Literal["console", "json"] = Field("console", description="How log lines look.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe line written.")

    def open_without_keys(self) -> bool:
        """Whether a service without a single key lets everybody in: only where no other machine reaches it."""
        return self.allow_open or _is_loopback(self.host)

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split_keys(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(SecretStr(key.strip()) for key in value.split(",") if key.strip())
        return value


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None)
    except OSError:
        return False
    return all(ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)

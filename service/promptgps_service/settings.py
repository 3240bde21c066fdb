"""Settings: from the environment (`PROMPTGPS_…`), from flags of the command line, with a reason for each default."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class Settings(BaseSettings):
    """One frozen tree of settings, made once by whoever starts the process."""

    model_config = SettingsConfigDict(env_prefix="PROMPTGPS_", frozen=True, extra="ignore")

    database_url: str = Field(
        "sqlite:///promptgps.db", description="sqlite:///FILE (one machine) or postgresql://USER:PASSWORD@HOST/NAME."
    )
    host: str = Field("127.0.0.1", description="Address to listen on; loopback, so that nothing is open by accident.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    device: str = Field("auto", description="Where the model lives: auto (cuda where there is one), cpu, cuda:1 …")
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="Comma-separated keys; with any, all but the health checks want `Authorization: Bearer KEY`.",
    )
    train: bool = Field(True, description="Whether this process learns; false for a replica that only serves.")
    torch_threads: int = Field(
        0, ge=0, le=256, description="Threads of one torch operation; 0 leaves one core for the requests."
    )
    lane_depth: int = Field(256, ge=1, description="Jobs that may wait for the device before callers get 429.")
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
    log_format: Literal["console", "json"] = Field("console", description="How log lines look.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe line written.")

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split_keys(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(SecretStr(key.strip()) for key in value.split(",") if key.strip())
        return value

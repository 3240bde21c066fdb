"""Settings, with a reason for each default.

They come from flags, the environment (`PROMPTGPS_…`) or files, in this order.
"""

from __future__ import annotations

import os
import re
import socket
import warnings
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from promptgps_service.errors import Invalid

# Where Docker and others mount secrets: the file `promptgps_database_url` is what
# PROMPTGPS_DATABASE_URL would be.
SECRETS = Path("/run/secrets")
PREFIX = "PROMPTGPS_"

# Variables of the same prefix that others read: the client, the compose file, tests and examples.
OTHERS = frozenset(
    {
        "PROMPTGPS_URL",
        "PROMPTGPS_API_KEY",
        "PROMPTGPS_IMAGE",
        "PROMPTGPS_MEMORY",
        "PROMPTGPS_CPUS",
        "PROMPTGPS_PUBLISH",
        "PROMPTGPS_NETWORK",
        "PROMPTGPS_SERVICE",
        "PROMPTGPS_SOAK_SECONDS",
        "PROMPTGPS_DEMO_CACHE",
    }
)
OTHER_PREFIXES = ("PROMPTGPS_TEST_",)

# What Kubernetes tells every container about a Service whose name begins with "promptgps".
_SERVICE_LINK = re.compile(
    r"PROMPTGPS_(\w+_)?"
    r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)"
)
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


class Settings(BaseSettings):
    """One frozen tree of settings, made once by whoever starts the process."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        allow_inf_nan=False,
        extra="ignore",
        secrets_dir=SECRETS if os.access(SECRETS, os.R_OK) else None,
    )

    database_url: str = Field(
        "sqlite:///promptgps.db",
        description="sqlite:///FILE (one machine) or postgresql://USER:PASSWORD@HOST/NAME.",
    )
    host: str = Field(
        "127.0.0.1",
        description="Address to listen on; loopback, so that nothing is open by accident.",
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    device: str = Field(
        "auto", description="Where the model lives: auto (cuda where there is one), cpu, cuda:1 …"
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="Comma-separated keys with all rights, besides those of `promptgps keys`; with "
        "a key in either place, all but the health checks want `Authorization: Bearer KEY`.",
    )
    allow_open: bool = Field(
        False,
        description="Serve other machines without any API key; without this only loopback is open.",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Comma-separated names that requests may be sent to (`Host`), without ports; "
        "`*` stands for any part, alone for every name. Unset: any name where a key is asked for, "
        "else only numbers, localhost, the address listened on and, beyond loopback, this "
        "machine's name.",
    )
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Comma-separated origins (https://HOST[:PORT], or `*`) whose web pages may "
        "call the service; unset, only its own.",
    )
    train: bool = Field(
        True, description="Whether this process learns; false for a replica that only serves."
    )
    torch_threads: int = Field(
        0,
        ge=0,
        le=256,
        description="Threads of one torch operation; 0 leaves one core for the requests.",
    )
    device_callers: int = Field(
        32,
        ge=1,
        le=96,
        description="Requests that may wait for the device, half of them of one run; others get "
        "429.",
    )
    learn_groups: int = Field(
        32, ge=1, description="Complete groups that are learned from without waiting for the rest."
    )
    learn_seconds: float = Field(
        2.0,
        ge=0,
        le=3600,
        description="Longest time that outcomes of an unfinished step wait to be learned "
        "from; where the trainer asks for its batches with wait_seconds, they wait until it asks.",
    )
    poll_seconds: float = Field(
        0.25,
        gt=0,
        le=60,
        description="Pause between two looks at what other processes have written.",
    )
    lease_seconds: float = Field(
        10.0,
        ge=0.5,
        le=3600,
        description="A worker that shows no sign of life for so long loses its runs to others, "
        "an import its pool after twice that.",
    )
    max_body_mb: float = Field(64.0, gt=0, description="Largest JSON body, in MB (10^6 bytes).")
    max_file_mb: float = Field(
        8192.0, gt=0, description="Largest pool file (JSON Lines, Parquet), in MB."
    )
    max_open_draws: int = Field(
        10_000_000,
        ge=1,
        description="Draws of one run that may be without an outcome before it gets no more (429).",
    )
    max_connections: int = Field(
        4096, ge=1, description="Open connections; further ones are closed at once."
    )
    request_seconds: float = Field(
        20.0,
        gt=0,
        description="Longest time for the head of a request, and for its body besides a second "
        "per 16 kB.",
    )
    embedding_root: Path | None = Field(
        None,
        description="Folder of sentence-transformers models that pools may name; unset, no pool "
        "may name one.",
    )
    log_format: Literal["console", "json"] = Field("console", description="How log lines look.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe line written."
    )

    def open_without_keys(self) -> bool:
        """Whether a service without a single key lets everybody in.

        That is where no other machine reaches it, or where it was said to be wanted.
        """
        return self.allow_open or _is_loopback(self.host)

    def listens_on_loopback(self) -> bool:
        """Whether no other machine reaches the service."""
        return _is_loopback(self.host)

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split_keys(cls, value: Any) -> Any:
        return tuple(SecretStr(key) for key in _split(value)) if isinstance(value, str) else value

    @field_validator("allowed_hosts", "allowed_origins", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        return tuple(_split(value.lower())) if isinstance(value, str) else value

    @field_validator("allowed_hosts", mode="after")
    @classmethod
    def _check_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not _is_host_pattern(name):
                raise ValueError(f"{name!r} is not the name of a host without a port")
        return value

    @field_validator("allowed_origins", mode="after")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is not an origin: https://HOST[:PORT], without a path"
                )

        return value

    @field_validator("database_url", mode="after")
    @classmethod
    def _check_database(cls, value: str) -> str:
        from promptgps_service.store.engine import parse_url  # SQLAlchemy comes with it

        try:
            parse_url(value)
        except Invalid as error:
            raise ValueError(error.detail) from None
        return value

    @field_validator("port", mode="before")
    @classmethod
    def _pass_over_service_links(cls, value: Any) -> Any:
        """Kubernetes sets PROMPTGPS_PORT=tcp://… where a Service is called promptgps."""
        linked = isinstance(value, str) and _SERVICE_ADDRESS.match(value)
        return cls.model_fields["port"].default if linked else value

    @field_validator("embedding_root", mode="after")
    @classmethod
    def _check_folder(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_dir():
            raise ValueError("there is no such folder")
        return value


_HOST_PATTERN = re.compile(r"[a-z0-9._~*-]+")
_ORIGIN = re.compile(r"\*|https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")
_SECRET = frozenset({"api_keys", "database_url"})  # values that no message shows


def load_settings(*, secrets: Path | None = None, **flags: Any) -> Settings:
    """Read the settings, strictly.

    Args:
        secrets: folder of secret files; by default the usual one.
        flags: what the command line says; None where it says nothing.

    Raises:
        Invalid: naming everything that is wrong, each with its variable.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    folder = secrets if secrets is not None else Settings.model_config.get("secrets_dir")
    files = _secret_files(Path(str(folder))) if folder is not None else {}

    found = [*_unknown_variables(os.environ), *_unknown_files(files)]
    empty = _empty(given, files)
    found += empty.values()
    with warnings.catch_warnings(record=True) as noted:  # of files that were passed over
        warnings.simplefilter("always")
        try:
            settings = Settings(_secrets_dir=folder, **given)
        except ValidationError as error:
            settings = None
            found += [
                _told(fault, given, files)
                for fault in error.errors(include_url=False)
                if fault["loc"][0] not in empty
            ]
        except OSError as error:
            settings = None
            found.append(f"{error.filename}: {error.strerror}")

    found += [str(warning.message) for warning in noted]
    if settings is None or found:
        lines = found if len(found) == 1 else [f"{len(found)} settings cannot be", *found]
        raise Invalid("\n  ".join(lines))

    return settings


def variable(field: str) -> str:
    """The variable of a setting."""
    return PREFIX + field.upper()


def _split(value: str) -> Iterator[str]:
    return (part.strip() for part in value.split(",") if part.strip())


def _secret_files(folder: Path) -> dict[str, Path]:
    """Files for us in a folder of secrets, by the variable that each stands for."""
    try:
        entries = list(folder.iterdir())
    except OSError:
        return {}
    return {path.name.upper(): path for path in entries if path.name.upper().startswith(PREFIX)}


def _unknown_variables(environment: Mapping[str, str]) -> Iterator[str]:
    """A line for each variable that nobody reads, though it looks as if it were meant for us."""
    known = _known()
    for name, value in environment.items():
        upper = name.upper()
        if upper in known or upper.startswith(OTHER_PREFIXES) or _is_service_link(upper, value):
            continue
        if upper.startswith(PREFIX):
            yield f"{name}: there is no such setting; {_advice(_meant(upper))}"
        elif meant := get_close_matches(upper, known, n=1, cutoff=0.9):  # PROMPT_GPS_…
            yield f"{name}: there is no such setting; {_advice(meant[0])}"


def _unknown_files(files: Mapping[str, Path]) -> Iterator[str]:
    for name, path in files.items():
        if name not in _known():
            yield f"{path}: there is no such setting; {_advice(_meant(name).lower())}"


def _meant(name: str) -> str:
    """The variable that a misspelt one may have been meant to be; empty where none comes near."""
    endings = [known.removeprefix(PREFIX) for known in _known()]
    found = get_close_matches(name.removeprefix(PREFIX), endings, n=1, cutoff=0.65)
    return PREFIX + found[0] if found else ""


def _known() -> list[str]:
    return [*(variable(field) for field in Settings.model_fields), *sorted(OTHERS)]


def _advice(meant: str) -> str:
    listed = "`promptgps settings` lists all"
    return f"did you mean {meant}? {listed}" if meant else listed


def _is_service_link(name: str, value: str) -> bool:
    linked = name.endswith("_PORT") and _SERVICE_ADDRESS.match(value) is not None
    return linked or _SERVICE_LINK.fullmatch(name) is not None


def _empty(flags: Mapping[str, Any], files: Mapping[str, Path]) -> dict[str, str]:
    """A line for each setting that is there and says nothing: whoever set it meant something."""
    found = {}
    environment = {name.upper(): (name, value) for name, value in os.environ.items()}
    for field in Settings.model_fields:
        if field in flags:
            continue
        source, value = environment.get(variable(field), ("", None))
        path = files.get(variable(field))
        if value is None and path is not None and path.is_file():
            source = str(path)
            value = path.read_text(errors="replace")

        if value is not None and not any(_split(value)):
            found[field] = (
                f"{source} is empty: take it away for the default, or say what it should be"
            )

    return found


def _told(fault: ErrorDetails, flags: Mapping[str, Any], files: Mapping[str, Path]) -> str:
    """A value that cannot be: where it comes from, what it is and what may be there."""
    field = str(fault["loc"][0])
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"].startswith("bool"):
        message = "true or false is needed"
    shown = "" if field in _SECRET else f"={str(fault['input'])[:200]!r}"
    described = Settings.model_fields[field].description or ""
    return f"{_source(field, flags, files)}{shown}: {message}. It means: {described}"


def _source(field: str, flags: Mapping[str, Any], files: Mapping[str, Path]) -> str:
    if field in flags:
        return f"--{field.replace('_', '-')}"
    environment = {name.upper() for name in os.environ}
    path = files.get(variable(field))
    return str(path) if path is not None and variable(field) not in environment else variable(field)


def _is_host_pattern(name: str) -> bool:
    """Whether a name (`*` for any part) or number may be the host of a request, without port."""
    if _HOST_PATTERN.fullmatch(name):
        return True
    try:
        return ip_address(name.strip("[]").partition("%")[0]).version == 6
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None)
    except OSError:
        return False
    return all(ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)

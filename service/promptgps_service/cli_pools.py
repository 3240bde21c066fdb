"""`promptgps pools import`: prompts from files into a running service, over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from promptgps_client import NotFound, PromptGPS, PromptsAdded
from promptgps_client import PromptGPSError as ClientError

from promptgps_service.errors import Invalid

SECONDS = 3600.0  # for one file to be embedded and stored

PATIENCE = 3.0  # for the service to be there at all


def _column(what: str) -> Any:
    return typer.Option(help=f"Column of {what}, or a path into structs, as extra_info.index.")


def register(pools: typer.Typer) -> None:
    """Add the command to `promptgps pools`."""
    pools.command("import")(import_prompts)


def import_prompts(
    name: Annotated[str, typer.Argument(help="Name of the pool; it is made where it is missing.")],
    files: Annotated[
        list[Path],
        typer.Argument(
            help="JSON Lines (also .gz), JSON, Parquet, Arrow, Feather or CSV files.", exists=True
        ),
    ],
    key: Annotated[str | None, _column("the keys")] = None,
    text: Annotated[str | None, _column("the texts or chats")] = None,
    domain: Annotated[str | None, _column("the domains")] = None,
    vector: Annotated[str | None, _column("the vectors")] = None,
    prior_successes: Annotated[str | None, _column("the successes of offline pass rates")] = None,
    prior_trials: Annotated[str | None, _column("their trials")] = None,
    merge_equal: Annotated[
        bool,
        typer.Option(
            "--merge-equal", help="Keys of equal content become other names of one prompt."
        ),
    ] = False,
    dimension: Annotated[
        int | None,
        typer.Option(
            min=1, help="Of the vectors, where the pool is missing and is to be of vectors."
        ),
    ] = None,
    url: Annotated[
        str, typer.Option(help="The running service.", envvar="PROMPTGPS_URL")
    ] = "http://127.0.0.1:8000",
    api_key: Annotated[str | None, typer.Option(envvar="PROMPTGPS_API_KEY")] = None,
) -> None:
    """Add the prompts of files to a pool; what it has already is passed over."""
    try:
        with PromptGPS(url, api_key=api_key, timeout=SECONDS) as gps:
            _make(
                gps.with_options(retry_seconds=0.0, connect_timeout=PATIENCE),
                name,
                vector,
                dimension,
            )
            for file in files:
                added = gps.add_prompts_file(
                    name,
                    file,
                    key=key,
                    text=text,
                    domain=domain,
                    vector=vector,
                    prior_successes=prior_successes,
                    prior_trials=prior_trials,
                    on_equal_content="merge" if merge_equal else None,
                )
                typer.echo(_told(name, file, added))
    except (ClientError, OSError, ValueError) as fault:
        raise Invalid(str(fault)) from fault


def _make(gps: PromptGPS, name: str, vector: str | None, dimension: int | None) -> None:
    """Make the pool, unless it is there, of whatever kind."""
    try:
        gps.pool(name)
    except NotFound:
        if vector is not None and dimension is None:
            raise Invalid(
                f"there is no pool {name!r} yet: say --dimension, the length of its vectors"
            ) from None
        embedding: Any = None if dimension is None else {"kind": "given", "dimension": dimension}
        gps.create_pool(name, embedding=embedding)


def _told(name: str, file: Path, added: PromptsAdded) -> str:
    parts = [f"{added.added} added", f"{added.duplicates} there already"]
    if added.aliases:
        parts.append(f"{added.aliases} other names")
    summary = f"{name}: {file}: {', '.join(parts)}; {added.total} prompts in all"
    passed_over = ", ".join(added.ignored_columns)
    return f"{summary}; columns passed over: {passed_over}" if passed_over else summary

"""`promptgps runs`, `pools` and `events`: what there is, on the database itself."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from promptgps_client.wire import MAX_EVENTS

from promptgps_service.cli_common import opened_store
from promptgps_service.errors import Invalid

if TYPE_CHECKING:
    from promptgps_client.wire import Deleted, Wire

    from promptgps_service.store.unit import Store

runs = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Runs: list, show, archive, open, delete."
)
pools = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Pools: import, list, show, archive, open, delete.",
)

Name = Annotated[str, typer.Argument(help="Its name.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Change nothing, and say what would be deleted.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Url = Annotated[str | None, typer.Option(help="The database. [env: PROMPTGPS_DATABASE_URL]")]

RUN_COLUMNS = (
    "name",
    "state",
    "pools",
    "prompts",
    "selections",
    "log_position",
    "trained_through",
    "created_at",
)
POOL_COLUMNS = ("name", "state", "embedding", "dimension", "prompts", "created_at")
EVENT_COLUMNS = ("id", "created_at", "key", "action", "run", "pool", "detail")


def register(app: typer.Typer) -> None:
    """Add the groups and the command to the command line."""
    app.add_typer(runs, name="runs")
    app.add_typer(pools, name="pools")
    app.command("events")(events)


# ---- runs ----------------------------------------------------------------------------------------


@runs.command("list")
def list_runs(as_json: Json = False, database_url: Url = None) -> None:
    """List the runs, one a line."""
    from promptgps_service.flow.inventory import stored_runs

    with opened_store(database_url) as store:
        _print(stored_runs(store), RUN_COLUMNS, as_json)


@runs.command("show")
def show_run(name: Name, as_json: Json = False, database_url: Url = None) -> None:
    """Show a run with every setting."""
    from promptgps_service.flow.inventory import stored_run

    with opened_store(database_url) as store:
        _print_one(stored_run(store, name), as_json)


@runs.command("archive")
def archive_run(name: Name, database_url: Url = None) -> None:
    """Put a run to rest: it costs disk only, and running services follow."""
    from promptgps_service.flow.lifecycle import put_run_away

    with opened_store(database_url) as store:
        put_run_away(store, name, None)
    typer.echo(f"run {name} is archived")


@runs.command("open")
def open_run(name: Name, database_url: Url = None) -> None:
    """Have an archived run go on, or a faulty one tried again by the services."""
    from promptgps_service.flow.lifecycle import wake_run

    with opened_store(database_url) as store:
        wake_run(store, name, None)
    typer.echo(f"run {name} is open")


@runs.command("delete")
def delete_run(
    name: Name, dry_run: DryRun = False, yes: Yes = False, database_url: Url = None
) -> None:
    """Delete a run with all that belongs to it, for good."""
    from promptgps_service.flow.lifecycle import remove_run

    with opened_store(database_url) as store:
        _delete(store, remove_run, "run", name, dry_run=dry_run, yes=yes)


# ---- pools ---------------------------------------------------------------------------------------


@pools.command("list")
def list_pools(as_json: Json = False, database_url: Url = None) -> None:
    """List the pools, one a line."""
    from promptgps_service.flow.inventory import stored_pools

    with opened_store(database_url) as store:
        _print(stored_pools(store), POOL_COLUMNS, as_json)


@pools.command("show")
def show_pool(name: Name, as_json: Json = False, database_url: Url = None) -> None:
    """Show a pool."""
    from promptgps_service.flow.inventory import stored_pool

    with opened_store(database_url) as store:
        _print_one(stored_pool(store, name), as_json)


@pools.command("archive")
def archive_pool(name: Name, database_url: Url = None) -> None:
    """Put a pool to rest: it takes no prompts and no new runs, while runs over it go on."""
    from promptgps_service.flow.lifecycle import put_pool_away

    with opened_store(database_url) as store:
        put_pool_away(store, name, None)
    typer.echo(f"pool {name} is archived")


@pools.command("open")
def open_pool(name: Name, database_url: Url = None) -> None:
    """Have an archived pool take prompts and new runs again."""
    from promptgps_service.flow.lifecycle import wake_pool

    with opened_store(database_url) as store:
        wake_pool(store, name, None)
    typer.echo(f"pool {name} is open")


@pools.command("delete")
def delete_pool(
    name: Name, dry_run: DryRun = False, yes: Yes = False, database_url: Url = None
) -> None:
    """Delete a pool with its prompts, for good; not while a run needs it."""
    from promptgps_service.flow.lifecycle import remove_pool

    with opened_store(database_url) as store:
        _delete(store, remove_pool, "pool", name, dry_run=dry_run, yes=yes)


# ---- events --------------------------------------------------------------------------------------


def events(
    run: Annotated[str | None, typer.Option(help="Only of this run.")] = None,
    pool: Annotated[str | None, typer.Option(help="Only of this pool.")] = None,
    before: Annotated[int | None, typer.Option(min=1, help="Only events before this id.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_EVENTS, help="How many at most.")] = 50,
    as_json: Json = False,
    database_url: Url = None,
) -> None:
    """List what was done to runs and pools, by whom and when; newest first."""
    from promptgps_service.flow import events as flow

    if run is not None and pool is not None:
        raise Invalid.at("--pool", "goes without --run")

    with opened_store(database_url) as store:
        if run is not None:
            page = flow.run_events(store, run, before=before, limit=limit)
        elif pool is not None:
            page = flow.pool_events(store, pool, before=before, limit=limit)
        else:
            page = flow.list_events(store, before=before, limit=limit)
        _print(page.events, EVENT_COLUMNS, as_json)


# ---- what they share -----------------------------------------------------------------------------


def _delete(
    store: Store, remove: Callable[..., Deleted], what: str, name: str, *, dry_run: bool, yes: bool
) -> None:
    from promptgps_service.flow.sweep import sweep

    would = remove(store, name, None, dry_run=True)
    counts = would.model_dump(exclude={"name", "dry_run"}).items()
    told = ", ".join(f"{count} {noun.replace('_', ' ')}" for noun, count in counts if count)
    if dry_run:
        typer.echo(f"{what} {name} would be deleted: {told or 'nothing belongs to it'}")
        return

    if not yes:
        typer.confirm(
            f"Delete {what} {name} for good ({told or 'nothing belongs to it'})?", abort=True
        )

    remove(store, name, None, dry_run=False)
    sweep(store, _rest)
    typer.echo(f"{what} {name} is deleted: {told or 'nothing belonged to it'}")


def _rest(seconds: float) -> bool:
    time.sleep(seconds)
    return True


def _print(rows: Iterable[Wire], columns: Sequence[str], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([row.model_dump() for row in rows], indent=1, ensure_ascii=False))
        return
    lines = [columns, *([_cell(getattr(row, column)) for column in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        typer.echo("  ".join(cells).rstrip())


def _print_one(row: Wire, as_json: bool) -> None:
    fields = row.model_dump()
    if as_json:
        typer.echo(json.dumps(fields, indent=1, ensure_ascii=False))
        return
    width = max(map(len, fields))
    for name in fields:
        typer.echo(f"{name.ljust(width)}  {_cell(getattr(row, name))}")


def _cell(value: Any) -> str:
    """A value as one word or a few, on one line."""
    if value is None or value == "" or value == {}:
        return "-"
    if isinstance(value, list):
        return ",".join(_cell(getattr(each, "pool", each)) for each in value) or "-"
    if hasattr(value, "model_dump"):
        value = value.model_dump(exclude_none=True)
    if isinstance(value, dict):
        return " ".join(f"{name}={_cell(each)}" for name, each in value.items())

    return " ".join(str(value).split())

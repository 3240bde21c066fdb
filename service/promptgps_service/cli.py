"""The command line: a server, workers, keys, what there is, archives, a replay, settings."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

try:
    import typer
except ModuleNotFoundError:  # pragma: no cover  the base install is the client alone
    sys.exit("the service is not installed: pip install 'promptgps[service]'")

from promptgps_service import cli_objects, cli_pools
from promptgps_service.cli_common import opened_store as _store
from promptgps_service.cli_common import read_settings as _settings
from promptgps_service.errors import Invalid, NotFound, PromptGPSError, Unavailable
from promptgps_service.logs import announce, announce_failure

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # it takes the [env: …] of the help for markup, and drops it
    # they show the values of variables, keys and passwords among them
    pretty_exceptions_enable=False,
    help="Prompt selection beside an RL post-training job. Settings come from flags, else from "
    "PROMPTGPS_… in the environment, else from /run/secrets/promptgps_…; `promptgps settings` "
    "lists them all.",
)

keys = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="API keys. With one, here or in PROMPTGPS_API_KEYS, requests need `Authorization: Bearer "
    "KEY`. Running services heed a change within seconds. Once there has been a key here, none is "
    "open without.",
)
app.add_typer(keys, name="keys")
cli_objects.register(app)

cli_pools.register(cli_objects.pools)

Host = Annotated[
    str | None, typer.Option(help="Address to listen on. [env: PROMPTGPS_HOST; default 127.0.0.1]")
]
Port = Annotated[
    int | None, typer.Option(help="Port; 0 takes a free one. [env: PROMPTGPS_PORT; default 8000]")
]
Url = Annotated[
    str | None,
    typer.Option(
        help="sqlite:///FILE or postgresql://… [env: PROMPTGPS_DATABASE_URL; default "
        "sqlite:///promptgps.db]"
    ),
]
Device = Annotated[
    str | None, typer.Option(help="auto, cpu, cuda, cuda:1 … [env: PROMPTGPS_DEVICE; default auto]")
]
Train = Annotated[
    bool | None,
    typer.Option("--train/--no-train", help="Learn in this process. [env: PROMPTGPS_TRAIN]"),
]
Insecure = Annotated[
    bool | None,
    typer.Option(
        "--insecure", help="Serve other machines without any API key. [env: PROMPTGPS_ALLOW_OPEN]"
    ),
]
Migrate = Annotated[
    bool, typer.Option("--migrate/--no-migrate", help="Bring the database up to date first.")
]


@app.command()
def serve(
    host: Host = None,
    port: Port = None,
    database_url: Url = None,
    device: Device = None,
    train: Train = None,
    insecure: Insecure = None,
    migrate: Migrate = True,
) -> None:
    """Migrate the database, then serve the API and learn from what is reported."""
    settings = _settings(
        host=host,
        port=port,
        database_url=database_url,
        device=device,
        train=train,
        allow_open=insecure,
    )
    from promptgps_service.serve import run_server  # torch comes with it, which takes its time

    run_server(settings, migrate=migrate)


@app.command()
def train(
    runs: Annotated[
        list[str] | None, typer.Argument(help="Names of runs.", show_default=False)
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Learn every run; goes without saying with --watch.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on as outcomes come in, until SIGTERM.")
    ] = False,
    database_url: Url = None,
    device: Device = None,
    migrate: Migrate = True,
) -> None:
    """Learn what there is and exit; with --watch go on.

    Any number of workers with --watch share the runs.
    """
    if (runs and every) or not (runs or every or watch):
        raise Invalid("name the runs to learn, or say --all")
    settings = _settings(database_url=database_url, device=device, train=True)
    from promptgps_service.work import learn_runs, watch_runs

    if not (watch_runs if watch else learn_runs)(settings, runs or None, migrate=migrate):
        sys.exit(1)


@app.command()
def migrate(
    database_url: Url = None, revision: Annotated[str, typer.Option(help="Where to.")] = "head"
) -> None:
    """Bring a database to the newest schema."""
    from promptgps_service.store.engine import make_engine
    from promptgps_service.store.migrate import upgrade

    engine = make_engine(_settings(database_url=database_url).database_url)
    upgrade(engine, revision)
    announce(f"{engine.url.render_as_string(hide_password=True)} is at {revision}")
    engine.dispose()


@keys.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="What the key is known by.")],
    run: Annotated[
        list[str] | None,
        typer.Option(
            help="Only runs and pools of this name or pattern, as 'exp-*'; repeat the flag."
        ),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="May look, not change.")] = False,
    days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="Expires after so many days.")
    ] = None,
    first: Annotated[
        bool, typer.Option("--first", help="Do nothing where there is a key, or has been one.")
    ] = False,
    database_url: Url = None,
) -> None:
    """Make a key and print it, this once."""
    from promptgps_service.flow import keyring

    with _store(database_url) as store:
        if first and keyring.has_had_keys(store):
            return typer.echo(
                "there are keys, or have been; see `promptgps keys list --all`", err=True
            )
        typer.echo(keyring.add_key(store, name, run or [], read_only=read_only, days=days))


@keys.command("list")
def list_keys(
    every: Annotated[bool, typer.Option("--all", help="Revoked ones, too.")] = False,
    database_url: Url = None,
) -> None:
    """List the keys: name, rights, when made, when last used, until when, when revoked."""
    with _store(database_url) as store, store.read() as unit:
        for key in unit.keys.all():
            if key.revoked_at is not None and not every:
                continue
            rights = ("read" if key.read_only else "all") + " " + (",".join(key.runs) or "*")
            stamps = (key.created_at, key.last_used, key.expires_at, key.revoked_at)
            typer.echo("\t".join([key.name, rights, *(stamp or "-" for stamp in stamps)]))


@keys.command("revoke")
def revoke_key(name: str, database_url: Url = None) -> None:
    """Make a key worthless.

    Running services heed it within seconds, and are not open without one.
    """
    with _store(database_url) as store, store.write() as unit:
        if not unit.keys.revoke(name):
            raise NotFound(f"there is no key {name!r}, or it has been revoked")
        unit.events.add("key-revoked", detail={"key": name})


@keys.command("forget-all")
def forget_keys(database_url: Url = None) -> None:
    """Forget revoked and expired keys: without any key, loopback is open to everybody again."""
    from promptgps_service.flow import keyring

    with _store(database_url) as store:
        forgotten = keyring.forget_keys(store)
    typer.echo(
        f"{forgotten} keys forgotten; a service on loopback asks nobody for a key now", err=True
    )


@app.command("export")
def export(
    run: Annotated[str, typer.Argument(help="Name of the run.")],
    folder: Annotated[Path, typer.Argument(help="New folder, for JSON Lines and safetensors.")],
    database_url: Url = None,
) -> None:
    """Write a run with its pools, models and log to a folder, also while it is served."""
    from promptgps_service.flow.archive_export import export_run

    with _store(database_url) as store:
        export_run(store, run, folder)
    typer.echo(f"{run} is in {folder}")


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(help="Folder that `promptgps export` has made.")],
    name: Annotated[str | None, typer.Option(help="Another name for the run.")] = None,
    database_url: Url = None,
) -> None:
    """Put an exported run into this database, all of it or nothing.

    It goes on with the same draws.
    """
    from promptgps_service.flow.archive_import import import_run

    with _store(database_url) as store:
        done = import_run(store, folder, name)

    typer.echo(f"{done.run}: {done.selections} selections, {done.outcomes} outcomes")
    if not done.same_draw_ids:
        typer.echo(
            "its draws have other ids here: report what is under way by prompt, not by draw id",
            err=True,
        )


@app.command()
def replay(
    history: Annotated[
        Path,
        typer.Argument(help="Folder with prompts.jsonl[.gz], outcomes.jsonl[.gz].", exists=True),
    ],
    url: Annotated[
        str, typer.Option(help="The running service.", envvar="PROMPTGPS_URL")
    ] = "http://127.0.0.1:8000",
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts drawn at each step.")] = 32,
    strategy: Annotated[
        list[str] | None, typer.Option(help="Strategies to compare; repeat the flag.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each strategy, seeds 0, 1, …")] = 3,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Default: the visits that every prompt has.")
    ] = None,
    free_reuse: Annotated[
        bool,
        typer.Option(
            "--free-reuse/--as-it-ships", help="cooldown 0, whole pool, no uniform share."
        ),
    ] = False,
    api_key: Annotated[str | None, typer.Option(envvar="PROMPTGPS_API_KEY")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the table as JSON too.")] = None,
) -> None:
    """Replay a history in closed loop.

    The service chooses, and gets what the chosen prompts recorded at that visit.
    """
    from promptgps_client import PromptGPSError as ClientError

    from promptgps_service.replay import print_replays, replay_history

    _settings()  # for the logs
    try:
        replays = replay_history(
            history,
            url=url,
            api_key=api_key,
            strategies=strategy or ["uniform", "mopps", "promptgps"],
            seeds=range(seeds),
            batch_size=batch_size,
            steps=steps,
            free_reuse=free_reuse,
        )
    except ClientError as error:
        raise Unavailable(str(error)) from error

    print_replays(replays)
    if out is not None:
        out.write_text(json.dumps([vars(one) for one in replays], indent=1))


@app.command()
def settings() -> None:
    """List every setting with its variable, its value here and what it is for."""
    from promptgps_service.settings import variable
    from promptgps_service.store.engine import parse_url

    values = _settings()
    for name, field in type(values).model_fields.items():
        value = getattr(values, name)
        if name == "database_url":
            value = parse_url(value).render_as_string(hide_password=True)
        elif name == "api_keys":
            value = f"{len(value)} (not shown)"
        elif isinstance(value, tuple):
            value = ",".join(value)
        typer.echo(f"{variable(name)} = {value}\n    {field.description}")


@app.command("export-openapi")
def export_openapi() -> None:
    """Print the OpenAPI document."""
    from promptgps_service.app import create_app

    typer.echo(json.dumps(create_app(_settings()).openapi(), indent=1, sort_keys=True))


def main() -> None:
    """Entry point of the `promptgps` command."""
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    try:
        app()
    except PromptGPSError as error:
        where = f"{error.faults[0].field} " if error.faults else ""
        announce_failure(f"promptgps: {where}{error.detail}")
        sys.exit(2)

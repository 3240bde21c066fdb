"""Migrate, say where the service is, serve until told to stop."""

from __future__ import annotations

import gc
import socket
import sys

import uvicorn

from promptgps_service.app import create_app, pick_device
from promptgps_service.connection import limited
from promptgps_service.errors import Invalid
from promptgps_service.flow.keyring import has_had_keys
from promptgps_service.logs import announce
from promptgps_service.settings import Settings
from promptgps_service.store.engine import make_engine
from promptgps_service.store.migrate import upgrade
from promptgps_service.store.unit import Store

# Each of the thousands of short operations of a training step gives the interpreter up and waits to
# get it back: beside threads that compute, 5 ms a time, the interpreter's default, would make
# seconds of one step.
SWITCH_SECONDS = 0.00005
# Longer than clients keep an idle connection, or they would write into one that just closes.
KEEP_ALIVE_SECONDS = 30
OTHER_FILES = 512  # open files besides connections: the database, spooled bodies, modules


def run_server(settings: Settings, *, migrate: bool) -> None:
    """Serve until SIGINT or SIGTERM; requests under way are answered first."""
    sys.setswitchinterval(SWITCH_SECONDS)
    prepare(settings, migrate=migrate)
    _refuse_to_be_open(settings)
    listener = _listen(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    announce(f"promptgps: API http://{shown}:{port}  docs http://{shown}:{port}/docs")
    _allow_connections(settings.max_connections)

    config = uvicorn.Config(
        create_app(settings),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=10,
        lifespan="on",
        http=limited(settings.max_connections, settings.request_seconds),
        ws="none",
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )

    # What was imported stays: to look through it again and again would stop every thread for .2 s.
    gc.freeze()
    uvicorn.Server(config).run(sockets=[listener])


def prepare(settings: Settings, *, migrate: bool) -> None:
    """What every process does first: a word about what is not there before anything is opened.

    Raises:
        Invalid: there is no such device.
        Unavailable: the database does not answer.
    """
    pick_device(settings.device)
    if migrate:
        engine = make_engine(settings.database_url)
        upgrade(engine)
        engine.dispose()


def _refuse_to_be_open(settings: Settings) -> None:
    """Say no before anybody on the network can do as he likes."""
    if settings.api_keys or settings.open_without_keys():
        return

    store = Store(settings.database_url)
    known = has_had_keys(store)
    store.close()
    if not known:
        raise Invalid(
            f"{settings.host} can be reached from other machines, and there is no API key: make "
            "one with `promptgps keys add NAME`, or serve everybody with --insecure "
            "(PROMPTGPS_ALLOW_OPEN=true)"
        )


def _allow_connections(most: int) -> None:
    """Raise the limit of open files as far as the system lets us: each connection is one."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most + OTHER_FILES if hard == resource.RLIM_INFINITY else min(most + OTHER_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Invalid(f"cannot listen on {host}:{port}: {error.strerror}") from error

    listener.listen(512)
    return listener

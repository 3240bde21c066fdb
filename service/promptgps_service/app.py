"""Composition root: settings in, an application out.

There is no module-level app, engine or settings.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
import structlog
import torch
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from promptgps_client import wire
from pydantic import BaseModel

from promptgps_service import __version__
from promptgps_service.api import (
    allocate_budget,
    docs,
    events,
    health,
    lifecycle,
    outcomes,
    pools,
    predict_difficulty,
    problems,
    runs,
    select_batch,
    snapshots,
)
from promptgps_service.api.bodies import JSON, Bodies, body_model
from promptgps_service.api.dependencies import GUARDS
from promptgps_service.api.edge import Edge
from promptgps_service.api.origins import Hosts, Origins
from promptgps_service.api.turns import RunTurns
from promptgps_service.errors import Invalid, PromptGPSError
from promptgps_service.flow.access import Access
from promptgps_service.flow.context import Context
from promptgps_service.flow.keyring import Keyring
from promptgps_service.flow.limits import Limits
from promptgps_service.flow.trainer import Learning
from promptgps_service.pools.reading import Readers
from promptgps_service.settings import Settings
from promptgps_service.store.unit import Store

_log = structlog.get_logger(__name__)
THREADS = 128  # requests under way at a time; more than may wait for the model
RETRY_SECONDS = 1.0
ROOMS = (
    pools,
    runs,
    lifecycle,
    select_batch,
    outcomes,
    predict_difficulty,
    allocate_budget,
    snapshots,
    events,
)
SCHEMAS = "#/components/schemas/"
DESCRIPTION = (
    "Prompt selection beside an RL post-training job: learns prompt difficulty from rollout "
    "outcomes."
)


def pick_device(name: str) -> torch.device:
    """`auto` is cuda where there is one; anything else is taken at its word.

    Raises:
        Invalid: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise Invalid(f"there is no device {name!r} here") from error


def make_context(settings: Settings) -> Context:
    """The store, the device and the runs of one process."""
    torch.set_num_threads(settings.torch_threads or max((os.cpu_count() or 2) - 1, 1))
    learning = Learning(settings.train, settings.learn_groups, settings.learn_seconds)
    return Context(
        Store(settings.database_url),
        device=pick_device(settings.device),
        learning=learning,
        callers=settings.device_callers,
        poll_seconds=settings.poll_seconds,
        lease_seconds=settings.lease_seconds,
        limits=Limits(open_draws=settings.max_open_draws, embedding_root=settings.embedding_root),
    )


def make_keyring(settings: Settings, store: Store) -> Keyring:
    """The keys that open one process."""
    given = [key.get_secret_value() for key in settings.api_keys]
    return Keyring(store, given, open_without_keys=settings.open_without_keys())


def create_app(settings: Settings) -> FastAPI:
    """The application; its database is opened when it starts, and closed when it stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        context = make_context(settings)
        app.state.readers = Readers()
        app.state.bodies = Bodies(int(settings.max_body_mb * 1e6))
        app.state.turns = RunTurns()
        app.state.context = context
        app.state.keyring = make_keyring(settings, context.store)

        context.watch("keys", app.state.keyring.ticker)
        context.follow()
        context.probe_writes()
        threading.Thread(target=_open_all, args=(context,), name="open-runs", daemon=True).start()

        yield

        app.state.keyring.close()
        context.close()

    app = FastAPI(
        title="promptgps",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        openapi_url=docs.DOCUMENT,
        docs_url=None,  # the framework's own pages load their scripts from another site
        redoc_url=None,
    )
    app.state.settings = settings
    app.router.routes.extend(docs.ROUTES)

    for room in ROOMS:
        app.include_router(room.router, dependencies=GUARDS)
    app.include_router(health.metrics_router, dependencies=GUARDS)
    app.include_router(health.router)
    problems.install(app)

    app.add_middleware(
        Edge,
        admission=_Admission(app),
        hosts=Hosts(settings.allowed_hosts, settings.host, loopback=settings.listens_on_loopback()),
        origins=Origins(settings.allowed_origins),
        max_body=int(settings.max_body_mb * 1e6),
        max_file=int(settings.max_file_mb * 1e6),
    )

    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


class _Admission:
    """The keyring of an application, which has one only once it has started."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    @property
    def open(self) -> bool:
        """Whether nobody is asked for a key now."""
        keyring: Keyring = self._app.state.keyring
        return keyring.open

    def admit(self, authorization: bytes) -> Access:
        """Rights that an Authorization header gives."""
        keyring: Keyring = self._app.state.keyring
        return keyring.admit(authorization)


def _open_all(context: Context) -> None:
    """Read every run, until it is done.

    Readiness waits for it, and the database may be away at the start.
    """
    while context.queue.alive:
        try:
            return context.open_all()
        except PromptGPSError as error:
            _log.warning("runs cannot be read yet", cause=str(error))
            time.sleep(RETRY_SECONDS)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The schema, with the models that endpoints do not name in their signatures."""
    if app.openapi_schema is None:
        taken = [(route, model) for route in _routes() if (model := _body_of(route)) is not None]
        documents = [_document(model) for model in {model for _, model in taken}]
        schema = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=[*app.routes, *documents],
        )

        for document in documents:
            del schema["paths"][document.path]
        for route, model in taken:
            content = {JSON: {"schema": {"$ref": SCHEMAS + model.__name__}}}
            for method in route.methods or ():
                schema["paths"][route.path_format][method.lower()]["requestBody"] = {
                    "content": content,
                    "required": True,
                }

        for model in (wire.AddPrompts, wire.Problem):
            own = model.model_json_schema(ref_template=SCHEMAS + "{model}")
            schema["components"]["schemas"] |= own.pop("$defs", {}) | {model.__name__: own}

        for path in schema["paths"].values():
            for operation in path.values():
                _problem_for_validation(operation)
        app.openapi_schema = schema

    return app.openapi_schema


def _routes() -> list[APIRoute]:
    return [route for room in ROOMS for route in room.router.routes if isinstance(route, APIRoute)]


def _body_of(route: APIRoute) -> type[BaseModel] | None:
    """What a route takes whose body the framework does not read."""
    models = (body_model(part.call) for part in route.dependant.dependencies)
    return next((model for model in models if model is not None), None)


def _document(model: type[BaseModel]) -> APIRoute:
    """A route that is only there for the framework to see its model."""

    def takes(request: Any) -> None:
        """Take it."""

    takes.__annotations__ = {"request": model}
    return APIRoute(
        f"/{model.__name__}", takes, methods=["POST"], responses={422: {"description": ""}}
    )


def _problem_for_validation(operation: dict[str, Any]) -> None:
    """FastAPI documents its own 422 body; ours is a problem."""
    answer = operation["responses"].get("422")
    if answer is not None:
        answer["content"] = {
            problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}
        }

"""Liveness, readiness, Prometheus."""

from __future__ import annotations

import time

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from promptgps_client.wire import Ready, Wire

from promptgps_service.api.dependencies import Ctx
from promptgps_service.api.problems import responses
from promptgps_service.telemetry import (
    DEVICE_JOBS,
    LAG,
    LEASED,
    LOG_POSITION,
    MODEL_AGE,
    MODEL_VERSION,
    TRAINED_THROUGH,
)

router = APIRouter(tags=["health"])
metrics_router = APIRouter(tags=["health"])


class Alive(Wire):
    """The process answers."""

    alive: bool = True


@router.get("/healthz")
# async: no thread is needed, so it answers when every thread waits for something
async def healthz() -> Alive:
    """Whether the process answers at all."""
    return Alive()


@router.get("/readyz", responses={503: {"model": Ready, "description": "Not ready"}})
def readyz(context: Ctx, response: Response) -> Ready:
    """Whether requests can be served, part by part: `ok`, or what is wrong.

    `database` answers and takes writes, `migrations` are those of this version, the threads
    (`device`, `follow`, `leases`, `keys`, `writes`) do their work in time, and all `runs` have been
    read since the start.
    """
    checks = context.checks()
    ready = all(state == "ok" for state in checks.values())
    if not ready:
        response.status_code = 503
        response.headers["Retry-After"] = "1"

    return Ready(ready=ready, checks=checks)


@metrics_router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, 401: responses()[401], 403: responses()[403]},
)
def metrics(context: Ctx) -> Response:
    """Prometheus exposition."""
    DEVICE_JOBS.set(context.queue.depth)
    for gauge in (LOG_POSITION, LEASED, MODEL_VERSION, MODEL_AGE, TRAINED_THROUGH, LAG):
        gauge.clear()  # of runs that are put away since

    for desk in context.desks():
        state = desk.state
        table = desk.state.table
        LOG_POSITION.labels(state.name).set(state.log_position)
        LEASED.labels(state.name).set(context.leases.holds(state.id))
        if table is not None:
            MODEL_VERSION.labels(state.name).set(table.model_version)
            MODEL_AGE.labels(state.name).set(time.monotonic() - table.made_at)
            TRAINED_THROUGH.labels(state.name).set(table.trained_through)
            LAG.labels(state.name).set(state.log_position - table.trained_through)

    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

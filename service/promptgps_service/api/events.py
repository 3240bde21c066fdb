"""What was done to runs and pools, by whom and when."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from promptgps_client.wire import MAX_EVENTS, MAX_INTEGER, Events, Name

from promptgps_service.api.dependencies import Caller, Ctx
from promptgps_service.api.problems import responses
from promptgps_service.flow import events
from promptgps_service.flow.access import may_see_pool

router = APIRouter(tags=["events"])

Before = Annotated[
    int | None,
    Query(
        ge=1, le=MAX_INTEGER, description="Only events before this id; `next` of the page before."
    ),
]
Limit = Annotated[int, Query(ge=1, le=MAX_EVENTS, description="How many at most.")]


@router.get("/events", responses=responses())
def list_events(context: Ctx, access: Caller, before: Before = None, limit: Limit = 50) -> Events:
    """Events of every run and pool that the key owns, newest first.

    Keys without limits see all that happened.
    """
    owns = access.owns if access.patterns else None
    return events.list_events(context.store, before=before, limit=limit, owns=owns)


@router.get("/runs/{run}/events", responses=responses(404))
def run_events(
    run: Name, context: Ctx, access: Caller, before: Before = None, limit: Limit = 50
) -> Events:
    """Events of a run, newest first.

    They outlive it, and a new run of the same name goes on with them.
    """
    access.may_read(run)
    return events.run_events(context.store, run, before=before, limit=limit)


@router.get("/pools/{pool}/events", responses=responses(404))
def pool_events(
    pool: Name, context: Ctx, access: Caller, before: Before = None, limit: Limit = 50
) -> Events:
    """Events of a pool, newest first."""
    may_see_pool(context.store, access, pool)
    return events.pool_events(context.store, pool, before=before, limit=limit)

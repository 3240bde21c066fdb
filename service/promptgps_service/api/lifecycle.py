"""Put runs and pools to rest, wake them, delete them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from promptgps_client.wire import Deleted, Name, Pool, Run

from promptgps_service.api.dependencies import Caller, Ctx
from promptgps_service.api.problems import responses
from promptgps_service.flow import lifecycle

router = APIRouter()

DryRun = Annotated[bool, Query(description="Change nothing, and say what would be deleted.")]


@router.post("/runs/{run}/archive", tags=["runs"], responses=responses(404))
def archive_run(run: Name, context: Ctx, access: Caller) -> Run:
    """Put a run to rest.

    It takes no draws and no outcomes, is not learned, and can still be read and asked.
    """
    access.may_change(run)
    return lifecycle.archive_run(context, run, access.key)


@router.post("/runs/{run}/open", tags=["runs"], responses=responses(404, 409))
def reopen_run(run: Name, context: Ctx, access: Caller) -> Run:
    """Have an archived run go on where it was; try a faulty one again."""
    access.may_change(run)
    return lifecycle.reopen_run(context, run, access.key)


@router.delete("/runs/{run}", tags=["runs"], responses=responses(404, 409))
def delete_run(run: Name, context: Ctx, access: Caller, dry_run: DryRun = False) -> Deleted:
    """Delete a run with all that belongs to it, for good.

    That is refused while another run has started from it.
    """
    access.may_change(run)
    return lifecycle.delete_run(context, run, access.key, dry_run=dry_run, sees=access.owns)


@router.post("/pools/{pool}/archive", tags=["pools"], responses=responses(404))
def archive_pool(pool: Name, context: Ctx, access: Caller) -> Pool:
    """Put a pool to rest: it takes no prompts and no new runs, while runs over it go on."""
    access.may_change(pool)
    return lifecycle.archive_pool(context, pool, access.key)


@router.post("/pools/{pool}/open", tags=["pools"], responses=responses(404))
def reopen_pool(pool: Name, context: Ctx, access: Caller) -> Pool:
    """Have an archived pool take prompts and new runs again."""
    access.may_change(pool)
    return lifecycle.reopen_pool(context, pool, access.key)


@router.delete("/pools/{pool}", tags=["pools"], responses=responses(404, 409))
def delete_pool(pool: Name, context: Ctx, access: Caller, dry_run: DryRun = False) -> Deleted:
    """Delete a pool with its prompts, for good; not while a run needs it, be it an archived one."""
    access.may_change(pool)
    return lifecycle.delete_pool(context, pool, access.key, dry_run=dry_run, sees=access.owns)

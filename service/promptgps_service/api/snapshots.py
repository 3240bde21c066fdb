"""Snapshots of runs, and restore."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Response
from promptgps_client.wire import Name, Restore, Restored, Snapshot, Snapshots, TakeSnapshot

from promptgps_service.api.bodies import SMALL, json_body
from promptgps_service.api.dependencies import Caller, Ctx, IdempotencyKey
from promptgps_service.api.problems import responses
from promptgps_service.flow import restore, snapshot

router = APIRouter(tags=["snapshots"])
Tag = Annotated[TakeSnapshot, json_body(TakeSnapshot, most=SMALL)]
WayBack = Annotated[Restore, json_body(Restore, most=SMALL)]


@router.post(
    "/runs/{run}/snapshots",
    responses=responses(404, 409, 415, 429)
    | {201: {"model": Snapshot, "description": "The snapshot is new"}},
)
def take_snapshot(
    run: Name, request: Tag, context: Ctx, access: Caller, response: Response
) -> Snapshot:
    """Mark the run as it is now; the same tag again answers the same snapshot."""
    access.may_change(run)
    made, new = snapshot.take_snapshot(context, run, request, access.key)
    response.status_code = 201 if new else 200
    return made


@router.get("/runs/{run}/snapshots", responses=responses(404))
def list_snapshots(run: Name, context: Ctx, access: Caller) -> Snapshots:
    """Snapshots of the run, superseded ones too, and its restores."""
    access.may_read(run)
    return snapshot.list_snapshots(context, run)


@router.post("/runs/{run}/restore", responses=responses(404, 409, 415, 429))
def restore_run(
    run: Name,
    request: WayBack,
    context: Ctx,
    access: Caller,
    idempotency_key: IdempotencyKey = None,
) -> Restored:
    """Put log, counts, model, selections and settings back to a snapshot.

    What came after is superseded.
    """
    access.may_change(run)
    return restore.restore_run(context, run, request, idempotency_key, access.key)

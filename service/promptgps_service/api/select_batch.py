"""POST /select_batch."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from promptgps_client.wire import Batch, SelectBatch

from promptgps_service.api.bodies import json_body
from promptgps_service.api.dependencies import Caller, Ctx
from promptgps_service.api.problems import responses
from promptgps_service.flow import select
from promptgps_service.telemetry import DRAWS, SELECTIONS

router = APIRouter(tags=["selection"])
Asked = Annotated[SelectBatch, json_body(SelectBatch)]


@router.post("/select_batch", responses=responses(404, 409, 415, 429))
def select_batch(request: Asked, context: Ctx, access: Caller) -> Batch:
    """The next batch worth rolling out; the same (run, sequence) again gives the same draws."""
    access.may_change(request.run)
    batch = select.select_batch(context, request)
    if not batch.replayed:
        SELECTIONS.labels(batch.run).inc()
        DRAWS.labels(batch.run).inc(len(batch.draws.draw_id))

    return batch

"""POST /allocate_budget."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from promptgps_client.wire import AllocateBudget, Budget

from promptgps_service.api.bodies import json_body
from promptgps_service.api.dependencies import Caller, Ctx
from promptgps_service.api.problems import responses
from promptgps_service.flow import allocate

router = APIRouter(tags=["prediction"])
Asked = Annotated[AllocateBudget, json_body(AllocateBudget, changes=False)]


@router.post("/allocate_budget", responses=responses(404, 409, 415, 429))
def allocate_budget(request: Asked, context: Ctx, access: Caller) -> Budget:
    """Samples for each prompt at test time, round by round if asked so."""
    access.may_read(request.run)
    return allocate.allocate_budget(context, request)

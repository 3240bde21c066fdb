"""POST /outcomes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from promptgps_client.wire import OutcomesStored, ReportOutcomes

from promptgps_service.api.bodies import json_body
from promptgps_service.api.dependencies import Caller, Ctx, IdempotencyKey
from promptgps_service.api.problems import responses
from promptgps_service.flow import record
from promptgps_service.telemetry import OUTCOMES

router = APIRouter(tags=["outcomes"])
Report = Annotated[ReportOutcomes, json_body(ReportOutcomes)]


@router.post("/outcomes", responses=responses(404, 409, 415, 429))
def report_outcomes(
    request: Report, context: Ctx, access: Caller, idempotency_key: IdempotencyKey = None
) -> OutcomesStored:
    """Outcomes in; answered once they are durable. Sending again is free."""
    access.may_change(request.run)
    stored = record.record_outcomes(context, request, idempotency_key)
    OUTCOMES.labels(request.run).inc(stored.stored)
    return stored

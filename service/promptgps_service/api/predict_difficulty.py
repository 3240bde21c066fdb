"""POST /predict_difficulty."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from promptgps_client.wire import Difficulty, PredictDifficulty

from promptgps_service.api.bodies import json_body
from promptgps_service.api.dependencies import Caller, Ctx
from promptgps_service.api.problems import responses
from promptgps_service.flow import predict

router = APIRouter(tags=["prediction"])
Asked = Annotated[PredictDifficulty, json_body(PredictDifficulty, changes=False)]


@router.post("/predict_difficulty", responses=responses(404, 409, 415, 429))
def predict_difficulty(request: Asked, context: Ctx, access: Caller) -> Difficulty:
    """Success rates with their uncertainty, for prompts of the pool and for new ones."""
    access.may_read(request.run)
    return predict.predict_difficulty(context, request)

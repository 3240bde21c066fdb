"""Open, list, describe and re-tune runs; their metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response
from promptgps_client.wire import ChangeRun, CreateRun, Name, Run, RunMetrics, Runs

from promptgps_service.api.dependencies import Ctx
from promptgps_service.api.problems import responses
from promptgps_service.flow import open_run

router = APIRouter(tags=["runs"])


@router.post("/runs", responses=responses(404, 409) | {201: {"model": Run, "description": "The run is new"}})
def create_run(request: CreateRun, context: Ctx, response: Response) -> Run:
    """Open a run; the same request again answers the same run."""
    run, new = open_run.create_run(context, request)
    response.status_code = 201 if new else 200
    return run


@router.get("/runs", responses=responses())
def list_runs(context: Ctx) -> Runs:
    """Every run."""
    return open_run.list_runs(context)


@router.get("/runs/{run}", responses=responses(404))
def describe_run(run: Name, context: Ctx) -> Run:
    """A run with every setting spelled out."""
    return open_run.describe_run(context, run)


@router.patch("/runs/{run}", responses=responses(404, 409))
def change_run(run: Name, request: ChangeRun, context: Ctx) -> Run:
    """Re-tune a run."""
    return open_run.change_run(context, run, request)


@router.get("/runs/{run}/metrics", responses=responses(404))
def run_metrics(run: Name, context: Ctx) -> RunMetrics:
    """Series per learned step: prequential scores, effective share, share of uniform picks."""
    return open_run.run_metrics(context, run)

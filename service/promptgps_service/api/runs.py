"""Open, list, describe and re-tune runs; their metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response
from promptgps_client.wire import ChangeRun, CreateRun, Name, Run, RunMetrics, Runs

from promptgps_service.api.dependencies import Caller, Ctx
from promptgps_service.api.problems import responses
from promptgps_service.flow import open_run
from promptgps_service.flow.access import may_open

router = APIRouter(tags=["runs"])


@router.post("/runs", responses=responses(404, 409) | {201: {"model": Run, "description": "The run is new"}})
def create_run(request: CreateRun, context: Ctx, access: Caller, response: Response) -> Run:
    """Open a run; the same request again answers the same run."""
    may_open(context.store, access, request)
    run, new = open_run.create_run(context, request, access.key)
    response.status_code = 201 if new else 200
    return run


@router.get("/runs", responses=responses())
def list_runs(context: Ctx, access: Caller) -> Runs:
    """Every run that the key may see."""
    return Runs(runs=[run for run in open_run.list_runs(context).runs if access.owns(run.name)])


@router.get("/runs/{run}", responses=responses(404))
def describe_run(run: Name, context: Ctx, access: Caller) -> Run:
    """A run with every setting spelled out."""
    access.may_read(run)
    return open_run.describe_run(context, run)


@router.patch("/runs/{run}", responses=responses(404, 409))
def change_run(run: Name, request: ChangeRun, context: Ctx, access: Caller) -> Run:
    """Re-tune a run."""
    access.may_change(run)
    return open_run.change_run(context, run, request, access.key)


@router.get("/runs/{run}/metrics", responses=responses(404))
def run_metrics(run: Name, context: Ctx, access: Caller) -> RunMetrics:
    """Series per learned step: prequential scores, effective share, share of uniform picks."""
    access.may_read(run)
    return open_run.run_metrics(context, run)

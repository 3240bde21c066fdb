"""Open, list, describe and re-tune runs; their metrics."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from promptgps_client.wire import (
    MAX_INTEGER,
    ChangeRun,
    Count,
    CreateRun,
    Name,
    Run,
    RunMetrics,
    Runs,
    SendSubset,
    Subset,
)

from promptgps_service.api.bodies import SMALL, json_body
from promptgps_service.api.dependencies import Caller, Ctx
from promptgps_service.api.problems import responses
from promptgps_service.flow import metrics, open_run, subsets
from promptgps_service.flow.access import may_open

router = APIRouter(tags=["runs"])
RunToCreate = Annotated[CreateRun, json_body(CreateRun, most=SMALL)]
ToSubset = Annotated[SendSubset, json_body(SendSubset)]
Change = Annotated[ChangeRun, json_body(ChangeRun, most=SMALL)]


@router.post(
    "/runs",
    responses=responses(404, 409, 415, 429)
    | {201: {"model": Run, "description": "The run is new"}},
)
def create_run(request: RunToCreate, context: Ctx, access: Caller, response: Response) -> Run:
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


@router.patch("/runs/{run}", responses=responses(404, 409, 415, 429))
def change_run(run: Name, request: Change, context: Ctx, access: Caller) -> Run:
    """Re-tune a run."""
    access.may_change(run)
    return open_run.change_run(context, run, request, access.key)


@router.post("/runs/{run}/subsets", responses=responses(404, 415, 429))
def send_subset(run: Name, request: ToSubset, context: Ctx, access: Caller) -> Subset:
    """Name prompts that later batches are to be drawn from.

    The same prompts have the same id, whoever sends them.
    """
    access.may_change(run)
    return subsets.send_subset(context, run, request)


@router.get("/runs/{run}/metrics", responses=responses(404))
def run_metrics(
    run: Name,
    context: Ctx,
    access: Caller,
    since: Annotated[
        Count | None, Query(description="First model version that is wanted; 0 for all.")
    ] = None,
    series: Annotated[
        str | None,
        Query(max_length=8192, description="Names or beginnings of names, with commas between."),
    ] = None,
    every: Annotated[
        int | None, Query(ge=1, le=MAX_INTEGER, description="Every k-th step.")
    ] = None,
) -> RunMetrics:
    """Series per learned step: prequential scores, effective share, share of uniform picks.

    At most 2,000 steps an answer: the newest, or with `since` or `every` those from there on, and
    `next` says where to go on.
    """
    access.may_read(run)
    return metrics.run_metrics(context, run, since=since, series=series, every=every)

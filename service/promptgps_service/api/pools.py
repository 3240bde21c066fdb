"""Make, list and describe pools; add prompts as JSON columns, JSON Lines or Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from promptgps_client.wire import AddPrompts, CreatePool, Name, OnEqualContent, Pool, Pools, PromptsAdded
from pydantic import ValidationError

from promptgps_service.api.dependencies import Body, Caller, Ctx
from promptgps_service.api.pool_files import check_columns, read_json_lines, read_parquet, vectors_from_lists
from promptgps_service.api.problems import responses
from promptgps_service.flow import register
from promptgps_service.flow.access import may_see_pool, pools_seen
from promptgps_service.flow.prompt_columns import PromptChunk

router = APIRouter(tags=["pools"])

CHUNK_ROWS = 4096  # of columns, so that an import shows a sign of life while it embeds
JSON = "application/json"
JSON_LINES = ("application/jsonl", "application/x-ndjson", "application/jsonlines")
PARQUET = ("application/vnd.apache.parquet", "application/parquet")

EqualContent = Annotated[
    OnEqualContent | None,
    Query(
        description="What becomes of a key whose content another key of the pool has already: `keep` it as a prompt "
        "of its own, the default where keys are given, or `merge` it as an alias. The same as in a JSON body."
    ),
]
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {"schema": {"$ref": "#/components/schemas/AddPrompts"}},
            JSON_LINES[0]: {
                "schema": {
                    "type": "string",
                    "description": "One object a line with key, text, vector, domain, prior_successes, prior_trials; "
                    "gzip is taken too.",
                }
            },
            PARQUET[0]: {"schema": {"type": "string", "format": "binary", "description": "The same columns."}},
        },
    }
}


@router.post("/pools", responses=responses(409) | {201: {"model": Pool, "description": "The pool is new"}})
def create_pool(request: CreatePool, context: Ctx, access: Caller, response: Response) -> Pool:
    """Make a pool; the same request again answers the same pool."""
    access.may_change(request.name)
    pool, new = register.create_pool(context, request, access.key)
    response.status_code = 201 if new else 200
    return pool


@router.get("/pools", responses=responses())
def list_pools(context: Ctx, access: Caller) -> Pools:
    """Every pool that the key may see."""
    pools = register.list_pools(context).pools
    if not access.patterns:
        return Pools(pools=pools)
    seen = pools_seen(context.store, access)
    return Pools(pools=[pool for pool in pools if pool.name in seen or access.owns(pool.name)])


@router.get("/pools/{pool}", responses=responses(404))
def describe_pool(pool: Name, context: Ctx, access: Caller) -> Pool:
    """A pool."""
    may_see_pool(context.store, access, pool)
    return register.describe_pool(context, pool)


@router.post("/pools/{pool}/prompts", responses=responses(404, 409, 415, 429), openapi_extra=_BODY)
def add_prompts(
    pool: Name,
    request: Request,
    body: Body,
    context: Ctx,
    access: Caller,
    on_equal_content: EqualContent = None,
) -> PromptsAdded:
    """Add prompts in bulk, told apart by key or else by content; all of them or, where a row is refused, none."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == JSON:
        columns = _columns(body)
        chunks = _parts(columns)
        on_equal_content = columns.on_equal_content or on_equal_content
    else:
        chunks = _file(kind, body)
    return register.add_prompts(context, pool, chunks, on_equal_content, access.key)


def _file(kind: str, body: BinaryIO) -> Iterator[PromptChunk]:
    if kind in JSON_LINES:
        return read_json_lines(body)
    if kind in PARQUET:
        return read_parquet(body)
    raise HTTPException(415, f"send {JSON}, {JSON_LINES[0]} or {PARQUET[0]}")


def _columns(body: BinaryIO) -> AddPrompts:
    try:
        return AddPrompts.model_validate_json(body.read())
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from error


def _parts(columns: AddPrompts) -> Iterator[PromptChunk]:
    vectors = None if columns.vectors is None else vectors_from_lists(columns.vectors, field="vectors", first_row=0)
    chunk = PromptChunk(
        0, columns.keys, columns.texts, vectors, columns.domains, columns.prior_successes, columns.prior_trials
    )
    check_columns(chunk)
    return chunk.parts(CHUNK_ROWS)


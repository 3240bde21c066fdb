"""Make, list and describe pools; add prompts as JSON columns or as files."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from promptgps_client.wire import CreatePool, Name, OnEqualContent, Pool, Pools, PromptsAdded

from promptgps_service.api.bodies import SMALL, json_body
from promptgps_service.api.dependencies import Caller, Ctx
from promptgps_service.api.problems import responses
from promptgps_service.api.uploads import BODY, Incoming, columns_asked, incoming
from promptgps_service.flow import register
from promptgps_service.flow.access import may_see_pool, pools_seen
from promptgps_service.pools.mapping import ColumnMapping

router = APIRouter(tags=["pools"])
PoolToCreate = Annotated[CreatePool, json_body(CreatePool, most=SMALL)]
EqualContent = Annotated[
    OnEqualContent | None,
    Query(
        description="What becomes of a key whose content another key of the pool has already: "
        "`keep` it as a prompt of its own, the default where keys are given, or `merge` it as an "
        "alias. The same as in a JSON body."
    ),
]


@router.post(
    "/pools",
    responses=responses(409, 415, 429) | {201: {"model": Pool, "description": "The pool is new"}},
)
def create_pool(request: PoolToCreate, context: Ctx, access: Caller, response: Response) -> Pool:
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


@router.post("/pools/{pool}/prompts", responses=responses(404, 409, 415, 429), openapi_extra=BODY)
async def add_prompts(
    pool: Name,
    context: Ctx,
    access: Caller,
    mapping: Annotated[ColumnMapping, Depends(columns_asked)],
    sent: Annotated[Incoming, Depends(incoming)],
    on_equal_content: EqualContent = None,
) -> PromptsAdded:
    """Add prompts in bulk, told apart by key or else by content.

    All of them are added or, where a row is refused, none.

    A file's columns are found by the names `key`, `text`, `vector`, `domain`, `prior_successes` and
    `prior_trials`, or by the query parameters of these names: the name of a column, or a dotted
    path into structs and into text that is JSON (`?text=prompt&key=extra_info.index`). Whole
    numbers become their decimal string. Chat messages become text: one message is its content,
    several are `role: content` with blank lines between; a part that is no text is its type, as in
    `<image>`.
    """
    async with sent.source(mapping) as source:
        return await source.run(
            lambda chunks: register.add_prompts(
                context, pool, chunks, sent.on_equal_content or on_equal_content, access.key
            )
        )

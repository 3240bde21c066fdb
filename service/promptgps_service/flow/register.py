"""Pools and prompts in: checked, embedded, told apart by key or by content.

They become visible all at once or not at all.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable

import numpy as np
from promptgps_client.wire import CreatePool, Embedding, OnEqualContent, Pool, Pools, PromptsAdded

from promptgps_service.embedding import Embedder
from promptgps_service.embedding.given import unit_vectors
from promptgps_service.embedding.surface import surface_features
from promptgps_service.errors import Conflict, Fault, Invalid
from promptgps_service.flow.context import Context
from promptgps_service.flow.prompt_columns import PromptChunk
from promptgps_service.flow.same_prompts import (
    Incoming,
    KnownContents,
    Sorted,
    StoredVectors,
    sort_out,
)
from promptgps_service.flow.uploads import is_dead
from promptgps_service.store.records import PoolChunk, PoolRecord
from promptgps_service.store.states import ARCHIVED


def create_pool(context: Context, request: CreatePool, by: str | None = None) -> tuple[Pool, bool]:
    """Make a pool; answers it and whether it is new.

    Raises:
        Conflict: the name is taken by a pool with another embedding.
        Invalid: the embedding cannot be had.
    """
    asked = request.embedding.model_dump()
    with context.store.read() as unit:
        found = unit.pools.find(request.name)

    if found is None:
        probe = PoolRecord(0, request.name, asked, request.embedding.dimension or 0, 0, 0, "")
        dimension = context.features.embedder(probe).dimension
        with context.store.write() as unit:
            made = unit.pools.create(request.name, asked, dimension)
            if made is not None:
                unit.events.add(
                    "pool-created", pool=request.name, key=by, detail={"dimension": dimension}
                )
                return pool_of(made), True
            found = unit.pools.get(request.name)  # another request has made it just now

    if found.embedding != asked:
        raise Conflict(
            f"pool {request.name!r} exists with another embedding", (Fault("embedding", "differs"),)
        )

    return pool_of(found), False


def describe_pool(context: Context, name: str) -> Pool:
    """A pool by name."""
    with context.store.read() as unit:
        return pool_of(unit.pools.get(name))


def list_pools(context: Context) -> Pools:
    """Every pool."""
    with context.store.read() as unit:
        return Pools(pools=[pool_of(record) for record in unit.pools.all()])


def pool_of(record: PoolRecord) -> Pool:
    """What is told of a pool."""
    return Pool(
        name=record.name,
        embedding=Embedding.model_validate(record.embedding),
        dimension=record.dimension,
        prompts=record.prompts,
        state="archived" if record.state == ARCHIVED else "open",
        created_at=record.created_at,
    )


def add_prompts(
    context: Context,
    name: str,
    chunks: Iterable[PromptChunk],
    on_equal_content: OnEqualContent | None = None,
    by: str | None = None,
) -> PromptsAdded:
    """Append prompts, chunk by chunk in short transactions.

    They become visible together at the end.

    Args:
        context: of this process.
        name: of the pool.
        chunks: columns of prompts.
        on_equal_content: what becomes of a key whose content another key has; None keeps it where
            keys are given.
        by: name of the API key that adds them, if one was asked for.

    Raises:
        NotFound: there is no such pool.
        Busy: another import into the pool is under way.
        PoolNotOpen: the pool is archived, perhaps since the import has begun; nothing of it
            remains.
        Invalid, Conflict: a row is refused; nothing of the import remains.
    """
    with context.store.read() as unit:
        pool = unit.pools.get(name)

    arrival = _Import(context, pool, on_equal_content)
    try:
        for chunk in chunks:
            arrival.stage(chunk)
        arrival.finish(by)
    except BaseException:
        arrival.abandon()
        raise

    return arrival.answer


class _Import:
    """Prompts on their way into a pool, which is held against other imports.

    It is held until they are there or given up.
    """

    def __init__(
        self, context: Context, pool: PoolRecord, on_equal_content: OnEqualContent | None
    ) -> None:
        self._context = context
        self._on_equal_content = on_equal_content
        self._embedder = context.features.embedder(pool)
        self._token = secrets.token_hex(16)
        self._rows = 0
        self._pool = self._begin(pool)  # as it was then
        self._length = self._pool.prompts
        self._aliases = self._pool.aliases
        self._contents = KnownContents(self._pool.id)
        self._stored = StoredVectors(context.store, self._pool)

    def _begin(self, pool: PoolRecord) -> PoolRecord:
        """Begin; an import that this process has seen stand still for too long is dead.

        It makes room for this one.
        """
        context = self._context
        with context.store.write() as unit:
            other = unit.pools.importing(pool.id)
            dead = other if is_dead(context, pool.id, other) else None
            unit.pools.begin_import(pool, self._token, dead)
            return unit.pools.by_id(pool.id)

    @property
    def answer(self) -> PromptsAdded:
        """What has become of the rows."""
        added = self._length - self._pool.prompts
        aliases = self._aliases - self._pool.aliases

        return PromptsAdded(
            added=added,
            aliases=aliases,
            duplicates=self._rows - added - aliases,
            total=self._length,
        )

    def stage(self, chunk: PromptChunk) -> None:
        """Embed and write what is new of a chunk."""
        vectors = _given_vectors(self._pool, chunk)
        rows = Incoming.of(chunk, vectors)

        with self._context.store.read() as unit:
            by_key = unit.pools.known_keys(self._pool.id, rows.keys)
            by_content = self._contents.of(unit, rows.digests)

        told = sort_out(
            rows, by_key, by_content, self._length, self._stored, merge=self._merges(chunk)
        )
        staged = _pool_chunk(told, rows, chunk, vectors, self._embedder)

        with self._context.store.write() as unit:
            unit.pools.stage(self._pool.id, self._token, self._length, staged)
            if told.aliases:
                unit.pools.stage_aliases(self._pool.id, self._token, self._aliases, told.aliases)

        self._rows += chunk.rows
        self._length += len(staged)
        self._aliases += len(told.aliases)

    def _merges(self, chunk: PromptChunk) -> bool:
        if self._on_equal_content is None:
            return chunk.keys is None
        return self._on_equal_content == "merge"

    def finish(self, by: str | None) -> None:
        """Make it all visible."""
        with self._context.store.write() as unit:
            unit.pools.finish_import(self._pool.id, self._token, self._length, self._aliases)
            told = self.answer.model_dump(include={"added", "duplicates", "aliases", "total"})
            unit.events.add("prompts-added", pool=self._pool.name, key=by, detail=told)

    def abandon(self) -> None:
        """Leave no trace."""
        with self._context.store.write() as unit:
            unit.pools.abandon_import(self._pool.id, self._token)


def _given_vectors(pool: PoolRecord, chunk: PromptChunk) -> np.ndarray | None:
    given = pool.embedding["kind"] == "given"
    if given and chunk.vectors is None:
        raise Invalid.at(
            "vectors",
            f"pool {pool.name!r} takes vectors of dimension {pool.dimension}",
            chunk.first_row,
        )
    if not given and chunk.texts is None:
        raise Invalid.at(
            "texts", f"pool {pool.name!r} embeds texts itself, so texts are needed", chunk.first_row
        )
    if chunk.vectors is None:
        return None
    if not given:
        raise Invalid.at(
            "vectors",
            f"pool {pool.name!r} embeds texts itself and takes no vectors",
            chunk.first_row,
        )

    return unit_vectors(chunk.vectors, pool.dimension, first_row=chunk.first_row)


def _pool_chunk(
    told: Sorted,
    incoming: Incoming,
    chunk: PromptChunk,
    vectors: np.ndarray | None,
    embedder: Embedder,
) -> PoolChunk:
    rows = told.fresh

    def take(column: list | None) -> list | None:  # type: ignore[type-arg]
        return None if column is None else [column[row] for row in rows]

    texts = take(chunk.texts)
    embedding = vectors[rows] if vectors is not None else embedder.embed(texts or [])
    surface = surface_features(texts) if texts is not None else np.zeros((len(rows), 0), np.float32)

    return PoolChunk(
        keys=take(incoming.keys) or [],
        digests=take(incoming.digests) or [],
        identities=told.identities,
        texts=texts,
        domains=take(chunk.domains),
        prior_successes=take(chunk.prior_successes),
        prior_trials=take(chunk.prior_trials),
        embedding=embedding.astype(np.float16),
        surface=surface.astype(np.float32),
    )

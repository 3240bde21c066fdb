"""Pools and prompts in: checked, embedded, de-duplicated by key and by content, visible all at once or not at all."""

from __future__ import annotations

import hashlib
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
from promptgps_service.store.records import PoolChunk, PoolRecord


def create_pool(context: Context, request: CreatePool) -> tuple[Pool, bool]:
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
                return _pool(made), True
            found = unit.pools.get(request.name)  # another request has made it just now
    if found.embedding != asked:
        raise Conflict(f"pool {request.name!r} exists with another embedding", (Fault("embedding", "differs"),))
    return _pool(found), False


def describe_pool(context: Context, name: str) -> Pool:
    """A pool by name."""
    with context.store.read() as unit:
        return _pool(unit.pools.get(name))


def list_pools(context: Context) -> Pools:
    """Every pool."""
    with context.store.read() as unit:
        return Pools(pools=[_pool(record) for record in unit.pools.all()])


def _pool(record: PoolRecord) -> Pool:
    return Pool(
        name=record.name,
        embedding=Embedding.model_validate(record.embedding),
        dimension=record.dimension,
        prompts=record.prompts,
        created_at=record.created_at,
    )


def add_prompts(
    context: Context,
    name: str,
    chunks: Iterable[PromptChunk],
    on_equal_content: OnEqualContent | None = None,  # noqa: ARG001  # carried by the routes already
) -> PromptsAdded:
    """Append prompts, chunk by chunk in short transactions; they become visible together at the end.

    Raises:
        NotFound: there is no such pool.
        Busy: another import into the pool is under way.
        Invalid, Conflict: a row is refused; nothing of the import remains.
    """
    with context.store.read() as unit:
        pool = unit.pools.get(name)
    embedder = context.features.embedder(pool)
    token = secrets.token_hex(16)
    length = start = _begin(context, pool, token)
    rows = 0
    try:
        for chunk in chunks:
            rows += chunk.rows
            new = _stage(context, pool, embedder, token, length, chunk)
            length += new
        with context.store.write() as unit:
            unit.pools.finish_import(pool.id, token, length)
    except BaseException:
        with context.store.write() as unit:
            unit.pools.abandon_import(pool.id, token)
        raise
    return PromptsAdded(added=length - start, duplicates=rows - (length - start), total=length)


def _begin(context: Context, pool: PoolRecord, token: str) -> int:
    """Begin an import; one that this process has seen stand still for too long is dead, and makes room."""
    with context.store.write() as unit:
        other = unit.pools.importing(pool.id)
        still = context.imports.seconds(pool.id, other)
        return unit.pools.begin_import(pool, token, other if still >= context.import_seconds else None)


def _stage(
    context: Context, pool: PoolRecord, embedder: Embedder, token: str, length: int, chunk: PromptChunk
) -> int:
    """Embed and write what is new of a chunk; answers how many that is."""
    vectors = _given_vectors(pool, chunk)
    digests = _digests(chunk, vectors)
    keys = chunk.keys if chunk.keys is not None else [digest.hex() for digest in digests]
    with context.store.read() as unit:
        fresh = _fresh(
            keys, digests, chunk.first_row,
            unit.pools.digests_by_key(pool.id, keys), unit.pools.known_digests(pool.id, digests),
        )  # fmt: skip
    staged = _pool_chunk(fresh, keys, digests, chunk, vectors, embedder)
    with context.store.write() as unit:
        unit.pools.stage(pool.id, token, length, staged)
    return len(staged)


def _given_vectors(pool: PoolRecord, chunk: PromptChunk) -> np.ndarray | None:
    given = pool.embedding["kind"] == "given"
    if given and chunk.vectors is None:
        raise Invalid.at("vectors", f"pool {pool.name!r} takes vectors of dimension {pool.dimension}", chunk.first_row)
    if not given and chunk.texts is None:
        raise Invalid.at("texts", f"pool {pool.name!r} embeds texts itself, so texts are needed", chunk.first_row)
    if chunk.vectors is None:
        return None
    if not given:
        raise Invalid.at("vectors", f"pool {pool.name!r} embeds texts itself and takes no vectors", chunk.first_row)
    return unit_vectors(chunk.vectors, pool.dimension, first_row=chunk.first_row)


def _digests(chunk: PromptChunk, vectors: np.ndarray | None) -> list[bytes]:
    """What a prompt is: its text if it has one, else its vector."""
    contents: Iterable[bytes]
    if chunk.texts is not None:
        contents = (b"t" + text.encode() for text in chunk.texts)
    else:
        assert vectors is not None
        contents = (b"v" + row.tobytes() for row in vectors.astype("<f4"))
    return [hashlib.blake2b(content, digest_size=16).digest() for content in contents]


def _fresh(
    keys: list[str], digests: list[bytes], first_row: int, by_key: dict[str, bytes], known: set[bytes]
) -> list[int]:
    """Rows of the chunk that are new by key and by content, the first of each.

    Raises:
        Conflict: a key stands for another content already.
    """
    fresh = []
    for row, (key, digest) in enumerate(zip(keys, digests, strict=True)):
        if by_key.get(key, digest) != digest:
            detail = f"key {key!r} stands for another content already"
            raise Conflict(detail, (Fault("keys", detail, first_row + row),))
        if digest not in known and key not in by_key:
            fresh.append(row)
        by_key[key] = digest
        known.add(digest)
    return fresh


def _pool_chunk(
    rows: list[int], keys: list[str], digests: list[bytes], chunk: PromptChunk, vectors: np.ndarray | None,
    embedder: Embedder,
) -> PoolChunk:  # fmt: skip
    def take(column: list | None) -> list | None:  # type: ignore[type-arg]
        return None if column is None else [column[row] for row in rows]

    texts = take(chunk.texts)
    embedding = vectors[rows] if vectors is not None else embedder.embed(texts or [])
    surface = surface_features(texts) if texts is not None else np.zeros((len(rows), 0), np.float32)
    return PoolChunk(
        keys=take(keys) or [],
        digests=take(digests) or [],
        texts=texts,
        domains=take(chunk.domains),
        prior_successes=take(chunk.prior_successes),
        prior_trials=take(chunk.prior_trials),
        embedding=embedding.astype(np.float16),
        surface=surface.astype(np.float32),
    )

"""Vectors of the pools, read once and shared by the runs that draw from them."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from promptgps_service.embedding import Embedder, make_embedder
from promptgps_service.embedding.surface import surface_features
from promptgps_service.model.features import Features, Frame, fit_frame, offline_log_odds
from promptgps_service.store.records import PoolRecord, Segment
from promptgps_service.store.unit import Store, Unit


@dataclass(frozen=True)
class PoolVectors:
    """The first M prompts of a pool.

    Attributes:
        identity: int64[M].
        embedding: float32[M, d], unit rows.
        surface: float32[M, S].
        offline: float64[M, 2], successes and trials of the offline pass rate; 0 trials where there is none.
    """

    identity: Tensor
    embedding: Tensor
    surface: Tensor
    offline: Tensor

    @property
    def length(self) -> int:
        """M."""
        return int(self.identity.numel())

    def rows(self, start: int, stop: int) -> PoolVectors:
        """Prompts ``start`` to ``stop``."""
        return PoolVectors(*(getattr(self, field.name)[start:stop] for field in fields(self)))

    def raw(self) -> dict[str, Tensor]:
        """The blocks that features are made of."""
        return {"embedding": self.embedding, "surface": self.surface, "offline": offline_log_odds(self.offline)}


def joined(parts: Sequence[PoolVectors]) -> PoolVectors:
    """One after the other."""
    return PoolVectors(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(PoolVectors)))


@dataclass(frozen=True)
class Matrix:
    """Features of a run's rows, with the frame that maps new prompts to the same columns."""

    features: Features
    frame: Frame
    identity: Tensor


class Stretch(NamedTuple):
    """Prompts ``start .. stop`` of a pool, the first ``frame_rows`` of which its frame is taken from."""

    pool_id: int
    start: int
    stop: int
    frame_rows: int


Key = tuple[Stretch, ...]


class FeatureSpace:
    """Cache of pool vectors and of the feature matrices made of them."""

    def __init__(self, store: Store, device: torch.device, embedding_root: Path | None) -> None:
        self._store = store
        self._embedding_root = embedding_root
        self._device = device
        self._lock = threading.Lock()
        self._vectors: dict[int, PoolVectors] = {}
        self._matrices: dict[tuple[Key, Key], Matrix] = {}
        self._embeddings: dict[Key, Tensor] = {}
        self._embedders: dict[str, Embedder] = {}

    def vectors(self, pool: PoolRecord, length: int) -> PoolVectors:
        """Vectors of the first ``length`` prompts at least, reading only those that are new."""
        with self._lock:
            known = self._vectors.get(pool.id)
            if known is None or known.length < length:
                known = self._extended(pool, known, length)
                self._vectors[pool.id] = known
            return known

    def _extended(self, pool: PoolRecord, known: PoolVectors | None, length: int) -> PoolVectors:
        start = 0 if known is None else known.length
        with self._store.read() as unit:
            read = unit.pools.arrays(pool, start, length)
        fresh = PoolVectors(
            torch.from_numpy(read.identity.astype(np.int64)),
            torch.from_numpy(read.embedding.astype(np.float32)),
            torch.from_numpy(read.surface.astype(np.float32)),
            torch.from_numpy(read.offline),
        )
        return fresh if known is None else joined([known, fresh])

    def identity(self, unit: Unit, segments: Sequence[Segment]) -> Tensor:
        """int64[rows of the segments]: what names each prompt."""
        parts = []
        for segment in segments:
            pool = unit.pools.by_id(segment.pool_id)
            vectors = self.vectors(pool, segment.start + segment.count)
            parts.append(vectors.identity[segment.start : segment.start + segment.count])
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)

    def matrix(self, segments: Sequence[Segment], framed_by: Sequence[Segment] | None = None) -> Matrix:
        """Features of the rows of the segments, on the device; shared by runs over the same segments.

        Args:
            segments: of the run.
            framed_by: segments of another run, in whose frame the features are to be; default: their own.
        """
        key = (self._key(segments), self._key(segments if framed_by is None else framed_by))
        with self._lock:
            found = self._matrices.get(key)
        if found is not None:
            return found
        made = self._make(*key)
        with self._lock:
            # An older length of the same pools is not asked for again once every run has moved on.
            self._matrices = {
                other: kept for other, kept in self._matrices.items() if _of_pools(other) != _of_pools(key)
            } | {key: made}
        return made

    def _key(self, segments: Sequence[Segment]) -> Key:
        with self._store.read() as unit:
            pools = {segment.pool_id: unit.pools.by_id(segment.pool_id) for segment in segments}
        if len(pools) == 1:  # one pool's segments follow each other without a gap: they are one
            segments = [Segment(0, segments[0].pool_id, 0, sum(segment.count for segment in segments))]
        return tuple(
            Stretch(
                segment.pool_id, segment.start, segment.start + segment.count, pools[segment.pool_id].frame_rows
            )
            for segment in segments
        )

    def _make(self, own: Key, framing: Key) -> Matrix:
        frame = fit_frame(self._vectors_of(framing, framing=True).raw())
        vectors = self._vectors_of(own)
        offline = vectors.offline if bool((vectors.offline[:, 1] > 0).any()) else None
        features = frame.features(vectors.raw(), offline)
        features = replace(features, x=features.x.to(self._device))
        return Matrix(features, frame, vectors.identity)

    def embedding(self, segments: Sequence[Segment]) -> Tensor:
        """Unit rows float32[N, d] of the segments, on the device."""
        key = self._key(segments)
        with self._lock:
            found = self._embeddings.get(key)
        if found is None:
            found = self._vectors_of(key).embedding.to(self._device)
            with self._lock:
                self._embeddings = {
                    other: kept for other, kept in self._embeddings.items() if _pools(other) != _pools(key)
                } | {key: found}
        return found

    def _vectors_of(self, key: Key, *, framing: bool = False) -> PoolVectors:
        """Vectors of segments; for framing those of the rows only that the pools' frames are taken from."""
        parts = []
        for pool_id, start, stop, frame_rows in key:
            with self._store.read() as unit:
                pool = unit.pools.by_id(pool_id)
            until = max(min(stop, frame_rows), start) if framing else stop
            parts.append(self.vectors(pool, stop).rows(start, until))
        return joined(parts)

    def keep_only(self, pools: Collection[int]) -> None:
        """Forget what was read of other pools than those of these ids: no run of this process needs them now."""
        with self._lock:
            self._vectors = {pool: kept for pool, kept in self._vectors.items() if pool in pools}
            self._matrices = {
                keys: kept for keys, kept in self._matrices.items() if set(_pools(keys[0])) <= set(pools)
            }
            self._embeddings = {
                key: kept for key, kept in self._embeddings.items() if set(_pools(key)) <= set(pools)
            }

    def embedder(self, pool: PoolRecord) -> Embedder:
        """The pool's own embedder."""
        kind = str(pool.embedding["kind"])
        key = f"{kind}:{pool.dimension}:{pool.embedding.get('path')}"
        with self._lock:
            if key not in self._embedders:
                self._embedders[key] = make_embedder(
                    kind,
                    dimension=pool.embedding.get("dimension"),
                    path=pool.embedding.get("path"),
                    root=self._embedding_root,
                )
            return self._embedders[key]

    def new_features(self, matrix: Matrix, embedding: np.ndarray, texts: Sequence[str] | None) -> Tensor:
        """Features float32[M, D] of prompts that are not in the pool, in the frame of the matrix.

        Without texts their surface is taken for the pool's average.
        """
        raw = {block.name: torch.full((len(embedding), len(block.mean)), torch.nan) for block in matrix.frame.blocks}
        raw["embedding"] = torch.from_numpy(embedding.astype(np.float32))
        if texts is not None:
            raw["surface"] = torch.from_numpy(surface_features(texts))
        return matrix.frame.apply(raw).to(self._device)


def _pools(key: Key) -> list[int]:
    return [stretch.pool_id for stretch in key]


def _of_pools(keys: tuple[Key, Key]) -> tuple[list[int], list[int]]:
    return _pools(keys[0]), _pools(keys[1])

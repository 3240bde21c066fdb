"""Vectors of the pools, read once and shared by the runs that draw from them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from promptgps_service.embedding import Embedder, make_embedder
from promptgps_service.embedding.surface import SURFACE_NAMES, surface_features
from promptgps_service.model.features import Features, Frame, fit_frame
from promptgps_service.store.records import PoolRecord, Segment
from promptgps_service.store.unit import Store, Unit


@dataclass(frozen=True)
class PoolVectors:
    """The first M prompts of a pool: identity int64[M], embedding float32[M, d] (unit rows), surface float32[M, S]."""

    identity: Tensor
    embedding: Tensor
    surface: Tensor

    @property
    def length(self) -> int:
        """M."""
        return int(self.identity.numel())


@dataclass(frozen=True)
class Matrix:
    """Features of a run's rows, with the frame that maps new prompts to the same columns."""

    features: Features
    frame: Frame
    embedding: Tensor


class FeatureSpace:
    """Cache of pool vectors and of the feature matrices made of them."""

    def __init__(self, store: Store, device: torch.device, embedding_root: Path | None) -> None:
        self._store = store
        self._embedding_root = embedding_root
        self._device = device
        self._lock = threading.Lock()
        self._vectors: dict[int, PoolVectors] = {}
        self._matrices: dict[tuple[tuple[int, int, int], ...], Matrix] = {}
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
        )
        if known is None:
            return fresh
        return PoolVectors(
            torch.cat([known.identity, fresh.identity]),
            torch.cat([known.embedding, fresh.embedding]),
            torch.cat([known.surface, fresh.surface]),
        )

    def identity(self, unit: Unit, segments: Sequence[Segment]) -> Tensor:
        """int64[rows of the segments]: what names each prompt."""
        parts = []
        for segment in segments:
            pool = unit.pools.by_id(segment.pool_id)
            vectors = self.vectors(pool, segment.start + segment.count)
            parts.append(vectors.identity[segment.start : segment.start + segment.count])
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)

    def matrix(self, segments: Sequence[Segment]) -> Matrix:
        """Features of the rows of the segments, on the device; shared by runs over the same segments."""
        with self._store.read() as unit:
            pools = {segment.pool_id: unit.pools.by_id(segment.pool_id) for segment in segments}
        if len(pools) == 1:
            segments = _joined(segments)
        key = tuple((segment.pool_id, segment.count, pools[segment.pool_id].frame_rows) for segment in segments)
        with self._lock:
            found = self._matrices.get(key)
        if found is not None:
            return found
        made = self._make(segments, pools)
        with self._lock:
            # An older length of the same pools is not asked for again once every run has moved on.
            stale = [other for other in self._matrices if [k[0] for k in other] == [k[0] for k in key]]
            for other in stale:
                del self._matrices[other]
            self._matrices[key] = made
        return made

    def _make(self, segments: Sequence[Segment], pools: dict[int, PoolRecord]) -> Matrix:
        embedding, surface, framed_embedding, framed_surface = [], [], [], []
        for segment in segments:
            pool = pools[segment.pool_id]
            stop = segment.start + segment.count
            vectors = self.vectors(pool, stop)
            framed = slice(segment.start, max(min(stop, pool.frame_rows), segment.start))
            embedding.append(vectors.embedding[segment.start : stop])
            surface.append(vectors.surface[segment.start : stop])
            framed_embedding.append(vectors.embedding[framed])
            framed_surface.append(vectors.surface[framed])
        raw = {"embedding": torch.cat(framed_embedding), "surface": torch.cat(framed_surface)}
        frame = fit_frame({name: part for name, part in raw.items() if part.shape[1] > 0})
        whole = {"embedding": torch.cat(embedding), "surface": torch.cat(surface)}
        features = frame.features([whole[block.name] for block in frame.blocks])
        features = Features(features.x.to(self._device), features.blocks, features.frame_rows)
        return Matrix(features, frame, whole["embedding"].to(self._device))

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
        """Features float32[M, D] of prompts that are not in the pool, in the frame of the matrix."""
        raw = []
        for block in matrix.frame.blocks:
            if block.name == "embedding":
                raw.append(torch.from_numpy(embedding.astype(np.float32)))
            else:
                absent = np.zeros((len(embedding), len(SURFACE_NAMES)))
                counts = surface_features(texts) if texts is not None else absent
                raw.append(torch.from_numpy(np.asarray(counts, np.float32)))
        return matrix.frame.apply(raw).to(self._device)


def _joined(segments: Sequence[Segment]) -> list[Segment]:
    """One pool's segments follow each other without a gap: they are one."""
    return [Segment(0, segments[0].pool_id, 0, sum(segment.count for segment in segments))]

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

from promptgps_service.acquisition.randomness import distinct
from promptgps_service.embedding import Embedder, make_embedder
from promptgps_service.embedding.surface import surface_features
from promptgps_service.flow.keyed_locks import KeyedLocks
from promptgps_service.model.features import Features, Frame, fit_frame, offline_log_odds
from promptgps_service.store.records import PoolRecord, Segment
from promptgps_service.store.unit import Store, Unit


@dataclass(frozen=True)
class PoolVectors:
    """The first M prompts of a pool.

    Attributes:
        identity: int64[M].
        embedding: float32[M, d], unit rows.
        surface: float32[M, S]; NaN where a prompt has no text, S = 0 where none of them has.
        offline: float64[M, 2], successes and trials of the offline pass rate; 0 trials where there
            is none.
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
        return {
            "embedding": self.embedding,
            "surface": self.surface,
            "offline": offline_log_odds(self.offline),
        }


def joined(parts: Sequence[PoolVectors]) -> PoolVectors:
    """One after the other; where only some have texts, the rest have an unknown surface."""
    if len(parts) == 1:
        return parts[0]

    width = max(part.surface.shape[1] for part in parts)
    return PoolVectors(
        identity=torch.cat([part.identity for part in parts]),
        embedding=torch.cat([part.embedding for part in parts]),
        surface=torch.cat([_widened(part.surface, width) for part in parts]),
        offline=torch.cat([part.offline for part in parts]),
    )


def _widened(block: Tensor, width: int) -> Tensor:
    """The block with ``width`` columns; those that it did not have are NaN."""
    missing = width - block.shape[1]
    return torch.nn.functional.pad(block, (0, missing), value=torch.nan) if missing else block


@dataclass(frozen=True)
class Matrix:
    """Features of a run's rows, with the frame that maps new prompts to the same columns."""

    features: Features
    frame: Frame
    identity: Tensor


class Stretch(NamedTuple):
    """Prompts ``start .. stop`` of a pool, whose frame is taken from its first ``frame_rows``."""

    pool_id: int
    start: int
    stop: int
    frame_rows: int


Key = tuple[Stretch, ...]


class FeatureSpace:
    """Cache of pool vectors and of the feature matrices made of them.

    A pool's lock is held while its vectors are read, over a connection that the caller has already:
    whoever waits for such a lock holds no lock of another pool, and whoever has it needs no further
    connection. The lock of the dictionaries is held for a look alone.
    """

    def __init__(self, store: Store, device: torch.device, embedding_root: Path | None) -> None:
        self._store = store
        self._embedding_root = embedding_root
        self._device = device
        self._lock = threading.Lock()
        self._locks = KeyedLocks()
        self._vectors: dict[int, PoolVectors] = {}
        self._matrices: dict[tuple[Key, Key], Matrix] = {}
        self._embeddings: dict[Key, Tensor] = {}
        self._embedders: dict[str, Embedder] = {}

    def vectors(self, unit: Unit, pool_id: int, length: int) -> PoolVectors:
        """Vectors of the first ``length`` prompts at least, reading only those that are new."""
        known = self._vectors.get(pool_id)
        if known is not None and known.length >= length:
            return known

        with self._locks[pool_id]:
            known = self._vectors.get(pool_id)
            if known is None or known.length < length:
                known = self._extended(unit, pool_id, known, length)
                self._vectors[pool_id] = known
            return known

    def _extended(
        self, unit: Unit, pool_id: int, known: PoolVectors | None, length: int
    ) -> PoolVectors:
        start = 0 if known is None else known.length
        read = unit.pools.arrays(unit.pools.by_id(pool_id), start, length)
        fresh = PoolVectors(
            torch.from_numpy(read.identity.astype(np.int64)),
            torch.from_numpy(read.embedding.astype(np.float32)),
            torch.from_numpy(read.surface.astype(np.float32)),
            torch.from_numpy(read.offline),
        )

        return fresh if known is None else joined([known, fresh])

    def identity(self, unit: Unit, segments: Sequence[Segment]) -> Tensor:
        """int64[rows of the segments]: what names each prompt in its pool."""
        parts = []
        for segment in segments:
            stop = segment.start + segment.count
            parts.append(self.vectors(unit, segment.pool_id, stop).identity[segment.start : stop])
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)

    def matrix(
        self, segments: Sequence[Segment], framed_by: Sequence[Segment] | None = None
    ) -> Matrix:
        """Features of the rows of the segments, on the device.

        Runs over the same segments share them. Takes a connection, so it must not be called inside
        a unit of work.

        Args:
            segments: of the run.
            framed_by: segments of another run, in whose frame the features are to be; default:
                their own.
        """
        with self._store.read() as unit:
            key = (_key(unit, segments), _key(unit, segments if framed_by is None else framed_by))
            with self._lock:
                found = self._matrices.get(key)
            if found is not None:
                return found
            own = self._vectors_of(unit, key[0])
            framing = self._vectors_of(unit, key[1], framing=True)

        made = self._make(own, framing)
        with self._lock:
            # An older length of the same pools is not asked for again once every run has moved on.
            self._matrices = {
                other: kept
                for other, kept in self._matrices.items()
                if _of_pools(other) != _of_pools(key)
            } | {key: made}

        return made

    def _make(self, own: Sequence[PoolVectors], framing: Sequence[PoolVectors]) -> Matrix:
        frame = fit_frame(joined(framing).raw())
        vectors = joined(own)
        offline = vectors.offline if bool((vectors.offline[:, 1] > 0).any()) else None
        features = frame.features(vectors.raw(), offline)
        features = replace(features, x=features.x.to(self._device))
        return Matrix(
            features, frame, vectors.identity if len(own) == 1 else distinct(vectors.identity)
        )

    def embedding(self, unit: Unit, segments: Sequence[Segment]) -> Tensor:
        """Unit rows float32[N, d] of the segments, on the device."""
        key = _key(unit, segments)
        with self._lock:
            found = self._embeddings.get(key)

        if found is None:
            found = joined(self._vectors_of(unit, key)).embedding.to(self._device)
            with self._lock:
                self._embeddings = {
                    other: kept
                    for other, kept in self._embeddings.items()
                    if _pools(other) != _pools(key)
                } | {key: found}

        return found

    def _vectors_of(self, unit: Unit, key: Key, *, framing: bool = False) -> list[PoolVectors]:
        """Vectors of stretches; for framing, only those that the pools' frames are taken from."""
        parts = []
        for pool_id, start, stop, frame_rows in key:
            until = max(min(stop, frame_rows), start) if framing else stop
            parts.append(self.vectors(unit, pool_id, stop).rows(start, until))
        return parts

    def keep_only(self, pools: Collection[int]) -> None:
        """Forget what was read of pools other than those of these ids.

        No run of this process needs them now.
        """
        with self._lock:
            self._vectors = {pool: kept for pool, kept in self._vectors.items() if pool in pools}
            self._matrices = {
                keys: kept
                for keys, kept in self._matrices.items()
                if set(_pools(keys[0])) <= set(pools)
            }
            self._embeddings = {
                key: kept
                for key, kept in self._embeddings.items()
                if set(_pools(key)) <= set(pools)
            }

    def embedder(self, pool: PoolRecord) -> Embedder:
        """The pool's own embedder."""
        kind = str(pool.embedding["kind"])
        key = f"{kind}:{pool.dimension}:{pool.embedding.get('path')}"

        with self._locks[key]:
            if key not in self._embedders:
                self._embedders[key] = make_embedder(
                    kind,
                    dimension=pool.embedding.get("dimension"),
                    path=pool.embedding.get("path"),
                    root=self._embedding_root,
                )
            return self._embedders[key]

    def new_features(
        self, matrix: Matrix, embedding: np.ndarray, texts: Sequence[str] | None
    ) -> Tensor:
        """Features float32[M, D] of prompts that are not in the pool, in the frame of the matrix.

        Without texts their surface is taken for the pool's average.
        """
        raw = {"embedding": torch.from_numpy(embedding.astype(np.float32))}
        if texts is not None:
            raw["surface"] = torch.from_numpy(surface_features(texts))
        return matrix.frame.apply(raw).to(self._device)


def _key(unit: Unit, segments: Sequence[Segment]) -> Key:
    pools = {segment.pool_id: unit.pools.by_id(segment.pool_id) for segment in segments}
    if len(pools) == 1:  # one pool's segments follow each other without a gap: they are one
        segments = [Segment(0, segments[0].pool_id, 0, sum(segment.count for segment in segments))]

    return tuple(
        Stretch(
            segment.pool_id,
            segment.start,
            segment.start + segment.count,
            pools[segment.pool_id].frame_rows,
        )
        for segment in segments
    )


def _pools(key: Key) -> list[int]:
    return [stretch.pool_id for stretch in key]


def _of_pools(keys: tuple[Key, Key]) -> tuple[list[int], list[int]]:
    return _pools(keys[0]), _pools(keys[1])

"""Text to vectors.

``make_embedder`` gives a pool's embedder, ``surface_features`` goes with every text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from promptgps_service.embedding.folder import FolderEmbedder
from promptgps_service.embedding.given import MAX_DIMENSION, GivenEmbedder, unit_vectors
from promptgps_service.embedding.surface import SURFACE_NAMES, surface_features
from promptgps_service.embedding.wordllama import WordLlamaEmbedder
from promptgps_service.errors import Invalid

__all__ = [
    "KINDS",
    "MAX_DIMENSION",
    "SURFACE_NAMES",
    "Embedder",
    "FolderEmbedder",
    "GivenEmbedder",
    "WordLlamaEmbedder",
    "make_embedder",
    "surface_features",
    "unit_vectors",
]

KINDS = ("wordllama", "given", "folder")


class Embedder(Protocol):
    """What a pool needs of its embedding."""

    @property
    def dimension(self) -> int:
        """D, the length of a vector."""
        ...

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit rows, float32[M, D], one per text and independent of the other texts."""
        ...


def make_embedder(
    kind: str, *, dimension: int | None = None, path: str | None = None, root: Path | None = None
) -> Embedder:
    """Embedder of a pool.

    Args:
        kind: one of ``KINDS``.
        dimension: needed for ``given``; elsewhere the model has it, and one that differs is
            refused.
        path: folder of the model, for ``folder`` only.
        root: what the folder must be in.

    Raises:
        Invalid: unknown kind, a setting missing or not of this kind, a model that can't be loaded;
            names the field.
    """
    if kind not in KINDS:
        raise Invalid.at("embedding.kind", f"unknown embedding {kind!r}; one of {', '.join(KINDS)}")
    if path is not None and kind != "folder":
        raise Invalid.at("embedding.path", f"embedding kind '{kind}' takes no path")
    if kind == "given":
        return GivenEmbedder(_checked_dimension(dimension))

    embedder = WordLlamaEmbedder() if kind == "wordllama" else _folder(path, root)
    if dimension is not None and dimension != embedder.dimension:
        detail = f"embedding kind '{kind}' has dimension {embedder.dimension} here, not {dimension}"
        raise Invalid.at("embedding.dimension", detail)

    return embedder


def _folder(path: str | None, root: Path | None) -> FolderEmbedder:
    """Embedder of a folder that must be named."""
    if not path:
        raise Invalid.at(
            "embedding.path", "embedding kind 'folder' needs the path of a model's folder"
        )
    return FolderEmbedder(path, root)


def _checked_dimension(dimension: int | None) -> int:
    """Dimension of vectors to come."""
    if dimension is None or not 1 <= dimension <= MAX_DIMENSION:
        detail = f"embedding kind 'given' needs a dimension from 1 to {MAX_DIMENSION}"
        raise Invalid.at("embedding.dimension", detail)
    return dimension

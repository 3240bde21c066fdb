"""A sentence-transformers model from a folder on disk (extra ``transformer``), offline."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from promptgps_service.embedding.wordllama import MAX_CHARACTERS
from promptgps_service.errors import Invalid

BATCH_TEXTS = 64

_lock = threading.Lock()
_log = structlog.get_logger(__name__)


class FolderEmbedder:
    """Embeds texts with the model of a folder; those of the same folder share one loaded model."""

    def __init__(self, path: str, root: Path | None) -> None:
        """Load the model.

        Args:
            path: of the folder, from ``root`` on or absolute.
            root: what callers may name folders of; None: nothing.

        Raises:
            Invalid: the folder is not in there or holds no model, or the extra is not installed.
        """
        with _lock:  # lru_cache alone would let two threads load the same model
            self._model = _load(_inside(path, root))
        # Asked of a vector: the method that tells the dimension has another name in each major
        # version.
        self.dimension = int(self._encode(["a"]).shape[1])

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit rows, float32[M, dimension]; a zero row where the model gives zeros.

        Args:
            texts: M strings; of each the first ``MAX_CHARACTERS`` characters reach the model, which
                may cut further.
        """
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)

        rows = self._encode([text[:MAX_CHARACTERS] for text in texts])
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        unit: np.ndarray = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
        return unit

    def _encode(self, texts: list[str]) -> np.ndarray:
        """Vectors of the model as they are, float32[M, D]."""
        raw = self._model.encode(
            texts, batch_size=BATCH_TEXTS, convert_to_numpy=True, show_progress_bar=False
        )
        return np.asarray(raw, dtype=np.float32)


def _inside(path: str, root: Path | None) -> str:
    """The folder without links, if it is inside the root.

    Whether there is one elsewhere is nobody's business.
    """
    if root is None:
        raise Invalid.at(
            "embedding.kind",
            "embedding kind 'folder' is off here: PROMPTGPS_EMBEDDING_ROOT is not set",
        )

    top = os.path.realpath(root)
    folder = os.path.realpath(os.path.join(top, path))
    if os.path.commonpath([top, folder]) != top or not os.path.isdir(folder):
        raise Invalid.at("embedding.path", f"no folder {path!r} in PROMPTGPS_EMBEDDING_ROOT")

    return folder


@functools.lru_cache(maxsize=4)
def _load(folder: str) -> Any:
    """Load the sentence-transformers model of a folder."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        detail = (
            "embedding kind 'folder' needs sentence-transformers: "
            "pip install 'promptgps[transformer]'"
        )
        raise Invalid.at("embedding.kind", detail) from error

    try:
        return SentenceTransformer(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        _log.warning("a model cannot be loaded", folder=folder, cause=str(error))
        detail = (
            "holds no sentence-transformers model that can be loaded; the service's log says why"
        )
        raise Invalid.at("embedding.path", detail) from error

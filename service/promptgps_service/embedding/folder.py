"""A sentence-transformers model from a folder on disk (extra ``transformer``), without the network."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from promptgps_service.embedding.wordllama import MAX_CHARACTERS
from promptgps_service.errors import Invalid

BATCH_TEXTS = 64

_lock = threading.Lock()


class FolderEmbedder:
    """Embeds texts with the model of a folder; embedders of the same folder share one loaded model."""

    def __init__(self, path: str) -> None:
        """Load the model.

        Raises:
            Invalid: the folder is not there or holds no model, or the extra is not installed.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise Invalid.at("embedding.path", f"no folder at {path}")
        with _lock:  # lru_cache alone would let two threads load the same model
            self._model = _load(str(folder.resolve()))
        # Asked of a vector: the method that tells the dimension has another name in each major version.
        self.dimension = int(self._encode(["a"]).shape[1])

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit rows, float32[M, dimension]; a zero row where the model gives zeros.

        Args:
            texts: M strings; of each the first ``MAX_CHARACTERS`` characters reach the model, which may cut
                further.
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


@functools.lru_cache(maxsize=4)
def _load(folder: str) -> Any:
    """Load the sentence-transformers model of a folder."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        detail = "embedding kind 'folder' needs sentence-transformers: pip install 'promptgps[transformer]'"
        raise Invalid.at("embedding.kind", detail) from error
    try:
        return SentenceTransformer(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise Invalid.at("embedding.path", f"no sentence-transformers model in {folder}: {error}") from error

"""Vectors brought by the caller: checked, then brought to length one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from promptgps_service.errors import Invalid

MAX_DIMENSION = 16_384


class GivenEmbedder:
    """Stands for a pool whose vectors come with its prompts.

    It knows their dimension, but embeds no text.
    """

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Refuse.

        Raises:
            Invalid: always.
        """
        detail = (
            f"this pool takes vectors of dimension {self.dimension}; "
            f"it can't embed {len(texts)} texts"
        )
        raise Invalid.at("texts", detail)


def unit_vectors(
    vectors: np.ndarray, dimension: int, *, field: str = "vectors", first_row: int = 0
) -> np.ndarray:
    """Check vectors and scale them to length one, float32[M, dimension].

    Args:
        vectors: real[M, dimension], of any float or integer type.
        dimension: what the pool asks for.
        field: the request's field, for the error.
        first_row: the row of ``vectors[0]`` in the whole request, for the error.

    Raises:
        Invalid: wrong shape or type; a row that is not finite, or zero; names the first such row.
    """
    if vectors.dtype.kind not in "fiu":
        raise Invalid.at(field, f"vectors must be numbers, not {vectors.dtype}")

    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        found = " × ".join(map(str, vectors.shape))
        raise Invalid.at(
            field, f"vectors must be rows of dimension {dimension}, not of shape {found}", first_row
        )

    wide = vectors.astype(np.float64)  # squares of large float32 overflow, of small ones vanish
    largest = np.abs(wide).max(axis=1, initial=0.0)
    _refuse(~np.isfinite(largest), field, "vector holds NaN or an infinity", first_row)
    _refuse(largest == 0.0, field, "vector is zero and has no direction", first_row)
    wide /= largest[:, None]
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)

    return wide.astype(np.float32)


def _refuse(bad: np.ndarray, field: str, detail: str, first_row: int) -> None:
    """Raise for the first true row of bool[M]."""
    if bad.any():
        raise Invalid.at(field, detail, first_row + int(bad.argmax()))

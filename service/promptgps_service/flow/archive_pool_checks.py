"""What must be so between the rows of a pool of an archive, told line by line.

Each check takes the rows of one table in their order and raises a ValueError at the first that
cannot be. Memory is bounded by some bytes a prompt.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptgps_service.embedding.surface import SURFACE_NAMES
from promptgps_service.flow.archive_folder import Folder
from promptgps_service.flow.archive_rows import PoolHead
from promptgps_service.flow.same_prompts import identity_beside
from promptgps_service.store.tables import VECTORS

WORDLLAMA_DIMENSION = 256
LENGTH_TOLERANCE = 0.01  # of a unit vector that was rounded to float16
Row = dict[str, Any]


@dataclass
class PoolCheck:
    """Rows of one pool.

    Attributes:
        head: the pool's own row.
        place: where its files are.
        folder: the archive.
        domains: those that some run's settings name, as far as prompts have them.
    """

    head: PoolHead
    place: str
    folder: Folder
    domains: set[str] = field(default_factory=set)
    _keys: array[int] = field(default_factory=lambda: array("Q"))
    _first: array[int] = field(default_factory=lambda: array("q"))
    _beside: array[int] = field(default_factory=lambda: array("q"))
    _texts: bytearray = field(default_factory=bytearray)
    _identities: list[NDArray[np.int64]] = field(default_factory=list)
    _start: int = 0

    def head_fits(self) -> None:
        """Check the pool's own row."""
        head = self.head
        expected = {"given": head.embedding.dimension, "wordllama": WORDLLAMA_DIMENSION}
        if expected.get(head.embedding.kind, head.dimension) != head.dimension:
            raise ValueError(f"dimension {head.dimension} is not the embedding's")
        if head.frame_rows > head.prompts:
            raise ValueError(
                f"frame_rows {head.frame_rows} is more than the {head.prompts} prompts"
            )

    def prompts(self, row: Row) -> None:
        """Check a prompt."""
        if row["position"] != len(self._keys):
            raise ValueError(f"position {row['position']} does not follow the one before")

        digest = bytes.fromhex(row["digest"])
        text = row["text"]
        if text is None and self.head.embedding.kind != "given":
            raise ValueError("text is missing, of which the embedding is made")
        if (
            text is not None
            and digest != hashlib.blake2b(b"t" + text.encode(), digest_size=16).digest()
        ):
            raise ValueError("digest is not that of the text")

        successes = row["prior_successes"]
        trials = row["prior_trials"]
        if (successes or 0.0) > (trials or 0.0):
            raise ValueError(f"prior_successes {successes} of {trials} trials")
        if row["domain"] is not None:
            self.domains.add(row["domain"])

        self._keys.append(_hash(row["key"]))
        self._first.append(_signed(digest[:8]))
        self._beside.append(_signed(identity_beside(digest, row["key"])))
        self._texts.append(text is not None)

    def prompt_aliases(self, row: Row) -> None:
        """Check another key of a prompt."""
        if row["position"] >= self.head.prompts:
            raise ValueError(
                f"position {row['position']} is not one of the {self.head.prompts} prompts"
            )
        self._keys.append(_hash(row["key"]))

    def keys_differ(self) -> None:
        """Check, once all of them were read, that no key is there twice."""
        self._whole(len(self._texts), "prompts")
        keys = np.frombuffer(self._keys, np.uint64)
        _, first = np.unique(keys, return_index=True)
        if first.size != keys.size:
            again = int(np.setdiff1d(np.arange(keys.size), first)[0])
            where = f"prompts.jsonl line {again + 1}"
            if again >= len(self._texts):
                where = f"prompt_aliases.jsonl line {again - len(self._texts) + 1}"
            raise ValueError(f"{where}: the key is there already")

    def pool_chunks(self, row: Row) -> None:
        """Check vectors, and put them into the row."""
        head = self.head
        start = row["start"]
        size = row["size"]
        if start != self._start or start + size > head.prompts:
            raise ValueError(
                f"prompts {start} to {start + size} do not follow those before, "
                f"up to {head.prompts}"
            )

        most = size * (8 + 2 * head.dimension + 4 * len(SURFACE_NAMES))
        arrays = self.folder.arrays(f"{self.place}/{start}", most)
        shapes = {"identity": (size,), "embedding": (size, head.dimension)}

        if arrays.keys() != VECTORS.keys():
            raise ValueError(
                f"the arrays are {', '.join(sorted(arrays))}, not {', '.join(sorted(VECTORS))}"
            )

        for name, kind in VECTORS.items():
            if arrays[name].dtype != np.dtype(kind):
                raise ValueError(f"{name} is of type {arrays[name].dtype}, not {np.dtype(kind)}")
            if name in shapes and arrays[name].shape != shapes[name]:
                raise ValueError(f"{name} has shape {arrays[name].shape}, not {shapes[name]}")
            if name != "identity" and not np.isfinite(arrays[name]).all():
                raise ValueError(f"{name} is not finite")

        self._check_surface(arrays["surface"], start, size)
        self._check_embedding(arrays["embedding"])
        self._check_identity(arrays["identity"], start, size)
        row |= {name: arrays[name].tobytes() for name in VECTORS}
        self._start += size

    def _check_surface(self, surface: NDArray[np.float32], start: int, size: int) -> None:
        texts = bytes(self._texts[start : start + size])
        if texts.count(texts[0]) != size:
            raise ValueError("some of its prompts have a text and some have none")
        expected = (size, len(SURFACE_NAMES) if texts[0] else 0)
        if surface.shape != expected:
            raise ValueError(f"surface has shape {surface.shape}, not {expected}")

    def _check_embedding(self, embedding: NDArray[np.float16]) -> None:
        length = np.linalg.norm(embedding.astype(np.float32), axis=1)
        unit = np.abs(length - 1.0) <= LENGTH_TOLERANCE
        if self.head.embedding.kind != "given":
            unit |= length == 0.0  # of a text without any token
        if not unit.all():
            row = int(np.flatnonzero(~unit)[0])
            raise ValueError(f"embedding {row} has length {length[row]:g}, not 1")

    def _check_identity(self, identity: NDArray[np.int64], start: int, size: int) -> None:
        part = slice(start, start + size)
        first, beside = (
            np.frombuffer(column, np.int64)[part] for column in (self._first, self._beside)
        )
        if not ((identity == first) | (identity == beside)).all():
            raise ValueError("identity is not that of the prompts")
        self._identities.append(identity)

    def vectors_are_whole(self) -> None:
        """Check, once all were read, that every prompt has a vector and an identity of its own."""
        self._whole(self._start, "vectors")
        identities = np.concatenate(self._identities)
        if np.unique(identities).size != identities.size:
            raise ValueError("pool_chunks.jsonl: two prompts have one identity")

    def _whole(self, found: int, what: str) -> None:
        if found != self.head.prompts:
            raise ValueError(f"{found} {what}, the pool has {self.head.prompts}")


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def _signed(digest: bytes) -> int:
    return int.from_bytes(digest, "little", signed=True)

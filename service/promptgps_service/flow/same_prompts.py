"""Which prompts of an import are new, which the pool has, and which are other names of those."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from promptgps_service.errors import Conflict, Fault
from promptgps_service.flow.prompt_columns import PromptChunk
from promptgps_service.store.records import Known, PoolRecord
from promptgps_service.store.unit import Store, Unit

# How far a unit vector may lie from itself, rounded to float16 by whoever sent it and again here.
ROUNDING = 2.0**-10 * 1.01
CONTENTS_KEPT = 65_536
CACHE_BYTES = 128 * 2**20  # of vectors read back to compare with
ANOTHER = "give the changed prompt a key of its own, or send the content that the key had"


@dataclass(frozen=True)
class Incoming:
    """Rows of a chunk, told by key and content; M of them.

    Attributes:
        keys: hashes of the content where none are given.
        digests: 16 bytes each: of the text where there is one, else of the vector.
        vectors: float32[M, d], unit rows; None where the pool embeds texts itself.
        keyed: whether keys are given.
        texts: whether texts are.
        first_row: place of the first row in the whole request.
    """

    keys: list[str]
    digests: list[bytes]
    vectors: NDArray[np.float32] | None
    keyed: bool
    texts: bool
    first_row: int

    @classmethod
    def of(cls, chunk: PromptChunk, vectors: NDArray[np.float32] | None) -> Incoming:
        """Rows of a chunk whose vectors are ``vectors``."""
        digests = _digests(chunk, vectors)
        keys = chunk.keys if chunk.keys is not None else [digest.hex() for digest in digests]
        return cls(
            keys, digests, vectors, chunk.keys is not None, chunk.texts is not None, chunk.first_row
        )


def _digests(chunk: PromptChunk, vectors: NDArray[np.float32] | None) -> list[bytes]:
    contents: Iterable[bytes]
    if chunk.texts is not None:
        contents = (b"t" + text.encode() for text in chunk.texts)
    else:
        assert vectors is not None
        contents = (b"v" + row.tobytes() for row in vectors.astype("<f4"))

    return [hashlib.blake2b(content, digest_size=16).digest() for content in contents]


@dataclass
class Sorted:
    """What becomes of the rows of a chunk; those that are in neither are duplicates.

    Attributes:
        fresh: rows that are new prompts, ascending.
        identities: 8 bytes for each of those, what its luck and its place in other runs go by.
        aliases: other keys of prompts, with the positions of these.
    """

    fresh: list[int] = field(default_factory=list)
    identities: list[bytes] = field(default_factory=list)
    aliases: dict[str, int] = field(default_factory=dict)


def sort_out(
    rows: Incoming,
    by_key: Mapping[str, Known],
    by_content: Mapping[bytes, int],
    length: int,
    stored: StoredVectors,
    *,
    merge: bool,
) -> Sorted:
    """Tell what is new of a chunk.

    Args:
        rows: of the chunk.
        by_key: what the pool has under their keys, staged prompts included.
        by_content: the first positions that it has of their contents.
        length: prompts that it has, staged ones included.
        stored: their vectors.
        merge: whether a key whose content another prompt has becomes another name of that one.

    Raises:
        Conflict: a key stands for another content already.
    """
    told = Sorted()
    by_key = dict(by_key)
    by_content = dict(by_content)
    compared = _Compared(rows, length, told.fresh, stored)

    for row, (key, digest) in enumerate(zip(rows.keys, rows.digests, strict=True)):
        known = by_key.get(key)
        if known is not None:
            # Vectors that differ by rounding have other digests; to add a text is to change a
            # prompt.
            may_be_same = known.digest == digest or not rows.texts
            if not may_be_same or not compared.same(row, known.position):
                raise _another(rows, row, known.digest == digest)
            continue

        position = by_content.get(digest)
        if merge and position is not None and compared.same(row, position):
            if rows.keyed:
                told.aliases[key] = position
            by_key[key] = Known(position, digest)
            continue

        at = length + len(told.fresh)
        told.fresh.append(row)
        told.identities.append(digest[:8] if position is None else identity_beside(digest, key))
        by_key[key] = Known(at, digest)
        by_content.setdefault(digest, at)

    return told


def identity_beside(digest: bytes, key: str) -> bytes:
    """Identity of a prompt whose content an earlier one of the pool has, too."""
    return hashlib.blake2b(b"k" + digest + key.encode(), digest_size=8).digest()


@dataclass(frozen=True)
class _Compared:
    """Vectors of a chunk beside the pool's.

    Positions from ``length`` on are ``fresh`` rows.
    """

    rows: Incoming
    length: int
    fresh: Sequence[int]
    stored: StoredVectors

    def same(self, row: int, position: int) -> bool:
        """Whether a row has a prompt's vector, but for rounding.

        An embedded text has told it already.
        """
        vectors = self.rows.vectors
        if vectors is None:
            return True

        there = (
            self.stored.at(position)
            if position < self.length
            else vectors[self.fresh[position - self.length]]
        )
        return float(np.linalg.norm(vectors[row] - there.astype(np.float32))) <= ROUNDING


def _another(rows: Incoming, row: int, same_text: bool) -> Conflict:
    key = rows.keys[row]
    if not rows.keyed:
        detail = "an earlier prompt has the same text and another vector: "
        detail += "give both a key (`keys`) to tell them apart"
        return Conflict(detail, (Fault("vectors", detail, rows.first_row + row),))

    what = "the same text with another vector" if same_text and rows.texts else "another content"
    detail = f"key {key!r} stands for {what} already: {ANOTHER}"
    return Conflict(detail, (Fault("keys", detail, rows.first_row + row),))


class KnownContents:
    """First positions of contents, those met last kept.

    Of a common content the pool has many prompts to look through.
    """

    def __init__(self, pool_id: int) -> None:
        self._pool_id = pool_id
        self._kept: OrderedDict[bytes, int] = OrderedDict()

    def of(self, unit: Unit, digests: Sequence[bytes]) -> dict[bytes, int]:
        """First positions of those contents that the pool has, staged prompts included."""
        asked = dict.fromkeys(digests)
        found = {digest: self._kept[digest] for digest in asked if digest in self._kept}
        missing = [digest for digest in asked if digest not in found]
        found |= unit.pools.known_digests(self._pool_id, missing)

        for digest, position in found.items():
            self._kept[digest] = position
            self._kept.move_to_end(digest)

        while len(self._kept) > CONTENTS_KEPT:
            self._kept.popitem(last=False)

        return found


class StoredVectors:
    """Vectors of a pool's prompts, read chunk by chunk, as many kept as fit."""

    def __init__(self, store: Store, pool: PoolRecord) -> None:
        self._store = store
        self._pool = pool
        self._starts = self._stops = np.zeros(0, np.int64)
        self._chunks: OrderedDict[int, NDArray[np.float16]] = OrderedDict()
        self._bytes = 0

    def at(self, position: int) -> NDArray[np.float16]:
        """float16[d] of the prompt at a position, committed or staged."""
        start = self._start_of(position)
        if start in self._chunks:
            self._chunks.move_to_end(start)
        else:
            self._read(start)

        vector: NDArray[np.float16] = self._chunks[start][position - start]
        return vector

    def _start_of(self, position: int) -> int:
        """Where the chunk begins; those staged since the last look are looked up anew."""
        if not self._stops.size or position >= self._stops[-1]:
            with self._store.read() as unit:
                self._starts, self._stops = unit.pools.chunks(self._pool.id)
        return int(self._starts[np.searchsorted(self._stops, position, side="right")])

    def _read(self, start: int) -> None:
        with self._store.read() as unit:
            chunk = unit.pools.embedding_of_chunk(self._pool.id, start)
        self._chunks[start] = chunk
        self._bytes += chunk.nbytes
        while self._bytes > CACHE_BYTES and len(self._chunks) > 1:
            self._bytes -= self._chunks.popitem(last=False)[1].nbytes

"""WordLlama: 256 numbers per text from averaged token vectors, offline.

It is fast enough for pools of millions.

The weights and the tokenizer are inside the wheel. WordLlama's own ``embed`` pads every text to the
longest of its batch, which costs memory (one text of 1 MB pads all its neighbours) and makes a row
depend on its batch in the last bits; here token vectors are summed by a sparse product instead, row
by row.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from promptgps_service.errors import Invalid

DIMENSION = 256
MAX_CHARACTERS = 8192
"""Characters of a text that are read; the rest is cut off before tokenising, to bound memory."""

BATCH_TEXTS = 1024
# the tokenizer holds some 100 bytes a token: tens of MB a batch, whatever the texts
BATCH_CHARACTERS = 262_144


class _Parts(NamedTuple):
    """The two parts of the loaded model."""

    tokenizer: Any  # tokenizers.Tokenizer
    table: np.ndarray  # float32[V, 256]


_lock = threading.Lock()
_parts: _Parts | None = None


def _load() -> _Parts:
    """Read the model from the wheel, once per process."""
    global _parts
    with _lock:
        if _parts is None:
            _parts = _read()
        return _parts


def _read() -> _Parts:
    """Read tokenizer and weights from the package's own folder.

    A plain ``WordLlama.load()`` of 0.4.0.post1 looks for the tokenizer in ``tokenizer/`` while the
    wheel has it in ``tokenizers/``, and then asks the Hugging Face hub. The cache layout does spell
    ``tokenizers/``, so the package's folder is handed over as the cache, and ``disable_download``
    turns any surprise into an error instead of a request.
    """
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    import wordllama  # late: it costs 0.5 s, and calls logging.basicConfig, which is undone below

    root.setLevel(before[0])
    root.handlers[:] = before[1]

    model = wordllama.WordLlama.load(
        cache_dir=Path(wordllama.__file__).parent, dim=DIMENSION, disable_download=True
    )
    model.tokenizer.no_padding()
    return _Parts(model.tokenizer, model.embedding)


class WordLlamaEmbedder:
    """Embeds texts with WordLlama (``l2_supercat``, 256-d); all share one loaded model."""

    dimension = DIMENSION

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit rows, float32[M, 256], each of its own text only; a zero row if a text has no token.

        Args:
            texts: M strings; of each the first ``MAX_CHARACTERS`` characters are read.

        Raises:
            Invalid: a text holds a lone surrogate, which no encoder takes; names the row.
        """
        parts = _load()
        out = np.zeros((len(texts), DIMENSION), dtype=np.float32)
        for first, batch in _batches(texts):
            out[first : first + len(batch)] = _embed_batch(parts, batch, first)
        return out


def embed(texts: Sequence[str]) -> np.ndarray:
    """Unit rows, float32[M, 256], as :meth:`WordLlamaEmbedder.embed`."""
    return WordLlamaEmbedder().embed(texts)


def _batches(texts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Cut texts in batches bounded in texts and in characters, each with its first text's row."""
    batch: list[str] = []
    characters = 0

    for row, text in enumerate(texts):
        cut = text[:MAX_CHARACTERS]
        if batch and (len(batch) == BATCH_TEXTS or characters + len(cut) > BATCH_CHARACTERS):
            yield row - len(batch), batch
            batch = []
            characters = 0
        batch.append(cut)
        characters += len(cut)

    if batch:
        yield len(texts) - len(batch), batch


def _embed_batch(parts: _Parts, batch: list[str], first: int) -> np.ndarray:
    """Unit rows of a batch, float32[len(batch), 256]; ``first`` is its first row, for errors."""
    try:
        encoded = parts.tokenizer.encode_batch_fast(batch, add_special_tokens=False)
    except (TypeError, UnicodeEncodeError):  # the tokenizer says TypeError of a str it can't encode
        row = first + next(i for i, text in enumerate(batch) if not _encodable(text))
        raise Invalid.at("texts", "text holds a lone surrogate", row) from None

    tokens = [encoding.ids for encoding in encoded]
    ends = np.cumsum([0, *map(len, tokens)])
    ids = np.fromiter(chain.from_iterable(tokens), dtype=np.int32, count=int(ends[-1]))
    ones = np.ones(len(ids), dtype=np.float32)
    sums = csr_array((ones, ids, ends), shape=(len(batch), len(parts.table))) @ parts.table

    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    unit: np.ndarray = np.divide(sums, norms, out=np.zeros_like(sums), where=norms > 0)
    return unit


def _encodable(text: str) -> bool:
    """Whether a text has a UTF-8 form."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

"""What the worker sends: plain values in frames of bounded size, in which no code can hide."""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from promptgps_service.pools.raw import RawChunk

MAX_FRAME = 64 * 2**20  # bytes; a chunk has some 4 MB, a single long row some more
_LENGTH = struct.Struct(">Q")


class BrokenFrame(ValueError):
    """What came is no frame."""


class _Plain(pickle.Unpickler):
    """Takes strings, numbers, bytes, lists, tuples and dicts, and refuses what has a name."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse."""
        raise BrokenFrame(f"a frame names {module}.{name}")


def send(out: BinaryIO, values: Mapping[str, Any]) -> None:
    """Write one frame."""
    body = pickle.dumps(dict(values), protocol=5)
    out.write(_LENGTH.pack(len(body)))
    out.write(body)
    out.flush()


def receive(source: BinaryIO) -> dict[str, Any] | None:
    """Read one frame; None where there is none any more.

    Raises:
        BrokenFrame: it is broken off, too long, or holds something else than plain values.
    """
    head = source.read(_LENGTH.size)
    if not head:
        return None
    if len(head) < _LENGTH.size:
        raise BrokenFrame("a frame is broken off")

    (length,) = _LENGTH.unpack(head)
    if length > MAX_FRAME:
        raise BrokenFrame("a frame is too long")

    body = source.read(length)
    if len(body) < length:
        raise BrokenFrame("a frame is broken off")
    try:
        values = _Plain(io.BytesIO(body)).load()
    except (
        pickle.UnpicklingError,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise BrokenFrame(f"a frame cannot be read: {error}") from error

    if not isinstance(values, dict):
        raise BrokenFrame("a frame is no dict")
    return values


def chunk_frame(chunk: RawChunk) -> dict[str, Any]:
    """A chunk as plain values."""
    plain: dict[str, Any] = {
        "rows": chunk.rows,
        "key": chunk.key,
        "text": chunk.text,
        "domain": chunk.domain,
        "prior_successes": chunk.prior_successes,
        "prior_trials": chunk.prior_trials,
    }
    if chunk.vector is not None:
        plain["vector"] = (chunk.vector.shape[1], chunk.vector.tobytes())

    return plain


def chunk_of(frame: Mapping[str, Any]) -> RawChunk:
    """The chunk of a frame.

    Raises:
        BrokenFrame: it has not the shape of a chunk.
    """
    values = dict(frame)
    packed = values.pop("vector", None)

    try:
        if packed is not None:
            dimension, content = packed
            values["vector"] = np.frombuffer(content, np.float32).reshape(values["rows"], dimension)
        return RawChunk(**values)
    except (TypeError, ValueError) as error:
        raise BrokenFrame(f"a frame is no chunk: {error}") from error

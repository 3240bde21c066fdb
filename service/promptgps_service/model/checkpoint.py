"""A model state as bytes: magic number, digest, safetensors. Nothing in it is ever executed.

The same state gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from safetensors import SafetensorError
from safetensors import torch as codec
from torch import Tensor

MAGIC = b"pgps\x00\x01\r\n"
_DIGEST = hashlib.sha256().digest_size


def pack(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Bytes of a state and of what is to be known about it."""
    # A clone has storage of its own: safetensors refuses tensors that share theirs.
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}
    # One entry: safetensors writes several in an order that changes from call to call.
    return from_safetensors(
        codec.save(tensors, {"json": json.dumps(dict(metadata), sort_keys=True)})
    )


def from_safetensors(body: bytes) -> bytes:
    """The checkpoint whose safetensors these are."""
    return MAGIC + hashlib.sha256(body).digest() + body


def as_safetensors(data: bytes) -> bytes:
    """The safetensors inside a checkpoint.

    Raises:
        ValueError: the bytes are not a checkpoint, or are damaged.
    """
    start = len(MAGIC) + _DIGEST
    if data[: len(MAGIC)] != MAGIC or len(data) < start + 8:
        raise ValueError("not a checkpoint")

    body = data[start:]
    if hashlib.sha256(body).digest() != data[len(MAGIC) : start]:
        raise ValueError("the checkpoint is damaged")

    return body


def unpack(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """State (on the CPU) and metadata of ``pack``.

    Raises:
        ValueError: the bytes are not a checkpoint, or are damaged.
    """
    body = as_safetensors(data)

    try:
        state = codec.load(body)
    except SafetensorError as error:
        raise ValueError("the checkpoint can't be read") from error

    header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    return state, json.loads(header["__metadata__"]["json"])

"""Counter-based randomness: every coin is a hash of (seed, stream, prompt identity).

So a selection can be replayed bit for bit from its seed, on any device and in any process, and a
permutation of the pool permutes the answer: a prompt's luck belongs to the prompt, not to its
place. The mixer is splitmix64's finaliser (Steele, Lea and Flood, OOPSLA 2014); int64 arithmetic
wraps as the algorithm wants.
"""

from __future__ import annotations

import torch
from torch import Tensor

ORDER, ROUNDING, TIES, THOMPSON, SHUFFLE = range(5)
_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_M1 = 0xBF58476D1CE4E5B9
_M2 = 0x94D049BB133111EB


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _mix_int(value: int) -> int:
    value &= _MASK
    value = ((value ^ (value >> 30)) * _M1) & _MASK
    value = ((value ^ (value >> 27)) * _M2) & _MASK
    return value ^ (value >> 31)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _signed(_M1)
    x = (x ^ _shift(x, 27)) * _signed(_M2)
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # a logical shift: int64's own keeps the sign


def derive(seed: int, *parts: int) -> int:
    """A seed in [0, 2^53) that depends on every part; 53 bits survive any JSON reader."""
    value = _mix_int(seed + _GOLDEN)
    for part in parts:
        # The product tells (seed, part) from (part, seed); a plain XOR would also send every
        # seed == part to zero.
        value = _mix_int(value * _M1 + _mix_int(part + _GOLDEN))
    return value >> 11


def distinct(identity: Tensor) -> Tensor:
    """Identities int64[N], different from each other, of prompts that may have come with the same.

    The first of equal ones keeps its own; each later one is given a hash of it. More rows at the
    end change nothing for those before them, and it does not matter whether these had been made
    distinct already.
    """
    answer = identity
    while True:
        order = answer.argsort(stable=True)
        ascending = answer[order]
        again = order[1:][ascending[1:] == ascending[:-1]]
        if again.numel() == 0:
            return answer
        answer = answer.index_put((again,), _mix(answer[again] + _signed(_GOLDEN)))


def bits(identity: Tensor, seed: int, stream: int) -> Tensor:
    """63 random bits a prompt.

    Args:
        identity: int64[M], what names the prompts.
        seed: of the selection.
        stream: which of the selection's independent coins.

    Returns:
        int64[M], uniform on [0, 2^63).
    """
    return _shift(_mix(identity + _signed(derive(seed, stream) * _GOLDEN)), 1)


def uniforms(identity: Tensor, seed: int, stream: int) -> Tensor:
    """float64[M], uniform on the open interval (0, 1)."""
    return ((bits(identity, seed, stream) >> 10).to(torch.float64) + 0.5) * 2.0**-53


def coin(seed: int, stream: int) -> float:
    """One number uniform on (0, 1) for the selection as a whole."""
    return (derive(seed, stream, 1) + 0.5) * 2.0**-53

"""The structure of a JSON text, found a window at a time without making values of it.

A hostile text costs no more than a sound one: what is looked at is bounded by windows, what is kept
by positions.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

WINDOW = 128 * 2**10  # bytes of a list that are looked at, and later parsed, at a time
GLANCE = 4 * 2**10  # bytes that are looked at first: most lists end there
# Seconds before each window of a long text: a thread that computes without a break slows all others
# down many times. Shorter texts are read at once; some of them are read on the event loop.
PAUSE = 0.002
LONG = 2**18
STRIDE = 2**20  # bytes that one search runs over, since it holds the interpreter's lock
MAX_SCALAR = 64 * 2**10  # bytes of a number
MAX_NAME = 8 * 2**10  # bytes of a field's name
# Bytes of one string in a list: the longest text with every character escaped.
MAX_STRING = 13 * 2**20
# Bytes of one list or object in a list: the longest vector, written out in full.
MAX_ELEMENT = 2**20

_SPACE = re.compile(rb"[ \t\n\r]*+")
_INSIDE = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_SCALAR = re.compile(rb"[^,:\[\]{}\"\s]++")
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_QUOTE, _COMMA, _COLON = b'",:'


class Malformed(ValueError):
    """The text is not JSON."""


class ElementTooLong(ValueError):
    """One element of a list is longer than any that is taken."""


class Piece(NamedTuple):
    """Some elements of a list, as the bytes from ``start`` to ``stop``, commas included."""

    start: int
    stop: int


class Structure(NamedTuple):
    """What a window is made of, byte by byte.

    Attributes:
        codes: uint8[W], with escapes blanked.
        outside: bool[W], whether a byte stands outside of strings.
        depth: int32[W], open brackets after each byte, counted from the window's start.
    """

    codes: NDArray[np.uint8]
    outside: NDArray[np.bool_]
    depth: NDArray[np.int32]


def structure(window: bytes) -> Structure:
    """Look at a window that begins outside of any string."""
    plain = _ESCAPE.sub(b"..", window) if b"\\" in window else window
    codes = np.frombuffer(plain, np.uint8)
    quotes = (codes == _QUOTE).view(np.uint8)
    outside = np.bitwise_xor.accumulate(quotes) == 0
    folded = codes | 0x20  # [ and { become {, ] and } become }
    steps = (folded == 0x7B).view(np.int8) - (folded == 0x7D).view(np.int8)
    steps *= outside

    return Structure(codes, outside, np.cumsum(steps, dtype=np.int32))


def skip_space(text: bytes | bytearray, at: int) -> int:
    """Position of the next byte that is no white space, perhaps the text's end."""
    while True:
        found = _SPACE.match(text, at, at + STRIDE)
        assert found is not None
        if found.end() < at + STRIDE:
            return found.end()
        at = found.end()


def string_end(text: bytes | bytearray, at: int, most: int) -> int:
    """Position after the string that begins at ``at``.

    Raises:
        ElementTooLong: it is longer than ``most`` bytes.
        Malformed: it has no end.
    """
    start = at
    at = at + 1
    while at < len(text):
        found = _INSIDE.match(text, at, at + STRIDE)
        assert found is not None
        if text[found.end() : found.end() + 1] == b'"':
            return found.end() + 1
        if found.end() == at:  # a backslash at the text's very end
            break
        at = found.end()
        if at - start > most:
            raise ElementTooLong(f"a string is over {most} bytes")

    raise Malformed("a string has no end")


def value_end(text: bytes | bytearray, at: int) -> int:
    """Position after the value that begins at ``at``, whatever is in it.

    Raises:
        Malformed: there is no value, or it has no end.
    """
    first = text[at : at + 1]
    if first == b'"':
        return string_end(text, at, len(text))

    if first not in (b"[", b"{"):
        scalar = _SCALAR.match(text, at, at + MAX_SCALAR)
        if scalar is None:
            raise Malformed("a value is missing")
        return scalar.end()

    depth = 0
    start = at
    size = GLANCE
    while start < len(text):
        window = _look(text, start, size)
        size = WINDOW
        found = structure(window)
        stop = len(window)
        if not found.outside[-1]:  # the window cuts a string, which begins at the last quote
            stop = int(np.flatnonzero(found.codes == _QUOTE)[-1])
        closed = found.depth[:stop] + depth <= 0
        if closed.any():
            return start + int(closed.argmax()) + 1
        depth += int(found.depth[-1])
        start += stop
        if stop < len(window):
            start = string_end(text, start, len(text))

    raise Malformed("a list or an object has no end")


def pieces(text: bytes | bytearray, at: int) -> Iterator[Piece]:
    """The elements of the list whose bracket is at ``at``, in pieces of about a window.

    A list without elements is one empty piece. The position after the list is the last piece's stop
    and one more.

    Raises:
        ElementTooLong: an element is over the limits.
        Malformed: the list has no end.
    """
    start = at + 1
    size = GLANCE

    while True:
        window = _look(text, start, size)
        found = structure(window)
        ended = found.depth < 0
        end = int(ended.argmax()) if ended.any() else len(window)
        if end < len(window):
            if window[end : end + 1] != b"]":
                raise Malformed("a list ends with }")
            yield Piece(start, start + end)
            return

        if size == GLANCE:
            size = WINDOW
            continue

        commas = np.flatnonzero((found.codes == _COMMA) & found.outside & (found.depth == 0))
        if commas.size:
            yield Piece(start, start + int(commas[-1]))
            start = start + int(commas[-1]) + 1
            size = WINDOW
            continue

        if start + size >= len(text):
            raise Malformed("a list has no end")
        begin = skip_space(text, start)
        if text[begin : begin + 1] == b'"':
            stop = skip_space(text, string_end(text, begin, MAX_STRING))
            yield Piece(start, stop)
            if text[stop : stop + 1] == b"]":
                return
            if text[stop : stop + 1] != b",":
                raise Malformed("a comma is missing in a list")
            start = stop + 1
            size = WINDOW
        elif begin - start > WINDOW // 2:
            start = begin
        elif size >= MAX_ELEMENT:
            raise ElementTooLong(f"an element is over {MAX_ELEMENT} bytes")
        else:
            size *= 2


def _look(text: bytes | bytearray, start: int, size: int) -> bytes:
    """The window that begins there; in a long text after a pause for others, but for a glance."""
    if size > GLANCE and len(text) > LONG:
        time.sleep(PAUSE)
    return bytes(text[start : start + size])


def name_end(text: bytes | bytearray, at: int) -> int:
    """Position after the field's name that begins at ``at``.

    Raises:
        ElementTooLong: it is over ``MAX_NAME`` bytes.
        Malformed: there is none.
    """
    if text[at : at + 1] != b'"':
        raise Malformed("a field's name is missing")
    return string_end(text, at, MAX_NAME)

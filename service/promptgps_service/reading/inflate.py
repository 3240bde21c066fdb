"""Gzip that comes in parts, inflated in pieces of bounded size."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

PIECE = 256 * 2**10
_GZIP = 16 + zlib.MAX_WBITS


class BrokenGzip(ValueError):
    """What was sent is no gzip, or it ends too early."""


class Inflater:
    """Inflates one gzip stream of any number of members."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_GZIP)

    def feed(self, part: bytes) -> Iterator[bytes]:
        """Inflate the next part.

        Args:
            part: compressed bytes, as they came.

        Yields:
            Pieces of at most ``PIECE`` bytes; nothing is inflated before it is asked for.

        Raises:
            BrokenGzip: it is no gzip.
        """
        # whether the last piece was full, so that there may be more without any input
        pending = False
        while part or pending:
            if self._stream.eof:  # another member follows, perhaps after padding
                part = part.lstrip(b"\0")
                if not part:
                    return
                self._stream = zlib.decompressobj(_GZIP)

            try:
                piece = self._stream.decompress(part, PIECE)
            except zlib.error as error:
                raise BrokenGzip(f"broken gzip: {error}") from error

            part = self._stream.unconsumed_tail or self._stream.unused_data
            pending = len(piece) == PIECE and not self._stream.eof
            if piece:
                yield piece

    def close(self) -> None:
        """Say that there are no more parts.

        Raises:
            BrokenGzip: the last member has no end.
        """
        if not self._stream.eof:
            raise BrokenGzip("broken gzip: it ends before its end marker")

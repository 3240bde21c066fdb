"""A part of the spool: lines that wait.

They are in a file of their own, or, where the disk takes nothing, in memory.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import Self

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """Where a line is, what it is about, and what it says where it is only in memory."""

    segment: Segment
    start: int
    length: int
    about: str
    content: bytes | None = None

    def read(self) -> bytes:
        """The line without its newline."""
        if self.content is not None:
            return self.content[:-1]

        assert self.segment.path is not None
        with self.segment.path.open("rb") as file:
            file.seek(self.start)
            return file.read(self.length)[:-1]


class Segment:
    """Lines of one file, or in memory.

    Attributes:
        number: Its place in the order of segments.
        path: None in memory.
        inherited: Whether an earlier process has left it.
        size: In bytes.
        waiting: The lines without a delivery.
    """

    def __init__(self, number: int, path: Path | None = None, *, inherited: bool = False) -> None:
        self.number = number
        self.path = path
        self.inherited = inherited
        self.size = 0
        self.waiting: deque[Line] = deque()
        self._file = -1

    @classmethod
    def create(cls, folder: Path, number: int) -> Self:
        """A new file, open for lines."""
        segment = cls(number, folder / f"{number:012d}.jsonl")
        assert segment.path is not None

        segment._file = os.open(
            segment.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644
        )
        try:
            _sync_folder(folder)
        except OSError:
            segment.remove()
            raise

        return segment

    @classmethod
    def left_in(cls, folder: Path, about: Callable[[bytes], str]) -> Iterator[Self]:
        """What an earlier process has left, in order.

        A line without its newline was never acknowledged.
        """
        paths = [path for path in folder.glob("*.jsonl") if path.stem.isdecimal()]
        for path in sorted(paths, key=lambda path: int(path.stem)):
            segment = cls(int(path.stem), path, inherited=True)
            content = path.read_bytes()
            while end := content.find(b"\n", segment.size) + 1:
                segment._add(end - segment.size, about(content[segment.size : end]))

            if torn := len(content) - segment.size:
                _log.warning(
                    "%s ends in half a line of %d bytes, which was never acknowledged", path, torn
                )

            yield segment

    @property
    def is_open(self) -> bool:
        """Whether it takes more lines."""
        return self._file >= 0 or self.path is None

    def append(self, line: bytes, about: str) -> None:
        """Add a line with its newline, durably where it is a file.

        Raises:
            OSError: The disk does not take it. The segment is closed and has the lines that it had.
        """
        if self.path is None:
            self._add(len(line), about, line)
            return

        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
            os.fsync(self._file)
        except OSError:
            self.close()  # behind what it has of the line there must be no other
            raise

        self._add(len(line), about)

    def _add(self, length: int, about: str, content: bytes | None = None) -> None:
        self.waiting.append(Line(self, self.size, length, intern(about), content))
        self.size += length

    def close(self) -> None:
        """Take no more lines."""
        if self._file >= 0:
            file = self._file
            self._file = -1
            os.close(file)

    def remove(self) -> None:
        """Close it and delete its file."""
        self.close()

        if self.path is not None:
            # its lines are then delivered once more after a restart, which is free
            with suppress(OSError):
                self.path.unlink()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

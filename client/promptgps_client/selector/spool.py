"""Lines on disk until they are delivered: segments of JSON Lines, appended durably, removed once nobody waits for them.

    000000000007.jsonl   the oldest segment with a line that waits
    000000000008.jsonl   the one that is written
    refused.jsonl        lines that cannot be delivered, each with the reason; renamed to a segment they are tried again
    lock                 held by the process that writes here

What of a segment is delivered is not written down: after a crash the lines of at most one segment are delivered twice,
so a delivery must be known by its id. A line counts once its newline is on disk; what a crash leaves without one was
never acknowledged.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Literal

_log = logging.getLogger(__name__)

SEGMENT_BYTES = 4 << 20
SEGMENTS_AT_LEAST = 8  # a full spool drops whole segments
REFUSED = "refused.jsonl"
WhenFull = Literal["drop_oldest", "block"]


class SpoolInUse(RuntimeError):
    """Another process writes to this folder."""


@dataclass(eq=False)
class _Segment:
    """A file, or, where the disk takes nothing, lines in memory. `waiting` are its lines without a delivery."""

    number: int
    path: Path | None
    size: int = 0
    waiting: deque[Line] = field(default_factory=deque)


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """Where a line is, and what it says where it is only in memory."""

    segment: _Segment
    start: int
    length: int
    content: bytes | None = None

    def read(self) -> bytes:
        """The line without its newline."""
        if self.content is not None:
            return self.content[:-1]
        assert self.segment.path is not None
        with self.segment.path.open("rb") as file:
            file.seek(self.start)
            return file.read(self.length)[:-1]


class Spool:
    """A queue of lines in a folder, for one process and any of its threads.

    Args:
        folder: Made where it is missing.
        limit: Most bytes of segments; `refused.jsonl` has the same limit of its own.
        when_full: `drop_oldest` segment, or `block` until something is delivered.

    Raises:
        SpoolInUse: Another process, or another spool of this one, has the folder.
        OSError: The folder cannot be used.
    """

    def __init__(self, folder: Path, limit: int, when_full: WhenFull = "drop_oldest") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._limit, self._when_full = folder, limit, when_full
        self._lock_file = _locked(folder / "lock")
        _OPEN.add(self)
        self._segments = deque(filter(None, map(_read, _paths(folder))))
        self._number = max((int(path.stem) for path in _paths(folder)), default=0)
        self._bytes = sum(segment.size for segment in self._segments)
        self._file = -1  # of the last segment, while it is written
        self._changed = threading.Condition()
        self._closed = False
        self.dropped = 0
        self.refused = 0
        if self._segments:
            _log.info("%d reports of an earlier process wait in %s", len(self), folder)

    def __len__(self) -> int:
        with self._changed:
            return sum(len(segment.waiting) for segment in self._segments)

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return self._bytes

    # ---- in ------------------------------------------------------------------------------------------------

    def append(self, content: bytes) -> bool:
        """Add a line (without newline); true when it is durable, false when only memory has it, or it is dropped.

        Raises:
            ValueError: The spool is closed.
        """
        line = content + b"\n"
        with self._changed:
            roomy = self._make_room(len(line))
            if self._closed:
                raise ValueError(f"the spool {self._folder} is closed")
            if not roomy:
                return False
            try:
                self._write(line)
            except OSError as fault:
                _log.error("the spool %s cannot be written (%s); a report is only in memory", self._folder, fault)
                self._remember(line)
                return False
            finally:
                self._changed.notify_all()
            return True

    def _make_room(self, length: int) -> bool:
        if self._when_full == "block" and length <= self._limit:
            self._changed.wait_for(lambda: self._closed or self._bytes + length <= self._limit)
        while self._segments and self._bytes + length > self._limit >= length:
            _log.error("the spool %s is full", self._folder)
            self._lose(self._segments[0])
        if length > self._limit:
            self.dropped += 1
            _log.error("a report of %d bytes is larger than the whole spool %s and is lost", length, self._folder)
        return length <= self._limit

    def _write(self, line: bytes) -> None:
        if self._file >= 0 and self._segments[-1].size + len(line) > self._segment_bytes():
            self._end_file()
        if self._file < 0:
            self._begin_file()
        segment = self._segments[-1]
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
            os.fsync(self._file)
        except OSError:
            with suppress(OSError):  # what stays has no newline and counts for nothing
                os.ftruncate(self._file, segment.size)
            self._end_file()
            raise
        self._add(segment, Line(segment, segment.size, len(line)))

    def _remember(self, line: bytes) -> None:
        if not self._segments or self._segments[-1].path is not None:
            self._number += 1
            self._segments.append(_Segment(self._number, None))
        segment = self._segments[-1]
        self._add(segment, Line(segment, segment.size, len(line), line))

    def _add(self, segment: _Segment, line: Line) -> None:
        segment.waiting.append(line)
        segment.size += line.length
        self._bytes += line.length

    def _begin_file(self) -> None:
        self._number += 1
        path = self._folder / f"{self._number:012d}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._segments.append(_Segment(self._number, path))
        _sync_folder(self._folder)

    def _end_file(self) -> None:
        """Close the file that is written; one without lines is removed."""
        os.close(self._file)
        self._file = -1
        if not self._segments[-1].waiting:
            self._remove(self._segments[-1])

    def _segment_bytes(self) -> int:
        return min(SEGMENT_BYTES, self._limit // SEGMENTS_AT_LEAST)

    # ---- out -----------------------------------------------------------------------------------------------

    def oldest(self, most: int) -> list[tuple[Line, bytes]]:
        """Up to ``most`` lines that have waited longest, in order, with what they say (about 4 MB of it at most)."""
        found: list[tuple[Line, bytes]] = []
        with self._changed:
            waiting = chain.from_iterable(segment.waiting for segment in self._segments)
            size = 0
            for line in list(islice(waiting, most)):
                try:
                    found.append((line, line.read()))
                except OSError as fault:
                    _log.error("%s cannot be read", line.segment.path, exc_info=fault)
                    self._lose(line.segment)
                    break
                size += line.length
                if size > SEGMENT_BYTES:
                    break
        return found

    def done(self, lines: Sequence[Line]) -> None:
        """Forget lines that are delivered; those that were dropped meanwhile are passed over."""
        with self._changed:
            for line in lines if not self._closed else ():  # the folder may be another process's by now
                if line in line.segment.waiting:
                    line.segment.waiting.remove(line)
                if not line.segment.waiting and line.segment in self._segments:
                    self._remove(line.segment)
            self._changed.notify_all()

    def refuse(self, line: Line, reason: str) -> None:
        """Set a line aside for good, with the reason, so that it keeps nothing else up."""
        with self._changed:
            try:
                content = line.read()
            except OSError as fault:
                content = str(fault).encode()
            self.set_aside(content, reason)
            self.done([line])

    def set_aside(self, content: bytes, reason: str) -> None:
        """Keep content that was refused, as far as there is room."""
        path = self._folder / REFUSED
        with self._changed:
            self.refused += 1
            try:
                _append_refused(path, content, reason, self._limit)
                _log.error("a report is refused and kept in %s: %s", path, reason)
            except OSError as fault:
                _log.error("a report is refused and lost (%s): %s", fault, reason)

    def wait_empty(self, seconds: float) -> bool:
        """Wait until everything is delivered; false when time ran out."""
        with self._changed:
            return self._changed.wait_for(lambda: not len(self), seconds)

    def _lose(self, segment: _Segment) -> None:
        self.dropped += len(segment.waiting)
        _log.error("%d reports are lost", len(segment.waiting))
        self._remove(segment)

    def _remove(self, segment: _Segment) -> None:
        if self._file >= 0 and segment is self._segments[-1]:
            os.close(self._file)
            self._file = -1
        self._segments.remove(segment)
        self._bytes -= segment.size
        if segment.path is not None:
            with suppress(OSError):  # its lines are then delivered once more after a restart, which is free
                segment.path.unlink()

    # ---- the end -------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the folder; what waits on disk waits there for the next spool."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            if self._file >= 0:
                self._end_file()
            if lost := sum(len(segment.waiting) for segment in self._segments if segment.path is None):
                _log.error("%d reports that the disk did not take end with this process", lost)
            _OPEN.discard(self)
            os.close(self._lock_file)
            self._changed.notify_all()


def _paths(folder: Path) -> list[Path]:
    paths = [path for path in folder.glob("*.jsonl") if path.stem.isdecimal()]
    return sorted(paths, key=lambda path: int(path.stem))


def _read(path: Path) -> _Segment | None:
    """The lines of a segment that an earlier process has left; one without any is removed."""
    content = path.read_bytes()
    segment = _Segment(int(path.stem), path, len(content))
    start = 0
    while end := content.find(b"\n", start) + 1:
        segment.waiting.append(Line(segment, start, end - start))
        start = end
    if start < len(content):
        _log.warning("%s ends in half a line of %d bytes, which was never acknowledged", path, len(content) - start)
    if not segment.waiting:
        path.unlink()
    return segment if segment.waiting else None


def _append_refused(path: Path, content: bytes, reason: str, limit: int) -> None:
    """Append a line with the reason why it is refused; what is not a JSON object is quoted."""
    try:
        told = json.loads(content)
    except ValueError:
        told = None
    told = told if isinstance(told, dict) else {"broken": content.decode(errors="replace")}
    line = json.dumps({"refused": reason, **told}).encode() + b"\n"
    with path.open("ab") as file:
        if file.tell() + len(line) > limit:
            raise OSError(f"{path} is full")
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _locked(path: Path) -> int:
    import fcntl  # not on Windows, where the rest of the client works

    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(lock, 256).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise SpoolInUse(f"{path.parent} is in use by {owner}; give each process a spool folder of its own") from None
    os.ftruncate(lock, 0)
    with suppress(OSError):  # the name is for people; a full disk keeps it out, not the lock
        os.write(lock, f"process {os.getpid()} on {socket.gethostname()}".encode())
    return lock


_OPEN: weakref.WeakSet[Spool] = weakref.WeakSet()


def _let_go_in_child() -> None:
    """A forked child shares its parent's lock; it must not keep it when the parent dies."""
    for spool in _OPEN:
        os.close(spool._lock_file)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)

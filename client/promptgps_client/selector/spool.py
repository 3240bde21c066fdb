"""Lines on disk until they are delivered.

They are in segments of JSON Lines, appended durably, removed once nobody waits for them.

    000000000007.jsonl   the oldest segment with a line that waits
    000000000008.jsonl   the one that is written
    refused.jsonl        lines that cannot be delivered, each with the reason; renamed to a
                         segment they are tried again
    lock                 held by the process that writes here

What of a segment is delivered is not written down: after a crash the lines of at most one segment
are delivered twice, so a delivery must be known by its id.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Container, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from promptgps_client.selector.lock import FolderLock
from promptgps_client.selector.segment import Line, Segment

_log = logging.getLogger(__name__)

SEGMENT_BYTES = 4 << 20
SEGMENTS_AT_LEAST = 8  # a full spool drops whole segments
REFUSED = "refused.jsonl"
WhenFull = Literal["drop_oldest", "block"]


def _nothing(_content: bytes) -> str:
    return ""


class Spool:
    """A queue of lines in a folder, for one process and any of its threads.

    Args:
        folder: Made where it is missing.
        limit: Most bytes of segments; `refused.jsonl` has the same limit of its own.
        when_full: `drop_oldest` segment, or `block` until something is delivered.
        about: What a line is about; lines about one thing may be left waiting while others are
            delivered.

    Attributes:
        inherited: What the lines are about that an earlier process has left here.
        refused_path: File of the lines that were set aside.

    Raises:
        SpoolInUse: Another process, or another spool of this one, has the folder.
        OSError: The folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        limit: int,
        when_full: WhenFull = "drop_oldest",
        about: Callable[[bytes], str] = _nothing,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._limit = limit
        self._when_full = when_full
        self._about = about
        self.refused_path = folder / REFUSED
        self._folder_lock = FolderLock(folder)
        self._segments = deque(Segment.left_in(folder, about))
        self.inherited = frozenset(
            line.about for segment in self._segments for line in segment.waiting
        )
        self._number = self._segments[-1].number if self._segments else 0
        self._changed = threading.Condition()
        self._closed = False
        self.dropped = 0
        self.refused = 0

        for segment in list(self._segments):
            self._remove_if_done(segment)
        if self._segments:
            _log.info("%d reports of an earlier process wait in %s", len(self), folder)

    def __len__(self) -> int:
        with self._changed:
            return sum(len(segment.waiting) for segment in self._segments)

    def waits(self, without: Container[str] = ()) -> bool:
        """Whether a line waits, other than about those things."""
        with self._changed:
            return any(
                line.about not in without for segment in self._segments for line in segment.waiting
            )

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        with self._changed:
            return sum(segment.size for segment in self._segments)

    # ---- in --------------------------------------------------------------------------------------

    def append(self, content: bytes) -> bool:
        """Add a line (without newline).

        The answer is true when it is durable, false when only memory has it, or it is dropped.

        Raises:
            ValueError: The spool is closed.
        """
        line = content + b"\n"
        about = self._about(content)
        with self._changed:
            if not self._make_room(len(line)):
                return False

            try:
                self._writable(len(line)).append(line, about)
                return True
            except OSError as fault:
                _log.error(
                    "the spool %s cannot be written (%s); a report is only in memory",
                    self._folder,
                    fault,
                )
                self._in_memory().append(line, about)
                return False
            finally:
                self._changed.notify_all()

    def _make_room(self, length: int) -> bool:
        if length > self._limit:
            self.dropped += 1
            _log.error(
                "a report of %d bytes is larger than the whole spool %s and is lost",
                length,
                self._folder,
            )
            return False

        if self._when_full == "block":
            self._changed.wait_for(lambda: self._closed or self.size + length <= self._limit)

        if self._closed:
            raise ValueError(f"the spool {self._folder} is closed")

        while self.size + length > self._limit:
            _log.error("the spool %s is full", self._folder)
            self._lose(self._segments[0])
        return True

    def _writable(self, length: int) -> Segment:
        """The file that takes the next line: the last segment, or a new one."""
        if self._segments:
            last = self._segments[-1]
            if (
                last.path
                and last.is_open
                and last.size + length <= min(SEGMENT_BYTES, self._limit // SEGMENTS_AT_LEAST)
            ):
                return last

            last.close()

        self._segments.append(Segment.create(self._folder, self._next_number()))
        return self._segments[-1]

    def _in_memory(self) -> Segment:
        if self._segments:
            self._remove_if_done(self._segments[-1])
        if not self._segments or self._segments[-1].path is not None:
            self._segments.append(Segment(self._next_number()))
        return self._segments[-1]

    def _next_number(self) -> int:
        """Never the same twice, even where the file of an earlier one could not be deleted."""
        self._number += 1
        return self._number

    # ---- out -------------------------------------------------------------------------------------

    def oldest(self, most: int, without: Container[str] = ()) -> list[tuple[Line, bytes]]:
        """Up to ``most`` lines that have waited longest, in order, with what they say.

        That is about 4 MB at most.

        Args:
            most: How many.
            without: Lines about these things are passed over.
        """
        found: list[tuple[Line, bytes]] = []
        size = 0
        with self._changed:
            everything = chain.from_iterable(segment.waiting for segment in self._segments)
            waiting = (line for line in everything if line.about not in without)
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
            # the folder may be another process's by now
            for line in lines if not self._closed else ():
                if line in line.segment.waiting:
                    line.segment.waiting.remove(line)
                    self._remove_if_done(line.segment)
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
        path = self.refused_path
        with self._changed:
            self.refused += 1
            try:
                _append_refused(path, content, reason, self._limit)
                _log.error("a report is refused and kept in %s: %s", path, reason)
            except OSError as fault:
                _log.error("a report is refused and lost (%s): %s", fault, reason)

    def wait_empty(self, seconds: float, over: Callable[[], bool] = lambda: False) -> bool:
        """Wait until everything is delivered, or it is over for another reason.

        The answer is false when time ran out.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not len(self) or over(), seconds)

    def tell(self) -> None:
        """Let those who wait look again."""
        with self._changed:
            self._changed.notify_all()

    def _lose(self, segment: Segment) -> None:
        self.dropped += len(segment.waiting)
        _log.error("%d reports are lost", len(segment.waiting))
        segment.waiting.clear()
        self._remove_if_done(segment)

    def _remove_if_done(self, segment: Segment) -> None:
        if not segment.waiting:
            self._segments.remove(segment)
            segment.remove()

    # ---- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the folder; what waits on disk waits there for the next spool."""
        with self._changed:
            if self._closed:
                return

            self._closed = True
            for segment in self._segments:
                segment.close()
                if segment.path is None:
                    _log.error(
                        "%d reports that the disk did not take end with this process",
                        len(segment.waiting),
                    )

            self._folder_lock.release()
            self._changed.notify_all()


def _append_refused(path: Path, content: bytes, reason: str, limit: int) -> None:
    """Append a line with the reason why it is refused; what is not a JSON object is quoted."""
    try:
        told = json.loads(content)
    except ValueError:
        told = None

    told = told if isinstance(told, dict) else {"broken": content.decode(errors="replace")}
    line = json.dumps({**told, "refused": reason}).encode() + b"\n"
    with path.open("ab") as file:
        if file.tell() + len(line) > limit:
            raise OSError(f"{path} is full")
        file.write(line)
        file.flush()
        os.fsync(file.fileno())

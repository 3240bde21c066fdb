"""A file on its way into a pool: read by a bounded process of its own, checked here by chunks."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, cast

import structlog

from promptgps_service.errors import Busy, Fault, Invalid, TooMuch, Unavailable
from promptgps_service.flow.prompt_columns import PromptChunk
from promptgps_service.pools.checks import BOUNDS, ROW_FIELDS, check_columns
from promptgps_service.pools.frames import BrokenFrame, chunk_of, receive
from promptgps_service.pools.lines import read_csv, read_json_lines
from promptgps_service.pools.mapping import ColumnMapping
from promptgps_service.pools.raw import RawChunk

_log = structlog.get_logger(__name__)

MEGABYTE = 10**6
SMALL = 256 * 2**10  # bytes of plain text that need no process of their own
MEMORY = 128 * MEGABYTE  # of a worker, besides what it has when it starts
MEMORY_PER_BYTE = 2  # of the file, on top
MOST_MEMORY = 1024 * MEGABYTE
SECONDS = 60  # of the processor, for a worker
SECONDS_PER_MEGABYTE = 2  # of the file, on top
UNPACKED = 32 * MEGABYTE  # bytes of rows that any file may unpack to,
UNPACKED_PER_BYTE = 300  # and so many times its own size on top: no honest file packs better
PASSED_ON = (
    "PATH",
    "PYTHONPATH",
    "PYTHONHOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "SYSTEMROOT",
    "TMPDIR",
)
WORKER_SETTINGS = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "131072",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
PLAIN = {"lines": read_json_lines, "csv": read_csv}
SMALLER = "write it in smaller row groups, batches or lines, or in several files"


class Cancelled(Exception):
    """Nobody waits for the file any more."""


@dataclass(frozen=True)
class Task:
    """What is to be read.

    Attributes:
        kind: `lines`, `csv`, `parquet` or `arrow`.
        mapping: which column is what.
        size: bytes of the file.
        most: bytes that it may unpack to, whatever its size.
    """

    kind: str
    mapping: ColumnMapping
    size: int
    most: int

    @property
    def memory(self) -> int:
        """Bytes that a worker may take for it."""
        return min(MEMORY + MEMORY_PER_BYTE * self.size, MOST_MEMORY)

    @property
    def seconds(self) -> int:
        """Processor time that a worker may take for it."""
        return SECONDS + SECONDS_PER_MEGABYTE * self.size // MEGABYTE

    def argument(self) -> str:
        """The task in the worker's words."""
        bounds = dataclasses.replace(
            BOUNDS, unpacked=min(UNPACKED + UNPACKED_PER_BYTE * self.size, self.most)
        )
        return json.dumps(
            {
                "kind": self.kind,
                "paths": dict(self.mapping.paths),
                "bounds": dataclasses.asdict(bounds),
                "memory": self.memory,
                "seconds": self.seconds,
            }
        )


class Upload:
    """One file while it is read: an iterator of checked chunks that another thread may cancel.

    Attributes:
        ignored: names of columns that were passed over, once all is read.
    """

    def __init__(self, file: BinaryIO, task: Task) -> None:
        self.ignored: list[str] = []
        self._file = file
        self._task = task
        self._cancelled = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Stop as soon as may be."""
        with self._lock:
            self._cancelled.set()
            if self._process is not None:
                self._process.kill()

    def __iter__(self) -> Iterator[PromptChunk]:
        """Chunks, checked.

        Raises:
            Invalid: names the field and the row.
            TooMuch: it takes more memory or time than there is for it.
            Cancelled: nobody waits for it any more.
        """
        for chunk in checked(self._raw()):
            if self.cancelled:
                raise Cancelled
            yield chunk

        if self.cancelled:
            raise Cancelled

    def _raw(self) -> Iterator[RawChunk]:
        if self._task.kind in PLAIN and self._task.size <= SMALL and not _packed(self._file):
            for item in PLAIN[self._task.kind](self._file, self._task.mapping, BOUNDS):
                if isinstance(item, RawChunk):
                    yield item
                else:
                    self.ignored = item
        else:
            yield from self._from_worker()

    def _from_worker(self) -> Iterator[RawChunk]:
        with tempfile.TemporaryFile() as errors:
            process = self._start(errors)
            assert process.stdout is not None

            try:
                ended = False
                while (frame := self._receive(process.stdout)) is not None:
                    if "rows" in frame:
                        yield chunk_of(frame)
                    elif "ignored" in frame:
                        self.ignored = [str(name) for name in frame["ignored"]]
                        ended = True
                    else:
                        raise self._refusal(frame)

                if not ended:
                    raise self._failure(process.wait(), errors)
            except BrokenFrame as error:
                raise self._failure(process.poll(), errors) from error
            finally:
                process.kill()
                process.wait()
                process.stdout.close()

    def _start(self, errors: IO[bytes]) -> subprocess.Popen[bytes]:
        try:
            self._file.flush()
            os.lseek(self._file.fileno(), 0, os.SEEK_SET)
        except OSError as error:
            raise Unavailable(
                "the service has no room for this file now; nothing was stored"
            ) from error

        environment = {
            name: os.environ[name] for name in PASSED_ON if name in os.environ
        } | WORKER_SETTINGS
        command = [
            sys.executable,
            "-P",
            "-m",
            "promptgps_service.pools.worker",
            self._task.argument(),
        ]

        with self._lock:
            if self.cancelled:
                raise Cancelled
            self._process = subprocess.Popen(
                command,
                stdin=self._file,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,  # a Ctrl-C at the service is not for it
            )

        return self._process

    def _receive(self, source: IO[bytes]) -> dict[str, Any] | None:
        frame = receive(source)  # type: ignore[arg-type]  # a pipe is read like a file
        if self.cancelled:
            raise Cancelled
        return frame

    def _refusal(self, frame: dict[str, Any]) -> Exception:
        if frame.get("memory"):
            return self._too_much(f"more than {self._task.memory / MEGABYTE:.0f} MB of memory")

        told = cast(list[tuple[str, str, int | None]], frame["faults"])
        faults = tuple(Fault(field, detail, row) for field, detail, row in told)
        kind = TooMuch if frame.get("too_much") else Invalid
        return kind(str(frame["refused"]), faults)

    def _too_much(self, what: str) -> TooMuch:
        detail = f"the file takes {what} when it is unpacked; {SMALLER}"
        return TooMuch(detail, (Fault("file", detail),))

    def _failure(self, code: int | None, errors: IO[bytes]) -> Exception:
        """What a worker died of; only for the log it is said in full."""
        if self.cancelled:
            return Cancelled()

        errors.seek(0, os.SEEK_END)
        errors.seek(max(errors.tell() - 2_000, 0))
        log = errors.read().decode(errors="replace")
        _log.warning("a file's reader failed", code=code, kind=self._task.kind, log=log)
        if (
            code is not None
            and sys.platform != "win32"
            and -code in (signal.SIGXCPU, signal.SIGKILL)
        ):
            return self._too_much(f"more than {self._task.seconds} s, or too much memory,")

        detail = (
            "the file cannot be read: it is broken, or takes too much memory when it is unpacked; "
            f"{SMALLER}"
        )
        return TooMuch(detail, (Fault("file", detail),))


def checked(chunks: Iterable[RawChunk]) -> Iterator[PromptChunk]:
    """Chunks as a pool takes them.

    Raises:
        Invalid: names the field and the row in the whole file.
    """
    first_row = 0
    for raw in chunks:
        chunk = PromptChunk(
            first_row,
            raw.key,
            raw.text,
            raw.vector,
            raw.domain,
            raw.prior_successes,
            raw.prior_trials,
        )

        check_columns(chunk, ROW_FIELDS)
        yield chunk
        first_row += raw.rows


def _packed(file: BinaryIO) -> bool:
    """Whether a file of text is compressed."""
    magic = file.read(4)
    file.seek(-len(magic), 1)
    return magic[:2] == b"\x1f\x8b" or magic == b"\x28\xb5\x2f\xfd"


class Readers:
    """How many files may be read at a time, and how many may wait for that.

    Args:
        at_work: files.
        waiting: files that wait, each with its request.
    """

    def __init__(self, at_work: int = 2, waiting: int = 8) -> None:
        self._free = threading.Semaphore(at_work)
        self._lock = threading.Lock()
        self._waiting = 0
        self._most_waiting = waiting

    @contextmanager
    def turn(self, upload: Upload) -> Iterator[None]:
        """Wait until the file may be read, and hold its place while it is.

        Raises:
            Busy: too many wait already.
            Cancelled: nobody waits for it any more.
        """
        if not self._free.acquire(blocking=False):
            self._wait(upload)

        try:
            yield
        finally:
            self._free.release()

    def _wait(self, upload: Upload) -> None:
        with self._lock:
            if self._waiting >= self._most_waiting:
                raise Busy("as many files are read as may be; nothing was stored", retry_after=5.0)
            self._waiting += 1

        try:
            while not self._free.acquire(timeout=0.1):
                if upload.cancelled:
                    raise Cancelled
        finally:
            with self._lock:
                self._waiting -= 1

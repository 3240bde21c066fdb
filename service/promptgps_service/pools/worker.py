"""The process that opens a file: its memory and processor time are bounded, and it may crash.

It is started by `pools.reading` with the file as its standard input and what to do as its argument,
and answers on its standard output in frames (`pools.frames`). It knows no secret, no database and
none of the service's settings.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, TypeAlias

from promptgps_service.errors import PromptGPSError, TooMuch
from promptgps_service.pools.frames import chunk_frame, send
from promptgps_service.pools.lines import read_csv, read_json_lines
from promptgps_service.pools.mapping import ColumnMapping
from promptgps_service.pools.raw import Bounds, RawChunk

Reader: TypeAlias = Callable[[BinaryIO, ColumnMapping, Bounds], Iterator[RawChunk | list[str]]]


def reader_of(kind: str) -> Reader:
    """What reads files of a kind; modules that are needed for it are loaded now."""
    if kind == "lines":
        return read_json_lines
    if kind == "csv":
        return read_csv
    from promptgps_service.pools import tables

    return {"parquet": tables.read_parquet, "arrow": tables.read_arrow}[kind]


def main(task: str) -> None:
    """Read standard input as the task says, and answer in frames."""
    given: Mapping[str, Any] = json.loads(task)
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # whatever prints does not print between frames
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    read = reader_of(given["kind"])
    mapping = ColumnMapping(given["paths"])
    bounds = Bounds(**given["bounds"])
    _bound_process(given["memory"], given["seconds"])

    try:
        with os.fdopen(sys.stdin.fileno(), "rb", closefd=False) as file:
            for item in read(file, mapping, bounds):
                send(out, chunk_frame(item) if isinstance(item, RawChunk) else {"ignored": item})
    except PromptGPSError as error:
        faults = [(fault.field, fault.detail, fault.row) for fault in error.faults]
        send(
            out, {"refused": error.detail, "faults": faults, "too_much": isinstance(error, TooMuch)}
        )
    except MemoryError:
        send(out, {"memory": True})


def _bound_process(memory: int, seconds: int) -> None:
    """Bound what this process takes from now on: bytes of memory, seconds of the processor."""
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (_data_in_use() + memory, resource.RLIM_INFINITY))


def _data_in_use() -> int:
    """Bytes that count for the limit of data already."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            words = next(line for line in status if line.startswith("VmData")).split()
    except (OSError, StopIteration):  # no Linux
        return 0

    return int(words[1]) * 1024


if __name__ == "__main__":
    main(sys.argv[1])

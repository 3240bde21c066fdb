"""Files of prompts as requests: by their ending, or, if it says too little, by how they begin."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

LINES = {"Content-Type": "application/jsonl"}
COLUMNS = {"Content-Type": "application/json"}
ARROW = {"Content-Type": "application/vnd.apache.arrow.file"}
CSV = {"Content-Type": "text/csv"}
HEADERS: Mapping[str, Mapping[str, str]] = {
    ".jsonl": LINES,
    ".jsonl.gz": LINES | {"Content-Encoding": "gzip"},
    ".ndjson": LINES,
    ".json": COLUMNS,
    ".parquet": {"Content-Type": "application/vnd.apache.parquet"},
    ".arrow": ARROW,
    ".feather": ARROW,
    ".csv": CSV,
    ".csv.gz": CSV | {"Content-Encoding": "gzip"},
}
MARK = b"\xef\xbb\xbf"  # of UTF-8, which some programs put first
COLUMN_NAMES = {"keys", "texts", "vectors"}


class UnknownFile(ValueError):
    """A file that cannot be sent; the message says why."""


def body_of(path: str | Path) -> tuple[bytes | Path, Mapping[str, str]]:
    """What to send of a file, and with which headers.

    It is the file itself wherever that can be sent as it is.

    Raises:
        OSError: The file cannot be read.
        UnknownFile: Another ending, or JSON of another form.
    """
    ending = next((ending for ending in HEADERS if str(path).lower().endswith(ending)), None)
    if ending is None:
        raise UnknownFile(f"{str(path)!r} must end with one of {', '.join(HEADERS)}")
    if ending != ".json":
        return Path(path), HEADERS[ending]

    return _json(Path(path))


def _json(path: Path) -> tuple[bytes | Path, Mapping[str, str]]:
    """A `.json` file: the API's own columns, or records.

    Records are a list, columns by row (pandas), or one a line (datasets).
    """
    with path.open("rb") as file:
        first = file.readline()
        more = any(line.strip() for line in file)

    if more and _is_object(first):
        return path, LINES

    try:
        content = json.loads(path.read_bytes().removeprefix(MARK))
    except ValueError as fault:
        raise UnknownFile(f"{path} is no JSON: {fault}") from fault

    if isinstance(content, dict) and COLUMN_NAMES & content.keys():
        return path, COLUMNS

    return b"".join(
        json.dumps(record).encode() + b"\n" for record in _records(path, content)
    ), LINES


def _records(path: Path, content: Any) -> Iterator[Any]:
    if isinstance(content, list):
        yield from content
    elif (
        isinstance(content, dict)
        and content
        and all(isinstance(column, dict) for column in content.values())
    ):
        columns: dict[str, dict[str, Any]] = content
        for row in next(iter(columns.values())):
            yield {name: column.get(row) for name, column in columns.items()}
    elif isinstance(content, dict):
        yield content
    else:
        raise UnknownFile(f"{path} holds no records, but {type(content).__name__}")


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line.removeprefix(MARK)), dict)
    except ValueError:
        return False

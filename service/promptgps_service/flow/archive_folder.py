"""A folder of JSON Lines and safetensors: what an exported run looks like on disk.

```
archive.json                what is inside, with the number of lines of every file; written last
pools/0/prompts.jsonl       keys, texts, domains, offline pass rates, in the order of the pool
pools/0/123.safetensors     vectors of the prompts from position 123 on
runs/0/outcomes.jsonl       the log; and a file for each other table of the run
runs/0/7.safetensors        model version 7
```

What is read is taken for what a stranger has sent: types of every value, lengths of lines and
files, and no path that leaves the folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from promptgps_service.errors import Conflict, Invalid
from promptgps_service.flow.archive_rows import ROWS, Manifest
from promptgps_service.store.archive import Row
from promptgps_service.store.tables import DRAWS, VECTORS

FORMAT = 1
MANIFEST = "archive.json"
MAX_MANIFEST = 64 * 2**20  # bytes
# Bytes: a subset of two million rows, or the longest text with every character escaped.
MAX_LINE = 32 * 2**20
MAX_ARRAYS = 2**30  # bytes of one safetensors file
HEADER = 2**20  # bytes that its header may take, besides the arrays


class Folder:
    """One archive, to be written or to be read.

    Raises:
        Conflict: it is to be written, and something is there.
        Invalid: it is to be read, and is no archive, or damaged; names the file and the line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    # ---- writing ---------------------------------------------------------------------------------

    def begin(self) -> None:
        """Make it."""
        if self._path.exists() and (not self._path.is_dir() or any(self._path.iterdir())):
            raise Conflict(f"{self._path} is there and not empty")
        self._path.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, rows: Iterator[Row]) -> int:
        """Write rows to `{name}.jsonl`, and their arrays beside it; answers how many."""
        file = self._path / f"{name}.jsonl"
        lines = 0
        file.parent.mkdir(parents=True, exist_ok=True)

        with file.open("w", encoding="utf-8") as out:
            for row in rows:
                json.dump(self._plain(file, dict(row)), out, ensure_ascii=False, allow_nan=False)
                out.write("\n")
                lines += 1

        return lines

    def finish(self, manifest: dict[str, Any]) -> None:
        """Say what is inside; without this it is no archive."""
        text = json.dumps({"format": FORMAT, **manifest}, indent=1, ensure_ascii=False)
        (self._path / MANIFEST).write_text(text, encoding="utf-8")

    def _plain(self, file: Path, row: dict[str, Any]) -> dict[str, Any]:
        for name in DRAWS.keys() & row.keys():
            row[name] = np.frombuffer(row[name], DRAWS[name]).tolist()

        if "digest" in row:
            row["digest"] = bytes(row["digest"]).hex()
        if "state" in row:
            (file.parent / f"{row['version']}.safetensors").write_bytes(row.pop("state"))

        if VECTORS.keys() <= row.keys():
            arrays = {name: _array(row.pop(name), name, row["size"]) for name in VECTORS}
            (file.parent / f"{row['start']}.safetensors").write_bytes(save_arrays(arrays))

        return row

    # ---- reading ---------------------------------------------------------------------------------

    def manifest(self) -> Manifest:
        """What is inside."""
        file = self._path / MANIFEST
        if not file.is_file():
            raise Invalid(
                f"{self._path} has no {MANIFEST}: it is no archive, or its export was not finished"
            )

        body = self._bytes(file, MAX_MANIFEST)
        try:
            found = Manifest.model_validate_json(body)
        except ValidationError as error:
            raise Invalid(f"{file}: {_first(error)}") from error

        if found.format != FORMAT:
            raise Invalid(f"{file} is of format {found.format}, this reads {FORMAT}")

        return found

    def read(
        self, name: str, lines: int, check: Callable[[dict[str, Any]], None]
    ) -> Iterator[dict[str, Any]]:
        """Rows of `{name}.jsonl`, each checked; every refusal names file and line.

        Args:
            name: of the file, which ends with that of the table.
            lines: how many were written.
            check: raises a ValueError where a row cannot be, whose types are right.
        """
        file = self._path / f"{name}.jsonl"
        number = 0
        self._require(file)
        adapter = ROWS[file.stem]

        with file.open("rb") as opened:
            while line := opened.readline(MAX_LINE + 1):
                number += 1
                place = f"{file} line {number}"
                if len(line) > MAX_LINE:
                    raise Invalid(f"{place} is over {MAX_LINE / 2**20:g} MB")
                if number > lines:
                    raise Invalid(f"{file} has over {lines} lines, {lines} were written")

                try:
                    row: dict[str, Any] = adapter.validate_json(line)
                    check(row)
                except ValidationError as error:
                    raise Invalid(f"{place}: {_first(error)}") from error
                except ValueError as error:
                    raise Invalid(f"{place}: {error}") from error

                yield row

        if number != lines:
            raise Invalid(f"{file} has {number} lines, {lines} were written")

    def arrays(self, name: str, most: int) -> dict[str, NDArray[Any]]:
        """Arrays of `{name}.safetensors`.

        Args:
            name: of the file.
            most: bytes that they may take.

        Raises:
            ValueError: it cannot be read.
        """
        try:
            return load_arrays(self.body(name, most))
        except SafetensorError as error:
            raise ValueError(f"{name}.safetensors cannot be read: {error}") from error

    def body(self, name: str, most: int = MAX_ARRAYS) -> bytes:
        """`{name}.safetensors` as it is.

        Raises:
            ValueError: it is missing or larger than ``most`` bytes.
        """
        try:
            file = self._path / f"{name}.safetensors"
            self._require(file)
            return self._bytes(file, min(most + HEADER, MAX_ARRAYS))
        except Invalid as error:
            raise ValueError(error.detail) from error

    def _require(self, file: Path) -> None:
        """Check that a file is there, and in here."""
        if not file.is_file():
            raise Invalid(f"{file} is missing")
        if not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(self._path)):
            raise Invalid(f"{file} leads out of the archive")

    def _bytes(self, file: Path, most: int) -> bytes:
        self._require(file)
        with file.open("rb") as opened:
            body = opened.read(most + 1)
        if len(body) > most:
            raise Invalid(f"{file} is over {most} bytes, more than it can have")
        return body


def packed(row: dict[str, Any]) -> dict[str, Any]:
    """A row as the database has it: lists as arrays, the digest as bytes."""
    made = dict(row)
    for name in DRAWS.keys() & row.keys():
        made[name] = np.array(row[name], DRAWS[name]).tobytes()
    if "digest" in row:
        made["digest"] = bytes.fromhex(row["digest"])
    return made


def _array(buffer: bytes, name: str, rows: int) -> NDArray[Any]:
    array = np.frombuffer(buffer, VECTORS[name])
    return array if name == "identity" else array.reshape(rows, -1)


def _first(error: ValidationError) -> str:
    """The first fault of a line, and where in it."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]

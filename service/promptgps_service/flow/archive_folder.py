"""A folder of JSON Lines and safetensors: what an exported run looks like on disk.

```
archive.json                what is inside, with the number of lines of every file; written last
pools/0/prompts.jsonl       keys, texts, domains, offline pass rates, in the order of the pool
pools/0/123.safetensors     vectors of the prompts from position 123 on
runs/0/outcomes.jsonl       the log; and a file for each other table of the run
runs/0/7.safetensors        model version 7
```
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from promptgps_service.errors import Conflict, Invalid
from promptgps_service.store.archive import Row
from promptgps_service.store.tables import DRAWS, VECTORS

P = ParamSpec("P")

FORMAT = 1
MANIFEST = "archive.json"


class Folder:
    """One archive, to be written or to be read.

    Raises:
        Conflict: it is to be written, and something is there.
        Invalid: it is to be read, and is no archive, or damaged; names the file and the line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    # ---- writing -------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Make it."""
        if self._path.exists() and (not self._path.is_dir() or any(self._path.iterdir())):
            raise Conflict(f"{self._path} is there and not empty")
        self._path.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, rows: Iterator[Row]) -> int:
        """Write rows to `{name}.jsonl`, and their arrays beside it; answers how many."""
        file, lines = self._path / f"{name}.jsonl", 0
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

    # ---- reading -------------------------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any]:
        """What is inside."""
        file = self._path / MANIFEST
        if not file.is_file():
            raise Invalid(f"{self._path} has no {MANIFEST}: it is no archive, or its export was not finished")
        found = _checked(file.name, lambda: json.loads(file.read_text(encoding="utf-8")))
        if found.get("format") != FORMAT:
            raise Invalid(f"{file} is of format {found.get('format')}, this reads {FORMAT}")
        return found

    def read(self, name: str, columns: set[str], lines: int) -> Iterator[Row]:
        """Rows of `{name}.jsonl` with these columns."""
        file, number = self._path / f"{name}.jsonl", 0
        if not file.is_file():
            raise Invalid(f"{file} is missing")
        with file.open(encoding="utf-8") as opened:
            for number, line in enumerate(opened, start=1):
                place = f"{file} line {number}"
                row = _checked(place, self._packed, file, line)
                if row.keys() != columns:
                    raise Invalid(f"{place}: {', '.join(sorted(row.keys() ^ columns))} missing or unknown")
                yield row
        if number != lines:
            raise Invalid(f"{file} has {number} lines, {lines} were written")

    def _packed(self, file: Path, line: str) -> dict[str, Any]:
        row: dict[str, Any] = json.loads(line)
        for name in DRAWS.keys() & row.keys():
            row[name] = np.array(row[name], DRAWS[name]).tobytes()
        if "digest" in row:
            row["digest"] = bytes.fromhex(row["digest"])
        if file.stem == "model_versions":
            row["state"] = (file.parent / f"{row['version']}.safetensors").read_bytes()
        if file.stem == "pool_chunks":
            arrays = load_arrays((file.parent / f"{row['start']}.safetensors").read_bytes())
            row |= {name: arrays[name].astype(kind).tobytes() for name, kind in VECTORS.items()}
        return row


def _array(packed: bytes, name: str, rows: int) -> NDArray[Any]:
    array = np.frombuffer(packed, VECTORS[name])
    return array if name == "identity" else array.reshape(rows, -1)


def _checked(place: str, read: Callable[P, dict[str, Any]], *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
    try:
        return read(*args, **kwargs)
    except (ValueError, KeyError, TypeError, AttributeError, OSError, SafetensorError) as error:
        raise Invalid(f"{place} cannot be read: {error!r}") from error

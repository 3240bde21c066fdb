"""JSON Lines and CSV, read a bounded piece at a time."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO, cast

from pydantic_core import from_json

from promptgps_service.errors import Invalid
from promptgps_service.pools.mapping import (
    FIELDS,
    MOST_NAME,
    MOST_NAMED,
    ColumnMapping,
    absent,
    called,
    find,
    head_of,
    names_of,
    nothing_to_embed,
)
from promptgps_service.pools.raw import CHUNK_ROWS, Assembly, Bounds, RawChunk
from promptgps_service.pools.values import READ, Unfit, number_in
from promptgps_service.reading.shown import shown

# Bytes of one line: the longest text with every character escaped, and its vector.
MAX_LINE = 16 * 2**20
MAX_BLANK = 1_000_000  # lines that are blank, of a file: passing them over takes time too
PART = 4 * 2**20  # bytes of lines that are made into columns at a time

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_MARK = b"\xef\xbb\xbf"
_CSV_READ = {**READ, "prior_successes": number_in, "prior_trials": number_in}


class Records:
    """Records of any format on their way to columns.

    Args:
        mapping: which field is where.
        bounds: what the file may bring.
        read: what a value means, by field.
    """

    def __init__(
        self,
        mapping: ColumnMapping,
        bounds: Bounds,
        read: Mapping[str, Callable[[Any], Any]] = READ,
    ) -> None:
        self._mapping = mapping
        self._read = read
        self._assembly = Assembly(bounds)
        self._seen: dict[str, None] = {}
        self._names: list[str] = []
        self._found: set[str] = set()

    def chunks(self, records: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[RawChunk]:
        """Chunks of records, each with the bytes that it had.

        Raises:
            Invalid: names the field and the row.
        """
        part: list[dict[str, Any]] = []
        size = 0
        for length, record in records:
            part.append(record)
            size += length
            if len(part) == CHUNK_ROWS or size > PART:
                yield from self._columns(part)
                part = []
                size = 0

        if part:
            yield from self._columns(part)
        if self._names:
            self._check_asked()

    @property
    def ignored(self) -> list[str]:
        """Names in the records that nobody asked for."""
        paths = (self._mapping.path(name) for name in FIELDS)
        used = {head_of(self._seen, path) for path in paths if path is not None}
        return [name[:MOST_NAME] for name in self._seen if name not in used][:MOST_NAMED]

    def _columns(self, records: list[dict[str, Any]]) -> Iterator[RawChunk]:
        for record in records:
            if len(self._seen) < MOST_NAMED + len(FIELDS):
                self._seen.update(dict.fromkeys(record))

        self._names = self._names or names_of(records[0])
        if not self._assembly.rows:
            self._check_first(records)
        values = {name: self._values(name, records) for name in FIELDS}
        yield from self._assembly.chunks(values, len(records), self._names)

    def _values(self, name: str, records: list[dict[str, Any]]) -> list[Any] | None:
        path = self._mapping.path(name)
        if path is None:
            return None

        read = self._read[name]
        values = []
        for row, record in enumerate(records):
            there, value = find(record, path)
            if there:
                self._found.add(name)
            try:
                values.append(read(value))
            except Unfit as unfit:
                detail = f"{called(name, self._mapping)}{unfit}, not {shown(value)}"
                raise Invalid.at(name, detail, self._assembly.rows + row) from None

        return values

    def _check_first(self, records: list[dict[str, Any]]) -> None:
        """Refuse at once what the first rows show: what is to be in every row, and is in none."""
        for name in ("key", "text", "vector"):
            path = self._mapping.path(name)
            if (
                path
                and self._mapping.asked(name)
                and not any(find(record, path)[0] for record in records)
            ):
                raise absent(name, path, self._names)

    def _check_asked(self) -> None:
        for name in FIELDS:
            path = self._mapping.path(name)
            if path and self._mapping.asked(name) and name not in self._found:
                raise absent(name, path, self._names)


def read_json_lines(
    file: BinaryIO, mapping: ColumnMapping, bounds: Bounds
) -> Iterator[RawChunk | list[str]]:
    """Read JSON Lines, one object a line, plain, gzip or zstd (told by its first bytes).

    A byte order mark, carriage returns and blank lines are passed over.

    Args:
        file: a seekable binary file, read from where it stands and left open.
        mapping: which field is where.
        bounds: what the file may bring.

    Yields:
        Chunks, and at the end the names that were passed over.

    Raises:
        Invalid: names the field and the row; a line that is no JSON object, or a broken
            compression, names ``file``.
    """
    records = Records(mapping, bounds)
    yield from records.chunks(
        (len(line), _record(line, row)) for row, line in _lines(unpacked(file))
    )
    yield records.ignored


def read_csv(
    file: BinaryIO, mapping: ColumnMapping, bounds: Bounds
) -> Iterator[RawChunk | list[str]]:
    """Read CSV with a line of names, plain, gzip or zstd.

    An empty cell is missing, a vector is a JSON list.

    Arguments, yields and errors are those of :func:`read_json_lines`.
    """
    csv.field_size_limit(MAX_LINE)
    text = io.TextIOWrapper(cast(Any, _Bounded(unpacked(file))), encoding="utf-8-sig", newline="")
    records = Records(mapping, bounds, _CSV_READ)
    try:
        yield from records.chunks(_cells(csv.reader(text, strict=True), mapping))
    finally:
        text.detach()

    yield records.ignored


def _cells(reader: Any, mapping: ColumnMapping) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a CSV reader as records, with their sizes."""
    row = -1
    names = None

    try:
        for cells in reader:
            if not cells:
                continue
            if names is None:
                names = cells
                row = 0
                wanted = (mapping.path(name) for name in ("text", "vector"))
                if not any(head_of(names, path) for path in wanted if path):
                    raise nothing_to_embed(names, 0)
                continue

            if len(cells) != len(names):
                raise Invalid.at(
                    "file", f"has {len(cells)} cells, but there are {len(names)} columns", row
                )

            yield (
                sum(map(len, cells)),
                {name: cell or None for name, cell in zip(names, cells, strict=True)},
            )
            row += 1
    except (csv.Error, UnicodeDecodeError) as error:
        raise Invalid.at("file", f"is no CSV in UTF-8: {error}", max(row, 0)) from error
    except BROKEN as error:
        raise Invalid.at("file", f"is broken: {error}", max(row, 0)) from error


class _Bounded(io.RawIOBase):
    """A file whose reads are short, for a text wrapper that would ask for more."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file

    def readable(self) -> bool:
        """Say yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read at most the buffer."""
        part = self._file.read(len(buffer))
        buffer[: len(part)] = part
        return len(part)


def unpacked(file: BinaryIO) -> BinaryIO:
    """The file as it is, or what it is the gzip or zstd of."""
    magic = file.read(4)
    file.seek(-len(magic), 1)
    if magic.startswith(_GZIP):
        return cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb"))
    if magic == _ZSTD:
        # only where it is needed: small files are read in the service itself
        import pyarrow as pa

        return cast(BinaryIO, io.BufferedReader(_Bounded(pa.CompressedInputStream(file, "zstd"))))
    return file


BROKEN = (EOFError, gzip.BadGzipFile, zlib.error, OSError)


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their rows."""
    row = 0
    blank = 0
    first = True
    while True:
        try:
            line = file.readline(MAX_LINE + 1)
        except BROKEN as error:
            raise Invalid.at("file", f"is broken: {error}", row) from error

        if not line:
            return
        if first:
            line = line.removeprefix(_MARK)
            first = False

        if len(line) > MAX_LINE:
            raise Invalid.at("file", f"line is over {MAX_LINE} bytes", row)
        if line and not line.isspace():
            yield row, line
            row += 1
        else:
            blank += 1
            if blank > MAX_BLANK:
                raise Invalid.at("file", f"has over {MAX_BLANK} blank lines", row)


def _record(line: bytes, row: int) -> dict[str, Any]:
    """The object of a line."""
    try:
        record = from_json(line, allow_inf_nan=True, cache_strings="keys")
    except ValueError as error:
        raise Invalid.at("file", f"line is no JSON: {error}", row) from error

    if type(record) is not dict:
        raise Invalid.at("file", f"line must be a JSON object, not {shown(record)}", row)
    return record

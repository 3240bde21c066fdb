"""Pools from files: JSON Lines (plain or gzip) and Parquet, read in chunks of columns and checked strictly.

A row has the fields ``key``, ``text``, ``vector``, ``domain``, ``prior_successes`` and ``prior_trials``; null
is the same as absent. Which of key, text and vector there are is settled by the first row and holds for the
whole file. Work goes by column, not by row, and memory is bounded by the chunk, so that files of millions of
rows pass at the speed of the parser. Whatever is wrong with a file is :class:`Invalid`, with the field and
the 0-based row in the whole file.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic_core import from_json

from promptgps_service.embedding import MAX_DIMENSION
from promptgps_service.errors import Invalid
from promptgps_service.flow.prompt_columns import PromptChunk

MAX_KEY = 512  # characters
MAX_DOMAIN = 128  # characters
MAX_TEXT = 1_000_000  # characters
MAX_PRIOR = 1e12
MAX_VALUE = float(np.finfo(np.float32).max)  # of a number in a vector
MAX_LINE = 16 * 2**20  # bytes of one JSON line: the longest text with every character escaped, and its vector
MAX_CHUNK = 32 * 2**20  # bytes of lines in one chunk

PRIORS = ("prior_successes", "prior_trials")
ROW_FIELDS = {"keys": "key", "texts": "text", "vectors": "vector", "domains": "domain"} | {
    p: p for p in PRIORS
}
COLUMN_FIELDS = {column: column for column in ROW_FIELDS}

_KNOWN = frozenset(ROW_FIELDS.values())
_KNOWN_LIST = ", ".join(ROW_FIELDS.values())
_GZIP_MAGIC = b"\x1f\x8b"
_BROKEN_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)
_BROKEN_PARQUET = (pa.ArrowException, OSError, UnicodeDecodeError)  # pages: OSError, column names: Unicode


def check_columns(chunk: PromptChunk, names: Mapping[str, str] = COLUMN_FIELDS) -> None:
    """Check a chunk of any format.

    Args:
        chunk: the columns; types inside the lists are checked, not trusted.
        names: what the caller calls each column, for the error.

    Raises:
        Invalid: names the field and the first row where it is wrong.
    """
    columns = chunk.columns
    if chunk.texts is None and chunk.vectors is None:
        raise Invalid.at(names["texts"], "a prompt needs a text or a vector", chunk.first_row)
    for name, column in columns.items():
        if len(column) != chunk.rows:
            first = names[next(iter(columns))]
            raise Invalid.at(names[name], f"{len(column)} rows here, but {chunk.rows} in {first}")
    _check_strings(chunk.keys, names["keys"], MAX_KEY, chunk.first_row)
    _check_strings(chunk.texts, names["texts"], MAX_TEXT, chunk.first_row)
    _check_strings(chunk.domains, names["domains"], MAX_DOMAIN, chunk.first_row, optional=True)
    if chunk.vectors is not None:
        _check_vectors(chunk.vectors, names["vectors"], chunk.first_row)
    _check_priors(chunk, names)


def _first(rows: Sequence[Any] | np.ndarray, wrong: Callable[[Any], Any]) -> int:
    """First row for which ``wrong`` is true."""
    return next(row for row, value in enumerate(rows) if wrong(value))


def _check_strings(
    column: Sequence[str | None] | None, field: str, limit: int, first_row: int, *, optional: bool = False
) -> None:
    """Strings, neither empty nor too long, without NUL (not PostgreSQL) and lone surrogates (not UTF-8)."""
    if not column:
        return
    allowed = {str, type(None)} if optional else {str}
    if not set(map(type, column)) <= allowed:
        row = _first(column, lambda value: type(value) not in allowed)
        raise Invalid.at(field, f"must be a string, not {_kind(column[row])}", first_row + row)
    faults: tuple[tuple[Callable[[str], bool], str], ...] = (
        (lambda value: not value, "must not be empty"),
        (lambda value: len(value) > limit, f"must not be over {limit} characters"),
        (lambda value: "\0" in value, "must not hold a NUL character"),
        (_has_surrogate, "must not hold a lone surrogate"),
    )
    for wrong, detail in faults:
        faulty = [value is not None and wrong(value) for value in column]
        if any(faulty):
            raise Invalid.at(field, detail, first_row + faulty.index(True))


def _has_surrogate(value: str) -> bool:
    """Whether a string has no UTF-8 form."""
    if value.isascii():
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return True
    return False


def _check_vectors(vectors: np.ndarray, field: str, first_row: int) -> None:
    """Real numbers of one dimension within the limit, all finite."""
    if vectors.dtype.kind not in "fiu" or vectors.ndim != 2:
        raise Invalid.at(field, "must be lists of numbers, all of one length", first_row)
    if not 1 <= vectors.shape[1] <= MAX_DIMENSION:
        raise Invalid.at(field, f"must have from 1 to {MAX_DIMENSION} numbers", first_row)
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise Invalid.at(
            field, "must not hold NaN or an infinity (as float32)", first_row + int(finite.argmin())
        )


def _check_priors(chunk: PromptChunk, names: Mapping[str, str]) -> None:
    """Numbers from 0, both or neither in a row, successes not over trials."""
    for name in PRIORS:
        _check_numbers(getattr(chunk, name), names[name], chunk.first_row)
    nothing: list[float | None] = [None] * chunk.rows
    successes, trials = chunk.prior_successes or nothing, chunk.prior_trials or nothing
    for row, (won, tried) in enumerate(zip(successes, trials, strict=True), chunk.first_row):
        if won is None or tried is None:
            if won is not tried:
                here, there = PRIORS if tried is None else PRIORS[::-1]
                raise Invalid.at(names[there], f"must be given where {names[here]} is", row)
        elif won > tried:
            detail = f"must not be over {names['prior_trials']} ({won:g} of {tried:g})"
            raise Invalid.at(names["prior_successes"], detail, row)


def _check_numbers(column: Sequence[float | None] | None, field: str, first_row: int) -> None:
    """Numbers from 0 to ``MAX_PRIOR``, or None; a bool is no number."""
    if not column:
        return
    allowed = {int, float, type(None)}
    if not set(map(type, column)) <= allowed:
        row = _first(column, lambda value: type(value) not in allowed)
        raise Invalid.at(field, f"must be a number, not {_kind(column[row])}", first_row + row)
    for row, value in enumerate(column, first_row):
        if value is not None and not 0 <= value <= MAX_PRIOR:  # NaN and integers of any size fail here too
            raise Invalid.at(field, f"must be from 0 to {MAX_PRIOR:g}", row)


def _kind(value: object) -> str:
    """JSON's word for a value's type."""
    words = {"NoneType": "null", "bool": "boolean", "int": "number", "float": "number", "str": "string"}
    return words.get(type(value).__name__, type(value).__name__)


class _Assembler:
    """Makes checked chunks of raw columns, and holds what the first row settled for the whole file."""

    def __init__(self) -> None:
        self.rows = 0
        self._settled: dict[str, bool] = {}
        self._dimension: int | None = None

    def chunk(self, raw: Mapping[str, list[Any]], vectors: np.ndarray | None = None) -> PromptChunk:
        """The next chunk, of raw values by column name; ``vectors`` are given here or raw as lists."""
        columns = {name: self._column(name, values) for name, values in raw.items()}
        lists = columns.pop("vectors", None)
        if lists is not None:
            vectors = vectors_from_lists(lists, field="vector", first_row=self.rows)
        if vectors is not None:
            self._dimension = self._dimension or vectors.shape[1]
            if vectors.shape[1] != self._dimension:
                detail = f"has {vectors.shape[1]} numbers, but row 0 has {self._dimension}"
                raise Invalid.at("vector", detail, self.rows)
        chunk = PromptChunk(self.rows, vectors=vectors, **cast(Any, columns))
        check_columns(chunk, ROW_FIELDS)
        self.rows += chunk.rows
        return chunk

    def _column(self, name: str, values: list[Any]) -> list[Any] | None:
        """One column, None if it has no value; key, text and vector are in every row or in none."""
        if name in ("keys", "texts", "vectors"):
            self.uniform(name, [value is not None for value in values])
        return None if values.count(None) == len(values) else values

    def uniform(self, name: str, there: list[bool]) -> None:
        """Refuse the first row that has the column while the file's first row has not, or the reverse."""
        settled = self._settled.setdefault(name, there[0])
        if not all(here is settled for here in there):
            detail = "is missing here, but row 0 has it" if settled else "is here, but row 0 has none"
            raise Invalid.at(ROW_FIELDS[name], detail, self.rows + there.index(not settled))


def vectors_from_lists(lists: Sequence[Any], *, field: str = "vectors", first_row: int = 0) -> np.ndarray:
    """Vectors float32[M, D] of M lists of D numbers; a number beyond float32 becomes an infinity.

    Raises:
        Invalid: a row that is no list, is empty, has another length than the first, or holds no numbers.
    """
    for row, values in enumerate(lists, first_row):
        if type(values) is not list or not values:
            raise Invalid.at(field, "must be a list of numbers, not empty", row)
        if len(values) != len(lists[0]):
            raise Invalid.at(field, f"has {len(values)} numbers, but the first {len(lists[0])}", row)
        if not set(map(type, values)) <= {int, float}:
            raise Invalid.at(field, "must hold numbers only", row)
    try:
        return _float32(np.array(lists, dtype=np.float64))
    except OverflowError:  # an integer beyond float64
        row = _first(lists, lambda values: any(abs(value) > MAX_VALUE for value in values))
        raise Invalid.at(field, "must not hold a number beyond float32", first_row + row) from None


def _float32(wide: np.ndarray) -> np.ndarray:
    """The same numbers as float32; what does not fit becomes an infinity, which the checks refuse."""
    with np.errstate(over="ignore"):
        return wide.astype(np.float32)


def read_json_lines(file: BinaryIO, chunk_rows: int = 4096) -> Iterator[PromptChunk]:
    """Read JSON Lines, one object a line, plain or gzip (told by its first bytes).

    Args:
        file: a seekable binary file, read from where it stands and left open.
        chunk_rows: rows of a chunk; long lines make it end sooner, at ``MAX_CHUNK`` bytes.

    Raises:
        Invalid: names the field and the row; a line that is no JSON object, or a broken gzip, names ``file``.
    """
    magic = file.read(len(_GZIP_MAGIC))
    file.seek(-len(magic), 1)
    lines = _lines(cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb")) if magic == _GZIP_MAGIC else file)
    assembler = _Assembler()
    records: list[dict[str, Any]] = []
    size = 0
    for row, line in lines:
        records.append(_record(line, row))
        size += len(line)
        if len(records) == chunk_rows or size > MAX_CHUNK:
            yield assembler.chunk(_transpose(records))
            records, size = [], 0
    if records:
        yield assembler.chunk(_transpose(records))


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Lines with their rows; blank lines may only end the file."""
    row, blank = 0, False
    while True:
        try:
            line = file.readline(MAX_LINE + 1)
        except _BROKEN_GZIP as error:
            raise Invalid.at("file", f"broken gzip: {error}", row) from error
        if not line:
            return
        if len(line) > MAX_LINE:
            raise Invalid.at("file", f"line is over {MAX_LINE} bytes", row)
        if not line.isspace():
            if blank:
                raise Invalid.at("file", "line is blank", row)
            yield row, line
            row += 1
        else:
            blank = True


def _record(line: bytes, row: int) -> dict[str, Any]:
    """The object of a line, with known fields only."""
    try:
        record = from_json(line, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise Invalid.at("file", f"line is no JSON: {error}", row) from error
    if type(record) is not dict:
        raise Invalid.at("file", f"line must be a JSON object, not {_kind(record)}", row)
    for field in record.keys() - _KNOWN:
        raise Invalid.at(field[:MAX_KEY], f"unknown field; known are {_KNOWN_LIST}", row)
    return record


def _transpose(records: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Columns of records."""
    return {name: [record.get(field) for record in records] for name, field in ROW_FIELDS.items()}


def read_parquet(file: BinaryIO, chunk_rows: int = 4096) -> Iterator[PromptChunk]:
    """Read Parquet with the columns' names as the fields of a JSON line; row groups are streamed.

    Args:
        file: a seekable binary file, left open; strings as string columns, vectors as lists of numbers.
        chunk_rows: most rows of a chunk.

    Raises:
        Invalid: names the field and the row; what is not Parquet, or broken, names ``file``.
    """
    assembler = _Assembler()
    try:
        parquet = pq.ParquetFile(file)
        _check_schema(parquet.schema_arrow)
        for batch in parquet.iter_batches(batch_size=chunk_rows):
            if batch.num_rows:
                yield _batch_chunk(batch, assembler)
    except _BROKEN_PARQUET as error:
        raise Invalid.at("file", f"not Parquet, or broken: {error}", assembler.rows) from error


def _check_schema(schema: pa.Schema) -> None:
    """Known columns, each once, of a fitting type."""
    for field in schema:
        if field.name not in _KNOWN:
            raise Invalid.at(field.name[:MAX_KEY], f"unknown column; known are {_KNOWN_LIST}")
        if schema.names.count(field.name) > 1:
            raise Invalid.at(field.name, "column is there twice")
        if not _fits(field.name, field.type):
            raise Invalid.at(field.name, f"column must not be of type {field.type}")


def _fits(field: str, kind: pa.DataType) -> bool:
    """Whether a column's type can hold the field."""
    if pa.types.is_null(kind):
        return True
    if field == "vector":
        lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        return any(test(kind) for test in lists) and _is_number(kind.value_type)
    if field.startswith("prior_"):
        return _is_number(kind)
    text = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(text) or pa.types.is_large_string(text))


def _is_number(kind: pa.DataType) -> bool:
    """Whether a type is of integers or floats."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _batch_chunk(batch: pa.RecordBatch, assembler: _Assembler) -> PromptChunk:
    """The chunk of a record batch."""
    raw: dict[str, list[Any]] = {name: [None] * batch.num_rows for name in ROW_FIELDS if name != "vectors"}
    vectors = None
    for name, field in ROW_FIELDS.items():
        if field in batch.schema.names:
            column = batch.column(field)
            if name == "vectors":
                vectors = _arrow_vectors(column, assembler)
            else:
                raw[name] = _python_values(column, field, assembler.rows)
    return assembler.chunk(raw, vectors)


def _python_values(column: pa.Array, field: str, first_row: int) -> list[Any]:
    """Values of a column of strings or numbers, one by one so that broken UTF-8 has its row."""
    values: list[Any] = []
    try:
        values.extend(value.as_py() for value in column)
    except UnicodeDecodeError:
        raise Invalid.at(field, "is not UTF-8", first_row + len(values)) from None
    return values


def _arrow_vectors(column: pa.Array, assembler: _Assembler) -> np.ndarray | None:
    """Vectors float32[M, D] of a list column, None if it is all null; never as Python numbers."""
    assembler.uniform("vectors", column.is_valid().to_pylist())
    if column.null_count == len(column):
        return None
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    if (lengths != lengths[0]).any():
        row = int((lengths != lengths[0]).argmax())
        detail = f"has {lengths[row]} numbers, but row {assembler.rows} has {lengths[0]}"
        raise Invalid.at("vector", detail, assembler.rows + row)
    values = column.flatten()
    if values.null_count:
        row = int(values.is_null().to_numpy(zero_copy_only=False).argmax()) // int(lengths[0])
        raise Invalid.at("vector", "must hold numbers only, not null", assembler.rows + row)
    return _float32(values.to_numpy(zero_copy_only=False).reshape(len(column), int(lengths[0])))

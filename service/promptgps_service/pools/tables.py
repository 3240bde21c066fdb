"""Parquet and Arrow, read column by column; only the columns that are asked for are unpacked."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

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
    nothing_to_embed,
)
from promptgps_service.pools.raw import (
    CHUNK_BYTES,
    CHUNK_ROWS,
    Assembly,
    Bounds,
    RawChunk,
    Vectors,
    float32,
)
from promptgps_service.pools.values import READ, Unfit, object_in
from promptgps_service.reading.shown import shown

BATCHES = (1_024, 32, 1)  # rows of a batch: fewer where more do not fit into memory
SMALL_BATCHES = (4_096, *BATCHES)
BATCH_BYTES = 8 * 2**20  # that a batch should have by what the file says of itself
DEPTH = 5  # of structs whose fields are listed
READ_AHEAD = 256 * 2**10
_MAGIC_FILE = b"ARROW1"

# Broken pages raise OSError, column names UnicodeDecodeError.
BROKEN = (pa.ArrowException, OSError, UnicodeDecodeError, ValueError)


@dataclass(frozen=True)
class Place:
    """Where a field is.

    It is in a top-level column, perhaps inside structs, and at the end there may be a path into
    JSON text.

    Attributes:
        column: name of the top-level column.
        inner: names of struct fields, one in the other.
        text: the rest of the path, into objects that a column of text is the JSON of.
    """

    column: str
    inner: tuple[str, ...]
    text: str | None


class Table:
    """The columns of a file that fields come from.

    Args:
        schema: of the file.
        mapping: which field is where.
        bounds: what the file may bring.

    Raises:
        Invalid: a column that was asked for is not there, or is there twice; or there is neither
            text nor vector.
    """

    def __init__(self, schema: pa.Schema, mapping: ColumnMapping, bounds: Bounds) -> None:
        self._mapping = mapping
        self._names = _listed(schema)
        self.assembly = Assembly(bounds)
        self.places = {
            name: place for name in FIELDS if (place := self._place(schema, name)) is not None
        }
        for name, place in self.places.items():
            if schema.names.count(place.column) > 1:
                raise Invalid.at(name, f"column {shown(place.column)} is there twice")

        if "text" not in self.places and "vector" not in self.places:
            raise nothing_to_embed(self._names, 0)
        used = {place.column for place in self.places.values()}
        self.ignored = [name[:MOST_NAME] for name in schema.names if name not in used][:MOST_NAMED]

    def _place(self, schema: pa.Schema, name: str) -> Place | None:
        path = self._mapping.path(name)
        if path is None:
            return None
        head = head_of(schema.names, path)
        place = None
        if head is not None:
            field = schema.field(schema.names.index(head))
            place = _inside(field.type, head, (), path[len(head) + 1 :])

        if place is None and self._mapping.asked(name):
            raise absent(name, path, self._names)
        return place

    @property
    def leaves(self) -> list[str]:
        """What to unpack: paths of the columns, for a reader of Parquet."""
        return sorted({".".join((place.column, *place.inner)) for place in self.places.values()})

    def chunks(self, batch: pa.RecordBatch) -> Iterator[RawChunk]:
        """Chunks of a batch; values are made of a part of its rows at a time.

        Raises:
            Invalid: names the field and the row.
        """
        rows = batch.num_rows
        step = max(1, min(CHUNK_ROWS, rows * CHUNK_BYTES // max(batch.nbytes, 1)))

        for start in range(0, rows, step):
            part = batch.slice(start, step)
            values = {name: self._values(name, place, part) for name, place in self.places.items()}
            yield from self.assembly.chunks(values, part.num_rows, self._names)

    def _values(self, name: str, place: Place, batch: pa.RecordBatch) -> list[Any] | Vectors | None:
        column = batch.column(batch.schema.names.index(place.column))
        for inner in place.inner:
            column = pc.struct_field(_storage(column), inner)
        column = _storage(column)
        if place.text is not None:
            return self._read(
                name,
                [_within(text, place.text) for text in _python(column, name, self.assembly.rows)],
            )
        if name == "vector" and _is_list_of_numbers(column.type):
            return self._vectors(column)

        self._check_type(name, column)
        return self._read(name, _python(column, name, self.assembly.rows))

    def _check_type(self, name: str, column: pa.Array) -> None:
        """Refuse a type that says by itself that nothing in it fits, with the first value."""
        kind = column.type
        if not _fits(name, kind):
            valid = column.is_valid()
            row = valid.index(True).as_py()
            value = column[row].as_py() if row >= 0 else None
            what = "a number" if name.startswith("prior") else "a string"
            detail = f"{called(name, self._mapping)}must be {what}, not {kind} ({shown(value)})"
            raise Invalid.at(name, detail, None if row < 0 else self.assembly.rows + row)

    def _read(self, name: str, values: list[Any]) -> list[Any]:
        read = READ[name]
        made = []
        for row, value in enumerate(values):
            try:
                made.append(read(value))
            except Unfit as unfit:
                detail = f"{called(name, self._mapping)}{unfit}, not {shown(value)}"
                raise Invalid.at(name, detail, self.assembly.rows + row) from None

        return made

    def _vectors(self, column: pa.Array) -> list[Any] | Vectors | None:
        """Vectors of a list column, never as Python numbers; a list with None where nulls are."""
        if column.null_count:
            if column.null_count == len(column):
                return None
            # the assembly refuses them by row
            return [there or None for there in column.is_valid().to_pylist()]

        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
        if (lengths != lengths[0]).any():
            row = int((lengths != lengths[0]).argmax())
            detail = f"has {lengths[row]} numbers, but row {self.assembly.rows} has {lengths[0]}"
            raise Invalid.at("vector", detail, self.assembly.rows + row)

        values = column.flatten()
        if values.null_count:
            row = int(values.is_null().to_numpy(zero_copy_only=False).argmax()) // int(lengths[0])
            raise Invalid.at("vector", "must hold numbers only, not null", self.assembly.rows + row)
        return float32(values.to_numpy(zero_copy_only=False).reshape(len(column), int(lengths[0])))


def read_parquet(
    file: BinaryIO, mapping: ColumnMapping, bounds: Bounds
) -> Iterator[RawChunk | list[str]]:
    """Read Parquet, row group by row group and batch by batch.

    Where a batch does not fit into memory, fewer rows are tried, down to one.

    Args:
        file: a seekable binary file, left open.
        mapping: which field is where.
        bounds: what the file may bring.

    Yields:
        Chunks, and at the end the names of the columns that were passed over.

    Raises:
        Invalid: names the field and the row; what is not Parquet, or broken, names ``file``.
        MemoryError: not one row fits.
    """
    table: Table | None = None
    try:
        source = _source(file)
        parquet = pq.ParquetFile(source, pre_buffer=False, buffer_size=READ_AHEAD)
        table = Table(parquet.schema_arrow, mapping, bounds)
        for group in range(parquet.num_row_groups):
            yield from _group(parquet, group, table)
        yield table.ignored
    except MemoryError:
        raise
    except BROKEN as error:
        raise _broken("Parquet", error, table) from error


def _group(parquet: pq.ParquetFile, group: int, table: Table) -> Iterator[RawChunk]:
    """Chunks of one row group."""
    done = 0
    for rows in _batch_sizes(parquet, group, table):
        try:
            passed = 0
            batches = parquet.iter_batches(
                batch_size=rows, row_groups=[group], columns=table.leaves, use_threads=False
            )

            for batch in batches:
                fresh = batch.slice(min(max(done - passed, 0), batch.num_rows))
                passed += batch.num_rows
                if fresh.num_rows:
                    yield from table.chunks(fresh)
                    done = passed

            return
        except MemoryError:
            if rows == 1:
                raise


def _batch_sizes(parquet: pq.ParquetFile, group: int, table: Table) -> list[int]:
    """Rows of a batch to try.

    As many as should fit by what the file says about itself come first, and then fewer.
    """
    metadata = parquet.metadata.row_group(group)
    wanted = tuple(table.leaves)
    size = sum(
        chunk.total_uncompressed_size
        for chunk in map(metadata.column, range(metadata.num_columns))
        if chunk.path_in_schema.startswith(wanted)
    )

    fitting = max(1, BATCH_BYTES * metadata.num_rows // max(size, 1))
    return [rows for rows in SMALL_BATCHES if rows <= fitting] or [1]


def read_arrow(
    file: BinaryIO, mapping: ColumnMapping, bounds: Bounds
) -> Iterator[RawChunk | list[str]]:
    """Read Arrow IPC, file or stream (told by its first bytes), batch by batch.

    Arguments, yields and errors are those of :func:`read_parquet`.
    """
    table: Table | None = None
    try:
        source = _source(file)
        options = pa.ipc.IpcReadOptions(use_threads=False)
        if source.size() >= len(_MAGIC_FILE) and source.read_at(len(_MAGIC_FILE), 0) == _MAGIC_FILE:
            reader = pa.ipc.open_file(source, options=options)
            table = Table(reader.schema, mapping, bounds)
            batches: Iterator[pa.RecordBatch] = map(
                reader.get_batch, range(reader.num_record_batches)
            )
        else:
            reader = pa.ipc.open_stream(source, options=options)
            table = Table(reader.schema, mapping, bounds)
            batches = iter(reader)

        for batch in batches:
            # offsets and codes of a file are taken at their word otherwise
            batch.validate(full=True)
            yield from table.chunks(batch)

        yield table.ignored
    except MemoryError:
        raise
    except BROKEN as error:
        raise _broken("Arrow", error, table) from error


def _broken(form: str, error: Exception, table: Table | None) -> Invalid:
    row = 0 if table is None else table.assembly.rows
    return Invalid.at("file", f"not {form}, or broken: {str(error)[:500]}", row)


def _source(file: BinaryIO) -> pa.NativeFile:
    """The file, mapped into the address space where it has a descriptor.

    That way what is not unpacked takes no memory.
    """
    try:
        number = file.fileno()
    except OSError:
        return pa.BufferReader(file.read())

    try:
        return pa.BufferReader(pa.py_buffer(mmap.mmap(number, 0, access=mmap.ACCESS_READ)))
    except ValueError:  # an empty file
        return pa.BufferReader(b"")


def _inside(kind: pa.DataType, column: str, inner: tuple[str, ...], rest: str) -> Place | None:
    """The place in a column of that type that the rest of a path leads to; None for none."""
    if not rest:
        return Place(column, inner, None)
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    if pa.types.is_struct(kind):
        names = [kind.field(index).name for index in range(kind.num_fields)]
        head = head_of(names, rest)
        if head is None or names.count(head) > 1:
            return None
        return _inside(
            kind.field(names.index(head)).type, column, (*inner, head), rest[len(head) + 1 :]
        )

    return Place(column, inner, rest) if _is_text(kind) else None


def _within(text: Any, path: str) -> Any:
    """The value at a path in an object that a text is the JSON of."""
    if text is None:
        return None
    found = object_in(text)
    return None if found is None else find(found, path)[1]


def _listed(schema: pa.Schema) -> list[str]:
    """Names of the columns, those inside structs as dotted paths."""
    names: list[str] = []
    for index in range(min(len(schema.names), MOST_NAMED + 1)):
        names += _leaves(schema.field(index), "", DEPTH)
    return names


def _leaves(field: pa.Field, prefix: str, depth: int) -> list[str]:
    name = f"{prefix}{field.name}"
    if not depth or not pa.types.is_struct(field.type) or not field.type.num_fields:
        return [name]
    inner = (field.type.field(index) for index in range(min(field.type.num_fields, MOST_NAMED)))
    return [leaf for part in inner for leaf in _leaves(part, f"{name}.", depth - 1)]


def _storage(column: pa.Array) -> pa.Array:
    """The column without the extension type that it may have."""
    return column.storage if isinstance(column, pa.ExtensionArray) else column


_TEXTS: tuple[Callable[[pa.DataType], bool], ...] = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
)
_LISTS: tuple[Callable[[pa.DataType], bool], ...] = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(test(kind) for test in _TEXTS)


def _is_list_of_numbers(kind: pa.DataType) -> bool:
    return any(test(kind) for test in _LISTS) and _is_number(kind.value_type)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _fits(name: str, kind: pa.DataType) -> bool:
    """Whether a column of that type may hold values of a field."""
    if pa.types.is_null(kind):
        return True
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _fits(name, kind.value_type)
    if name.startswith("prior_"):
        return _is_number(kind) or pa.types.is_decimal(kind)
    if name == "vector":
        return _is_text(kind) or any(
            test(kind) and pa.types.is_null(kind.value_type) for test in _LISTS
        )
    if name == "text":
        return _is_text(kind) or any(test(kind) for test in _LISTS)

    return _is_text(kind) or _is_number(kind) or pa.types.is_decimal(kind)


def _python(column: pa.Array, name: str, first_row: int) -> list[Any]:
    """Values of a column; of a dictionary each that is used is made once."""
    if pa.types.is_run_end_encoded(column.type):
        column = pc.run_end_decode(column)
    if pa.types.is_dictionary(column.type):
        codes = column.indices.to_pylist()
        made: dict[int, Any] = {}
        for row, code in enumerate(codes):
            if code is not None and code not in made:
                made[code] = _entry(column.dictionary, code, name, first_row + row)
        return [None if code is None else made[code] for code in codes]

    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return _one_by_one(column, name, first_row)


def _entry(dictionary: pa.Array, code: int, name: str, row: int) -> Any:
    try:
        return dictionary[code].as_py()
    except UnicodeDecodeError:
        raise Invalid.at(name, "is not UTF-8", row) from None


def _one_by_one(column: pa.Array, name: str, first_row: int) -> list[Any]:
    values: list[Any] = []
    try:
        values.extend(value.as_py() for value in column)
    except UnicodeDecodeError:
        raise Invalid.at(name, "is not UTF-8", first_row + len(values)) from None

    return values

"""A model of the wire read from JSON of any size, list by list and piece by piece.

Pydantic reads a text as a whole: it holds the interpreter's lock until it is done, and needs many
times the text's size where the text is wrong. Here the long parts are cut out first. Each list of a
model is validated in pieces of about 128 kB by the list's own type; what remains of the text, with
tokens in the places of the lists, is small and goes to pydantic as it is, so that every rule
between fields holds as ever. A list that is wrong is read no further than it takes to name its
first wrong rows.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin

import numpy as np
from annotated_types import MaxLen, MinLen
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    create_model,
)
from pydantic.fields import FieldInfo
from pydantic_core import from_json

from promptgps_service.reading.json_text import (
    ElementTooLong,
    Malformed,
    Piece,
    name_end,
    pieces,
    skip_space,
    value_end,
)

M = TypeVar("M", bound=BaseModel)
Error = dict[str, Any]
Location = tuple[str | int, ...]

FAULTS = 20  # that are told of one list, and unknown fields that are told of one text
ROWS_TRIED = 1_000  # of a wrong list, after its first wrong row
MAX_MEMBERS = 2_000  # fields of all objects of a text together, repeated ones counted
MAX_SMALL = 4_096  # bytes of a number, or of a value that has no business where it stands
MAX_TEXT = 64 * 2**10  # bytes of a string outside of lists
MAX_MAPPING = 2**20  # bytes of a mapping
MAX_ENTRIES = 8_192  # colons in a mapping
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)


class Refused(ValueError):
    """The text is not what the model asks for.

    Attributes:
        errors: as pydantic tells them, at most some tens.
        complete: whether these are all, as far as the lists go.
    """

    def __init__(self, errors: Sequence[Error], *, complete: bool = True) -> None:
        super().__init__(f"{len(errors)} errors")
        self.errors = list(errors)
        self.complete = complete


class Rows:
    """A column that was checked and left where it is: how many rows each piece has.

    Attributes:
        spans: pieces of the text with their numbers of rows.
    """

    def __init__(self, text: bytes | bytearray, column: Column) -> None:
        self.spans: list[tuple[Piece, int]] = []
        self._text = text
        self._column = column
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def append(self, piece: Piece, rows: int) -> None:
        """Add a piece."""
        self.spans.append((piece, rows))
        self._rows += rows

    def __iter__(self) -> Iterator[Any]:
        """Values row by row, made a piece at a time."""
        for piece, _ in self.spans:
            yield from self._column.read(self._text, piece)


@dataclass(frozen=True)
class Column:
    """A list in a model.

    Attributes:
        rows: validates some elements, up to the first wrong one.
        row: validates one.
        least: elements that there must be.
        most: elements that there may be.
        vectors: whether the elements are lists of numbers, which are kept as arrays.
    """

    rows: TypeAdapter[list[Any]]
    row: TypeAdapter[Any]
    least: int
    most: int | None
    vectors: bool

    def read(self, text: bytes | bytearray, piece: Piece) -> list[Any]:
        """Elements of a piece; vectors as float64[d].

        Raises:
            ValidationError: an element is wrong.
        """
        values = self.rows.validate_json(b"[%b]" % bytes(text[piece.start : piece.stop]))
        return [np.array(value, np.float64) for value in values] if self.vectors else values


@dataclass(frozen=True)
class _Plan:
    """What of a model may be long: its lists, and the models in it that have lists."""

    model: type[BaseModel]
    columns: Mapping[str, Column]
    objects: Mapping[str, _Plan]
    known: frozenset[str]
    mappings: frozenset[str]


class ModelReader(Generic[M]):
    """Reads one model.

    Args:
        model: what to read.
        lazy: leave the columns of the model itself where they are, as :class:`Rows`.
    """

    def __init__(self, model: type[M], *, lazy: bool = False) -> None:
        self._model = model
        self._lazy = lazy
        self._plan = _plan(model)

    def small(self, text: bytes | bytearray) -> M:
        """Read a text that is short enough to be read at once.

        Raises:
            Refused: it is wrong.
        """
        try:
            return self._model.model_validate_json(text)
        except ValidationError as error:
            if (
                error.error_count() > 1
                or error.errors(include_url=False)[0]["type"] != "json_invalid"
            ):
                self.large(text)  # names more wrong rows, in bounds
            raise Refused(
                [_plain(item) for item in error.errors(include_url=False)[:FAULTS]]
            ) from error

    def large(self, text: bytes | bytearray) -> M:
        """Read a text of any size.

        Raises:
            Refused: it is wrong.
        """
        cut = _Cut(text, lazy=self._lazy)
        try:
            skeleton = cut.whole(self._plan)
        except Malformed as error:
            raise Refused([_malformed(str(error))]) from error
        except ElementTooLong as error:
            raise Refused(
                [{"type": "too_long", "loc": (), "msg": str(error), "input": None}]
            ) from error
        except _Enough:
            raise Refused(cut.faults, complete=False) from None

        return self._validated(cut, skeleton)

    def _validated(self, cut: _Cut, skeleton: bytes) -> M:
        try:
            made = self._plan.model.model_validate_json(skeleton, context=cut.lists)
        except ValidationError as error:
            found = [_plain(item) for item in error.errors(include_url=False)]
            if cut.faults:  # of rules between fields nothing can be said where a field is wrong
                told = {
                    fault["loc"][:place]
                    for fault in cut.faults
                    for place in range(len(fault["loc"]) + 1)
                }
                found = [
                    item for item in found if item["type"] != "columns" and item["loc"] not in told
                ]
            raise Refused(cut.faults + found, complete=cut.complete) from None

        if cut.faults:
            raise Refused(cut.faults, complete=cut.complete)
        return made  # type: ignore[return-value]  # the plan's model is made from M


class _Enough(Exception):
    """So much is wrong that nothing more needs to be read."""


@dataclass
class _Cut:
    """One text on its way: what was cut out of it, and what is wrong with that."""

    text: bytes | bytearray
    lazy: bool
    lists: dict[str, Any] = field(default_factory=dict)
    faults: list[Error] = field(default_factory=list)
    complete: bool = True
    _token: str = field(default_factory=lambda: secrets.token_hex(8))
    _members: int = 0
    _unknown: int = 0

    def whole(self, plan: _Plan) -> bytes:
        """The text without its long parts."""
        at = skip_space(self.text, 0)
        if self.text[at : at + 1] == b"{":
            skeleton, end = self._object(at, plan, ())
        else:
            end = value_end(self.text, at)
            skeleton = _stand_in(bytes(self.text[at : min(end, at + MAX_SMALL + 1)]))

        if skip_space(self.text, end) != len(self.text):
            raise Malformed("there is more after its end")
        return skeleton

    def _object(self, at: int, plan: _Plan, loc: Location) -> tuple[bytes, int]:
        """The object at a position without its long parts, and the position after it."""
        text = self.text
        parts = []
        at = skip_space(text, at + 1)
        if text[at : at + 1] == b"}":
            return b"{}", at + 1

        while True:
            stop = name_end(text, at)
            written = bytes(text[at:stop])
            at = skip_space(text, stop)
            if text[at : at + 1] != b":":
                raise Malformed("a colon is missing")

            value, at = self._value(skip_space(text, at + 1), plan, _name(written), loc)
            if value is not None:
                parts.append(written + b":" + value)
            at = skip_space(text, at)
            if text[at : at + 1] == b"}":
                return b"{" + b",".join(parts) + b"}", at + 1
            if text[at : at + 1] != b",":
                raise Malformed("a comma is missing")
            at = skip_space(text, at + 1)

    def _value(self, at: int, plan: _Plan, name: str, loc: Location) -> tuple[bytes | None, int]:
        """What stands for the value of a field, None for nothing, and the position after it."""
        self._count(loc)
        first = self.text[at : at + 1]
        if name in plan.columns and first == b"[":
            return self._list(at, plan.columns[name], (*loc, name))
        if name in plan.objects and first == b"{":
            return self._object(at, plan.objects[name], (*loc, name))
        if name not in plan.known:
            self._unknown_field((*loc, name))
            return None, value_end(self.text, at)
        end = value_end(self.text, at)
        if end - at <= MAX_SMALL:
            return bytes(self.text[at:end]), end

        return self._long(at, end, (*loc, name), mapping=name in plan.mappings), end

    def _count(self, loc: Location) -> None:
        self._members += 1
        if self._members > MAX_MEMBERS:
            self._fault("too_long", loc, f"there are over {MAX_MEMBERS} fields")
            raise _Enough

    def _unknown_field(self, loc: Location) -> None:
        self._fault("extra_forbidden", loc, "Extra inputs are not permitted")
        self._unknown += 1
        if self._unknown == FAULTS:
            raise _Enough

    def _long(self, at: int, end: int, loc: Location, *, mapping: bool) -> bytes | None:
        """What stands for a long value that is no list of the model."""
        size = end - at
        first = self.text[at : at + 1]
        if first == b'"' and size > MAX_TEXT:
            self._fault("string_too_long", loc, f"is too long: {size} bytes")
            return None
        if first == b"{" and mapping:
            if size > MAX_MAPPING or self.text.count(b":", at, end) > MAX_ENTRIES:
                self._fault("too_long", loc, "has too many entries")
                return None
            return bytes(self.text[at:end])

        if first in (b"[", b"{"):
            return b"[]" if first == b"[" else b"{}"
        if first == b'"':
            return bytes(self.text[at:end])

        self._fault("number_too_long", loc, f"is too long: {size} bytes")
        return None

    def _list(self, at: int, column: Column, loc: Location) -> tuple[bytes | None, int]:
        """What stands for a list of the model, None for a wrong one, and the position after it."""
        kept: list[Any] = []
        lazy = Rows(self.text, column) if self.lazy and len(loc) == 1 else None
        rows = parts = 0
        empty = wrong = False
        end = at

        for piece in pieces(self.text, at):
            end = piece.stop + 1
            parts += 1
            if wrong:
                continue
            try:
                values = column.read(self.text, piece)
            except ValidationError as error:
                self._wrong_rows(error, column, piece, rows, loc)
                wrong = True
                continue

            empty = empty or not values
            rows += len(values)
            if column.most is not None and rows > column.most:
                self._fault("too_long", loc, f"List should have at most {column.most} items")
                wrong = True
            elif lazy is not None:
                lazy.append(piece, len(values))
            else:
                kept += values

        if empty and parts > 1:
            raise Malformed("an element of a list is missing")
        if rows < column.least and not wrong:
            self._fault(
                "too_short", loc, f"List should have at least {column.least} items, not {rows}"
            )
            wrong = True

        if wrong:  # rules between fields are for lists that are right
            return None, end
        token = f"{self._token}-{len(self.lists)}"
        self.lists[token] = kept if lazy is None else lazy
        return f'"{token}"'.encode(), end

    def _wrong_rows(
        self, error: ValidationError, column: Column, piece: Piece, first_row: int, loc: Location
    ) -> None:
        """Tell the first wrong rows of a list.

        These are the one that stopped the validation, and those that can be seen after it.
        """
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            near = f"in {'.'.join(map(str, loc))}, near byte {piece.start}"
            raise Malformed(f"{near}: {first.get('ctx', {}).get('error', 'it cannot be parsed')}")
        start = int(first["loc"][0])
        self._row_fault(first, (*loc, first_row + start), first["loc"][1:])
        try:
            values = from_json(b"[%b]" % bytes(self.text[piece.start : piece.stop]))
        except ValueError:  # the rest of the piece is no JSON, and the first fault is told
            self.complete = False
            return

        stop = min(len(values), start + ROWS_TRIED)
        for row in range(start + 1, stop):
            try:
                column.row.validate_python(values[row])
            except ValidationError as found:
                item = found.errors(include_url=False)[0]
                self._row_fault(item, (*loc, first_row + row), item["loc"])

        self.complete = self.complete and stop == len(values) and self._last(piece)

    def _last(self, piece: Piece) -> bool:
        return bytes(self.text[piece.stop : piece.stop + 1]) == b"]"

    def _row_fault(self, item: Mapping[str, Any], row: Location, inner: Location) -> None:
        self.faults.append(_plain(item) | {"loc": (*row, *inner)})

    def _fault(self, kind: str, loc: Location, message: str) -> None:
        self.faults.append({"type": kind, "loc": loc, "msg": message, "input": None})


def _plain(item: Mapping[str, Any]) -> Error:
    """An error of pydantic without what may be large."""
    given = item.get("input")
    small = given if isinstance(given, str | int | float | bool | None) else None
    return {
        "type": item["type"],
        "loc": tuple(item["loc"]),
        "msg": item["msg"],
        "input": small,
        "ctx": item.get("ctx", {}),
        "told": small is given,
    }


def _malformed(detail: str) -> Error:
    return {
        "type": "json_invalid",
        "loc": (),
        "msg": detail,
        "input": None,
        "ctx": {"error": detail},
    }


def _name(written: bytes) -> str:
    try:
        return str(from_json(written))
    except ValueError as error:
        raise Malformed(f"a field's name: {error}") from error


def _stand_in(value: bytes) -> bytes:
    """A short value of the same kind."""
    stands = {b"[": b"[]", b'"': b'""'}
    return stands.get(value[:1], value if len(value) <= MAX_SMALL else b"0")


def _plan(model: type[BaseModel]) -> _Plan:
    """Find what of a model may be long, and make the model that takes tokens in these places."""
    columns: dict[str, Column] = {}
    objects: dict[str, _Plan] = {}
    mappings: set[str] = set()
    changed: dict[str, Any] = {}

    for name, info in model.model_fields.items():
        for kind, metadata in _branches(info.annotation, info.metadata):
            if get_origin(kind) is list:
                columns[name] = _column(get_args(kind)[0], metadata)
                taking: Any = Annotated[_annotation(info), WrapValidator(_take)]
                changed[name] = (taking, _default(info))
            elif get_origin(kind) is dict:
                mappings.add(name)
            elif isinstance(kind, type) and issubclass(kind, BaseModel):
                objects[name] = _plan(kind)
                changed[name] = (_replaced(info.annotation, objects[name].model), _default(info))

    taking_tokens = create_model(model.__name__, __base__=model, **changed)
    return _Plan(
        taking_tokens, columns, objects, frozenset(model.model_fields), frozenset(mappings)
    )


def _branches(annotation: Any, metadata: Sequence[Any]) -> Iterator[tuple[Any, Sequence[Any]]]:
    """Types that a field may have, each with its constraints."""
    if get_origin(annotation) is Annotated:
        inner, *own = get_args(annotation)
        yield from _branches(inner, own)
    elif get_origin(annotation) in (Union, UnionType):
        for branch in get_args(annotation):
            yield from _branches(branch, ())
    else:
        yield annotation, metadata


def _column(item: Any, metadata: Sequence[Any]) -> Column:
    flat = [
        part for own in metadata for part in (own.metadata if isinstance(own, FieldInfo) else [own])
    ]
    least = next((part.min_length for part in flat if isinstance(part, MinLen)), 0)
    most = next((part.max_length for part in flat if isinstance(part, MaxLen)), None)
    kinds = [kind for kind, _ in _branches(item, ())]
    rows: Any = Annotated[list[item], Field(fail_fast=True)]

    return Column(
        rows=TypeAdapter(rows, config=_STRICT),
        row=TypeAdapter(item, config=None if _is_model(item) else _STRICT),
        least=least,
        most=most,
        vectors=kinds == [list[float]],
    )


def _is_model(item: Any) -> bool:
    return isinstance(item, type) and issubclass(item, BaseModel)


def _annotation(info: FieldInfo) -> Any:
    """A field's type with the constraints that stand beside it."""
    return Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation


def _default(info: FieldInfo) -> Any:
    return ... if info.is_required() else info.get_default(call_default_factory=True)


def _replaced(annotation: Any, model: type[BaseModel]) -> Any:
    """The annotation of a field with another model in the place of its own."""
    return model | None if type(None) in get_args(annotation) else model


def _take(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """The list that a token stands for; anything else is validated as ever."""
    lists: Mapping[str, Any] = info.context or {}
    if type(value) is str and value in lists:
        return lists[value]
    return handler(value)

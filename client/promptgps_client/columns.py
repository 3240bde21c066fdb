"""Columns of any kind as Python's lists, and long ones cut into requests.

No array library is imported.

A column is a list, a tuple, a range, a view of a dict, an iterator (read once), or an array of any
library: NumPy, torch, pandas, polars, pyarrow, Hugging Face's `Column`; also several of these in
one another. Each kind of column has its own leniency, and nothing else is guessed:

- keys: a whole number is its decimal string (7, `numpy.int64(7)` and 7.0 are "7"); a bool is
  refused
- numbers: a bool is 0 or 1, a decimal its nearest float
- integers: a whole float is an integer, since arrays with a gap come as floats
- where None is allowed, so are the other marks of a missing value: NaN, NaT, pandas' NA
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from itertools import islice
from math import nan
from typing import Any, Protocol, TypeAlias

ROWS_IN_REQUEST = 20_000
BYTES_IN_REQUEST = 32_000_000
BYTES_OF_NUMBER = 22  # a float32 written out as a double, with sign and comma
BYTES_OF_OTHERS = 8
VALUE_SHOWN = 200  # characters

_PLAIN = {str, float, int, bool, type(None)}
_NUMBERS = {float, int}
_MISSING = {"NAType", "NaTType"}  # of pandas, which is not imported to know them
_NAMES = (Mapping, str, bytes, bytearray)
# How arrays say what they hold, the most faithful first: pyarrow's and polars' `__array__` turn
# gaps into NaN.
_METHODS = ("to_pylist", "to_list", "tolist")


class Array(Protocol):
    """An array of any library, as far as the client looks."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


Strings: TypeAlias = Iterable[str] | Array
Keys: TypeAlias = Iterable[str | int] | Array
Numbers: TypeAlias = Iterable[float] | Array
Gaps: TypeAlias = Iterable[float | None] | Array
Integers: TypeAlias = Iterable[int] | Array
Vectors: TypeAlias = Iterable[Iterable[float]] | Iterable[Array] | Array


class NoColumn(ValueError):
    """A value that is no column of its kind; `row` is the one at fault, where it is one."""

    def __init__(self, detail: str, row: int | None = None) -> None:
        super().__init__(detail, row)
        self.detail = detail
        self.row = row

    def __str__(self) -> str:
        return self.detail if self.row is None else f"row {self.row}: {self.detail}"


# ---- columns -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A kind of column.

    Attributes:
        cell: What becomes of one value, already one of Python's own.
        gaps: Whether a value may be missing.
        one_for_all: Whether one value may stand for all rows.
        any_order: Whether it is a set, so that a set will do.
    """

    cell: Callable[[Any], Any]
    gaps: bool = False
    one_for_all: bool = False
    any_order: bool = False

    def read(self, value: Any) -> Any:
        """A column as a list of Python's own values, for the wire model to judge.

        Raises:
            NoColumn: It is none.
        """
        if self.one_for_all and _is_one(value):
            return self.cell(_own(value))

        if self.any_order and isinstance(value, set | frozenset):
            # in one order: another rank's, or a restarted trainer's, must be the same request
            value = sorted(
                (_own(item) for item in value), key=lambda item: (str(type(item)), str(item))
            )

        return [
            self.cell(None if self.gaps and _is_missing(item) else item) for item in items(value)
        ]


def items(value: Any) -> list[Any]:
    """What a column of any kind holds, as Python's own values.

    Raises:
        NoColumn: It is no column.
    """
    if isinstance(value, set | frozenset):
        raise NoColumn("a set has no order, which a column needs; give a list")
    if isinstance(value, Mapping):
        raise NoColumn(f"a {type(value).__name__} is no column; give its keys() or its values()")
    if isinstance(value, str | bytes | bytearray):
        raise NoColumn(f"{shown(value)} is one value, not a column; give a list")
    if isinstance(value, ItemsView):
        raise NoColumn("the items() of a dict are pairs; give its keys() or its values()")

    held = _held(value)
    if not isinstance(held, list):
        if _is_one(held):
            raise NoColumn(f"{shown(value)} is one value, not a column; give a list")
        held = list(held)

    return [item if type(item) in _PLAIN else _own(item) for item in held]


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, str) else value


def _key(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    whole = _integer(value)
    return str(whole) if isinstance(whole, int) else _text(whole)


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, Decimal):
        return nan if value.is_nan() else float(value)  # a signaling one cannot be converted

    return value


def _integer(value: Any) -> Any:
    if isinstance(value, Decimal):
        return (
            int(value)
            if value.is_finite() and value == value.to_integral_value()
            else _number(value)
        )

    return int(value) if isinstance(value, float) and value.is_integer() else value


def _row(value: Any) -> Any:
    if isinstance(value, list) and _NUMBERS.issuperset(map(type, value)):
        return value
    return value if _is_one(value) else [_number(item) for item in items(value)]


KEYS = Column(_key)
KEY_SET = Column(_key, any_order=True)
STRINGS = Column(_text)
STRING_OR_STRINGS = Column(_text, one_for_all=True)
STRINGS_WITH_GAPS = Column(_text, gaps=True)
NUMBERS = Column(_number)
NUMBERS_WITH_GAPS = Column(_number, gaps=True)
INTEGERS = Column(_integer)
INTEGER_OR_INTEGERS = Column(_integer, one_for_all=True)
VECTORS = Column(_row)

KINDS: dict[str, Column] = {
    "keys": KEYS,
    "prompt": KEYS,
    "candidates": KEY_SET,
    "exclude": KEY_SET,
    "pool": STRING_OR_STRINGS,
    "candidates_pool": STRING_OR_STRINGS,
    "exclude_pool": STRING_OR_STRINGS,
    "texts": STRINGS,
    "domains": STRINGS_WITH_GAPS,
    "draw_id": STRINGS,
    "status": STRINGS,
    "successes": NUMBERS,
    "trials": INTEGERS,
    "prior_successes": NUMBERS_WITH_GAPS,
    "prior_trials": NUMBERS_WITH_GAPS,
    "reward": NUMBERS_WITH_GAPS,
    "rollout_index": INTEGERS,
    "policy_version": INTEGER_OR_INTEGERS,
    "vectors": VECTORS,
}
# Inside an argument that is itself a mapping of columns.
NESTED: Mapping[str, Mapping[str, Column]] = {
    "outcomes_so_far": KINDS | {"successes": INTEGERS},
    "calibration": KINDS | {"successes": INTEGERS},
}


# ---- values --------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Python's own lists, dicts and values, of anything that is not a column of its own."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [plain(item) for item in value]

    held = _held(value)
    if held is not value:
        return plain(held)

    return list(map(plain, value)) if isinstance(value, Iterator) else value


def shown(value: Any) -> str:
    """A value for a message: in full, as long as a message can take it."""
    text = repr(value)
    return text if len(text) <= VALUE_SHOWN else f"{text[:VALUE_SHOWN]}… ({len(text)} characters)"


def _own(value: Any) -> Any:
    """One value of a library as Python's own; what is a list inside stays one."""
    if type(value) in _PLAIN:
        return value
    if type(value).__name__ in _MISSING:
        return None
    if isinstance(value, str) and isinstance(value, Enum):
        return value.value
    if isinstance(value, bool | int | float | str):
        return _base(value)

    held = _held(value)
    return held if held is value or not isinstance(held, bool | int | float | str) else _base(held)


def _base(value: Any) -> Any:
    """A subclass's value, such as `numpy.float64`, as that of the class itself."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return value if type(value) is kind else kind(value)
    return value


def _held(value: Any) -> Any:
    """What a library's array or scalar holds; everything else is itself.

    Raises:
        NoColumn: It cannot say.
    """
    if (
        isinstance(value, list | tuple | range | Decimal)
        or type(value) in _PLAIN
        or isinstance(value, type)
    ):
        return value

    try:
        if hasattr(value, "as_py"):  # a scalar of pyarrow
            return value.as_py()
        if hasattr(value, "columns") and hasattr(value, "to_numpy"):  # a data frame: its rows
            return value.to_numpy().tolist()

        for method in _METHODS:
            if hasattr(value, method):
                return getattr(value, method)()

        if hasattr(value, "__array__"):
            return value.__array__().tolist()
        if (
            hasattr(value, "__getitem__")
            and hasattr(value, "__len__")
            and not isinstance(value, _NAMES)
        ):
            return list(value[:])  # Hugging Face's `Column`, whose rows one by one are slow
    except NoColumn:
        raise
    except Exception as fault:
        # whatever a foreign library raises, the caller is told which column it was
        if isinstance(value, Iterable):
            return list(value)
        raise NoColumn(f"a {type(value).__name__} cannot be read as a column: {fault}") from fault

    return value


def _is_one(value: Any) -> bool:
    """Whether it is a single value, also as an array without rows."""
    return isinstance(value, _NAMES) or not isinstance(value, Iterable) or _has_no_rows(value)


def _has_no_rows(value: Any) -> bool:
    return getattr(value, "shape", None) == ()


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


# ---- requests ------------------------------------------------------------------------------------


def rows_of(vectors: Any) -> Any:
    """Vectors as something whose slices are rows.

    They become lists one request at a time: Python's floats take eight times as much as an array.

    Raises:
        NoColumn: It is no column.
    """
    if len(getattr(vectors, "shape", ())) == 2 and not hasattr(vectors, "columns"):
        return vectors
    if isinstance(vectors, list | tuple):
        return vectors

    return (
        vectors.to_numpy()
        if hasattr(vectors, "columns") and hasattr(vectors, "to_numpy")
        else items(vectors)
    )


def agree(columns: Mapping[str, Any]) -> bool:
    """Whether these are columns of one length."""
    return len({len(column) for column in columns.values()}) == 1


def parts(columns: Mapping[str, Any]) -> Iterator[slice]:
    """Cut columns of one length into requests, by rows and by estimated bytes; at least one."""
    small = [column for name, column in columns.items() if name != "vectors"]
    of_vector = BYTES_OF_NUMBER * _width(columns.get("vectors", ()))
    rows = len(next(iter(columns.values())))
    start = size = 0

    for row in range(rows):
        more = of_vector + sum(_bytes(column[row]) for column in small)
        if row - start == ROWS_IN_REQUEST or (row > start and size + more > BYTES_IN_REQUEST):
            yield slice(start, row)
            start = row
            size = 0
        size += more

    yield slice(start, rows)


def _width(vectors: Any) -> int:
    if len(getattr(vectors, "shape", ())) == 2:
        return int(vectors.shape[1])
    first = next(islice(iter(vectors), 1), ())
    return len(first) if hasattr(first, "__len__") and not _has_no_rows(first) else 0


def _bytes(value: object) -> int:
    if not isinstance(value, str):
        return BYTES_OF_OTHERS
    return 3 + (len(value) if value.isascii() else len(value.encode(errors="replace")))

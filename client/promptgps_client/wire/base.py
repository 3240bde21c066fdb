"""What all of the wire vocabulary is made of.

These are limits, checked types, the strict base model, and faults between columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, StringConstraints
from pydantic_core import CoreSchema, PydanticCustomError

MAX_BATCH = 16_384
MAX_ROLLOUTS_IN_REPORT = 131_072
MAX_PROMPTS_IN_REQUEST = 100_000
MAX_PREDICTIONS = 8_192
MAX_BUDGETED = 100_000
MAX_SAMPLES = 1_000_000
MAX_SAMPLES_OF_ONE = 4096
MAX_CANDIDATES = 2_000_000
MAX_TEXT = 1_000_000
MAX_KEY = 512
MAX_DIMENSION = 16_384
MAX_INTEGER = 2**53 - 1
MAX_WAIT_SECONDS = 120.0

MAX_METRICS_STEPS = 2_000
MAX_EVENTS = 200

# How far a number may lie from the one that is meant. One step of bfloat16 above 1: the coarsest
# format that rewards are computed in, so that what a sum or a mean of ones comes to there is still
# a one. What people shape rewards with (0.99, 1.01, a bonus of 0.05) lies farther away.
ROUNDING = 2.0**-7

ROWS_NAMED = 100  # of those that are wrong in the same way

NO_NUL = r"^[^\x00]*$"
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Key = Annotated[str, StringConstraints(min_length=1, max_length=MAX_KEY, pattern=NO_NUL)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT, pattern=NO_NUL)]
SubsetId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Domain = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=NO_NUL)]
Vector = Annotated[list[float], Field(min_length=1, max_length=MAX_DIMENSION)]
DrawId = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=NO_NUL)]
Count = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Evidence = Annotated[float, Field(ge=0, le=1e12)]
GroupSuccesses = Annotated[float, Field(ge=-ROUNDING, le=4096 + ROUNDING)]
GroupTrials = Annotated[int, Field(ge=0, le=4096)]
RolloutIndex = Annotated[int, Field(ge=0, le=4095)]
Share = Annotated[float, Field(ge=0, le=1)]
State = Literal["open", "archived", "faulty"]
Status = Literal["ok", "error", "timeout", "truncated", "cancelled"]
ParameterName = Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,32}$")]
Parameter = (
    bool
    | Annotated[int, Field(ge=0, le=4096)]
    | Annotated[float, Field(ge=0, le=4096)]
    | Annotated[str, StringConstraints(max_length=32, pattern=NO_NUL)]
)
Strategy = Literal["promptgps", "gps", "mopps", "uniform"]
PredictorName = Literal["hierarchical", "neural", "stack", "beta", "bots", "ridge", "constant"]
UtilityName = Literal["mixed", "information", "variance", "target", "thompson", "band", "uniform"]


def _fail_fast(schema: Any) -> None:
    """Set the lists of a core schema to stop at the first wrong element."""
    if isinstance(schema, dict):
        if schema.get("type") == "list":
            schema["fail_fast"] = True
        for part in schema.values():
            _fail_fast(part)
    elif isinstance(schema, list):
        for part in schema:
            _fail_fast(part)


class Wire(BaseModel):
    """Base of everything on the wire."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Make every list stop at its first wrong element.

        A million wrong rows must not become a million errors.
        """
        schema = handler(source)
        _fail_fast(schema)
        return schema


def columns_fault(field: str, detail: str) -> PydanticCustomError:
    """A fault between columns, told at one field.

    The service's problem answer reads ``field`` from its context.
    """
    return PydanticCustomError("columns", "{field}: {detail}", {"field": field, "detail": detail})


def rows_fault(field: str, details: Mapping[int, str]) -> PydanticCustomError:
    """Faults between columns at several rows of a field.

    `faults.meant` makes each of them one of its own.
    """
    rows = list(details.items())
    first, detail = rows[0]
    if len(rows) > 1:
        detail = f"{detail} (so are {len(rows) - 1} more rows)"

    others = dict(rows[1:ROWS_NAMED])
    context = {"field": f"{field}.{first}", "detail": detail, "column": field, "others": others}
    return PydanticCustomError("columns", "{field}: {detail}", context)


def exactly_one(**fields: object) -> None:
    """Check that one of the fields is given.

    Raises:
        PydanticCustomError: naming the first.
    """
    if sum(value is not None for value in fields.values()) != 1:
        *names, last = fields
        raise columns_fault(
            next(iter(fields)), f"exactly one of {', '.join(names)} and {last} is needed"
        )


def same_length(**columns: list[Any] | None) -> int:
    """Length of the columns that are given; they must agree.

    Raises:
        PydanticCustomError: naming the first column that differs.
    """
    given = {name: column for name, column in columns.items() if column is not None}
    first = next(iter(given))
    for name, column in given.items():
        if len(column) != len(given[first]):
            raise columns_fault(name, f"has {len(column)} rows, {first} has {len(given[first])}")
    return len(given[first])


def pools_of_keys(
    field: str, keys: list[str] | None, pool_field: str, pools: str | list[str] | None
) -> None:
    """Check that pools go with keys, one for all of them or one for each.

    Raises:
        PydanticCustomError: naming the pools' field.
    """
    if pools is not None and keys is None:
        raise columns_fault(pool_field, f"goes with {field}")
    if isinstance(pools, list):
        same_length(**{field: keys, pool_field: pools})

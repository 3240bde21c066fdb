"""Pydantic's faults in the words of the contract: field, row, detail.

The client and the service tell them alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from promptgps_client.wire.answers import ProblemFault

# Pydantic puts the branch of a union into a fault's location; it is no part of the field's name.
UNION_BRANCH = re.compile(r"constrained-\w+|(list|literal)\[.*\]")


Error = TypeVar("Error", bound=Mapping[str, Any])


def meant(errors: Sequence[Error]) -> list[Error]:
    """Every fault of a request by itself, in the order of rows.

    Without what the other branches of a union say of a list whose rows are at fault: it was meant
    as a list.
    """
    lists = {
        tuple(error["loc"][:place])
        for error in errors
        for place, part in enumerate(error["loc"][:-1])
        if isinstance(part, str) and UNION_BRANCH.fullmatch(part)
    }

    kept = [error for error in errors if tuple(error["loc"][:-1]) not in lists]
    return [each for error in kept for each in _each_row(error)]


def _each_row(error: Error) -> Iterator[Error]:
    yield error
    context = error.get("ctx", {})
    for row, detail in context.get("others", {}).items():
        own = {"field": f"{context['column']}.{row}", "detail": detail}
        yield cast(Error, {**error, "ctx": own, "msg": f"{own['field']}: {detail}"})


def message_of(error: Mapping[str, Any]) -> str:
    """What is wrong, with the value where it is a number.

    In a list of thousands its row alone does not show it.
    """
    message = str(error["msg"])
    value = error.get("input")
    if isinstance(value, bool | int | float) and error["type"] != "columns":
        return f"{message}, not {value!r}"

    return message


def fault_of(
    loc: Sequence[int | str], message: str, context: Mapping[str, object], first_row: int = 0
) -> ProblemFault:
    """One fault, by its field and row.

    Names joined by dots are the field, the first number is the row, counted from ``first_row``.
    """
    rows = [part for part in loc if isinstance(part, int)]
    names = [part for part in loc if isinstance(part, str) and not UNION_BRANCH.fullmatch(part)]
    # a fault between columns says its own place, from the root or from where it arose
    if "field" in context:
        message = str(context["detail"])
        *own, last = str(context["field"]).split(".")
        own, rows = (own, [int(last)]) if last.isdecimal() else ([*own, last], rows)
        names = own if own[: len(names)] == names else names + own

    return ProblemFault(
        field=".".join(names), row=rows[0] + first_row if rows else None, detail=message
    )

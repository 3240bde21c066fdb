"""Which column of a file is what: by its name, or by a path into structs that the caller gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from promptgps_service.errors import Invalid
from promptgps_service.pools.values import object_in
from promptgps_service.reading.shown import shown

FIELDS = ("key", "text", "vector", "domain", "prior_successes", "prior_trials")
MOST_NAMED = 100  # columns in a message or an answer
MOST_NAME = 200  # characters of each


@dataclass(frozen=True)
class ColumnMapping:
    """The caller's words for the fields of a prompt.

    Attributes:
        paths: by field, the name of a column or a dotted path into structs; an empty one means that
            the file has none. A field that is not here is the column of its own name, where there
            is one.
    """

    paths: Mapping[str, str] = field(default_factory=dict)

    def path(self, name: str) -> str | None:
        """Where a field is looked for; None where it is not wanted."""
        return self.paths.get(name, name) or None

    def asked(self, name: str) -> bool:
        """Whether the caller has said where a field is, so that it must be there."""
        return bool(self.paths.get(name))


def called(name: str, mapping: ColumnMapping) -> str:
    """A field as messages name it: with the column it comes from, where that has another name."""
    path = mapping.path(name)
    return "" if path in (None, name) else f"column {shown(path)}: "


def absent(name: str, path: str, columns: Iterable[str]) -> Invalid:
    """The refusal of a mapping whose column is not there."""
    return Invalid.at(name, f"there is no column {shown(path)}; {listed(columns)}")


def nothing_to_embed(columns: Iterable[str], row: int) -> Invalid:
    """The refusal of a file in which neither texts nor vectors were found."""
    how = (
        "say which column is the text, as in `?text=prompt&key=extra_info.index`, "
        "or which is the vector"
    )
    return Invalid.at("text", f"a prompt needs a text or a vector: {how}; {listed(columns)}", row)


def listed(columns: Iterable[str]) -> str:
    """The columns of a file, as a message lists them."""
    names = list(columns)
    told = ", ".join(name[:MOST_NAME] for name in names[:MOST_NAMED])
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"the file's columns are {told}{more}" if names else "the file has no columns"


def find(record: Mapping[str, Any], path: str) -> tuple[bool, Any]:
    """The value at a path in a record, and whether there is such a place.

    A name with dots is tried as it is before it is taken for a path; on its way a path may pass
    through text that is the JSON of an object.
    """
    if path in record:
        return True, record[path]
    head, dot, rest = path.partition(".")
    while dot:
        inner = record.get(head)
        if type(inner) is str:
            inner = object_in(inner)
        if isinstance(inner, dict):
            found = find(inner, rest)
            if found[0]:
                return found
        more, dot, rest = rest.partition(".")
        head = f"{head}.{more}"

    return False, None


def names_of(record: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Names of a record's fields, those of objects in it as dotted paths."""
    names: list[str] = []
    for name, value in record.items():
        whole = f"{prefix}{name}"
        if isinstance(value, dict) and value and prefix.count(".") < 4:
            names += names_of(value, f"{whole}.")
        else:
            names.append(whole)
        if len(names) > MOST_NAMED:
            break

    return names


def head_of(record: Iterable[str], path: str) -> str | None:
    """The top-level column that a path begins with; None where there is none."""
    names = set(record)
    parts = path.split(".")
    candidates = (".".join(parts[:stop]) for stop in range(len(parts), 0, -1))
    return next((name for name in candidates if name in names), None)

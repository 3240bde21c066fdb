"""What a value of a file means as a key, a text, a domain, a number or a vector.

Everything here takes what a parser made: str, int, float, bool, None, list, dict; and what Arrow
adds to these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from pydantic_core import from_json

LARGEST_EXACT = 2**53  # whole floats beyond it stand for several integers
MOST_BITS = 1_024  # of a whole number that becomes a key


class Unfit(ValueError):
    """A value that cannot be what is asked for; the message says what it must be."""


def missing(value: Any) -> bool:
    """Whether a value is none: null, or the NaN by which data frames say so."""
    return value is None or (type(value) is float and math.isnan(value))


def key_of(value: Any) -> str | None:
    """A key; whole numbers become their decimal string.

    Raises:
        Unfit: it is neither a string nor a whole number.
    """
    return _name_of(value)


def domain_of(value: Any) -> str | None:
    """A domain; whole numbers become their decimal string.

    Raises:
        Unfit: it is neither a string nor a whole number.
    """
    return _name_of(value)


def _name_of(value: Any) -> str | None:
    if type(value) is str or value is None:
        return value
    if missing(value):
        return None
    whole = _whole(value)
    if whole is None:
        raise Unfit("must be a string or a whole number")

    return str(whole)


def _whole(value: Any) -> int | None:
    """The integer that a number is; None where it is none."""
    if type(value) is int:
        return value if value.bit_length() <= MOST_BITS else None
    if type(value) is float:
        return int(value) if value.is_integer() and abs(value) <= LARGEST_EXACT else None
    if isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) < 100:
        return int(value) if value == value.to_integral_value() else None

    return None


def text_of(value: Any) -> str | None:
    """A text: a string, or the messages of a chat.

    One message is its content; several are `role: content`, one after the other with blank lines
    between. A content of parts is its texts one after the other, with `<image>` (or whatever type
    it has) for a part that is no text.

    Raises:
        Unfit: it is neither.
    """
    if type(value) is str or value is None:
        return value
    if missing(value):
        return None
    if not isinstance(value, list):
        raise Unfit("must be a string or a list of chat messages")
    if not value:
        raise Unfit("must have at least one message")
    messages = [_message(message) for message in value]
    if len(messages) == 1:
        return messages[0][1]

    return "\n\n".join(f"{role}: {content}" for role, content in messages)


def _message(message: Any) -> tuple[str, str]:
    if not isinstance(message, dict) or type(message.get("role")) is not str:
        raise Unfit("must be a string or a list of messages, each with a role and a content")
    content = message.get("content")
    if content is None or type(content) is str:
        return message["role"], content or ""
    if not isinstance(content, list):
        raise Unfit("a message's content must be a string or a list of parts")

    return message["role"], "".join(_part(part) for part in content)


def _part(part: Any) -> str:
    if type(part) is str:
        return part
    if isinstance(part, dict):
        if type(part.get("text")) is str and part.get("type") in (None, "text", "input_text"):
            return str(part["text"])
        if type(part.get("type")) is str:
            return f"<{part['type'].removesuffix('_url')}>"

    raise Unfit("a part of a message must have a type")


def number_of(value: Any) -> float | None:
    """A number.

    Raises:
        Unfit: it is none, or a bool.
    """
    if missing(value):
        return None
    if type(value) in (int, float):
        return value  # type: ignore[no-any-return]  # its type is known now
    if isinstance(value, Decimal) and value.is_finite():
        return float(value)

    raise Unfit("must be a number")


def number_in(value: Any) -> float | None:
    """A number, perhaps written out, as in CSV.

    Raises:
        Unfit: it is none.
    """
    if type(value) is str:
        try:
            return float(value)
        except ValueError:
            raise Unfit("must be a number") from None

    return number_of(value)


def vector_of(value: Any) -> list[Any] | None:
    """A vector: a list, perhaps as JSON text.

    What is in it is checked with the others of its column.

    Raises:
        Unfit: it is no list.
    """
    if type(value) is str:
        try:
            value = from_json(value)
        except ValueError:
            raise Unfit("must be a list of numbers") from None

    if missing(value):
        return None
    if type(value) is not list:
        raise Unfit("must be a list of numbers")
    return value


READ: Mapping[str, Callable[[Any], Any]] = {
    "key": key_of,
    "text": text_of,
    "vector": vector_of,
    "domain": domain_of,
    "prior_successes": number_of,
    "prior_trials": number_of,
}


def object_in(text: str) -> dict[str, Any] | None:
    """The object that a text is the JSON of; None where it is none."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = from_json(text)
    except ValueError:
        return None

    return value if isinstance(value, dict) else None

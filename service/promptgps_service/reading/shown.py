"""A value in a message: in full precision, at bounded length."""

from __future__ import annotations

MOST_SHOWN = 200  # characters


def shown(value: object, most: int = MOST_SHOWN) -> str:
    """A value as a message tells it.

    Args:
        value: what was sent; of a list or an object only its kind and size are told.
        most: characters of the value itself; what is cut off is counted.

    Returns:
        JSON's spelling where it has one, so that 0.1 and "0.1" can be told apart.
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        cut = value[:most]
        more = f" and {len(value) - most} more characters" if len(value) > most else ""
        return f'"{_printable(cut)}"{more}'

    if isinstance(value, dict):
        return f"an object of {len(value)} fields"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    # its digits would take long, or are refused
    if isinstance(value, int) and value.bit_length() > 4 * most:
        return f"an integer of {value.bit_length()} bits"

    text = _printable(repr(value))
    return text if len(text) <= most else f"{text[:most]} and {len(text) - most} more characters"


def _printable(text: str) -> str:
    """The text without lone surrogates and control characters, which no answer may carry."""
    return text.encode("utf-8", "backslashreplace").decode().translate(_CONTROLS)


_CONTROLS = {code: f"\\x{code:02x}" for code in range(32)} | {
    10: "\\n",
    9: "\\t",
    13: "\\r",
    127: "\\x7f",
}

"""States of runs and pools.

Hidden ones have a name that nobody can ask for, and no list shows them.
"""

from __future__ import annotations

OPEN = "open"
ARCHIVED = "archived"
FAULTY = "faulty"
IMPORTING = "importing"  # hidden: not all of its rows are there yet
DELETING = "deleting"  # hidden: not all of its rows are gone yet
VISIBLE = (OPEN, ARCHIVED, FAULTY)


def hidden_name(row_id: int) -> str:
    """What a hidden run or pool is called: no name of the wire begins like this."""
    return f"~{row_id}"

"""Ways to choose, by name.

`promptgps`, or with settings changed, as in `promptgps+bonus=1.0+cooldown=0`.
"""

from __future__ import annotations

import json
from typing import Any


def selection_of(arm: str) -> dict[str, Any]:
    """The `selection` of a run; values are JSON."""
    strategy, *changes = arm.split("+")
    pairs = (change.split("=", 1) for change in changes)
    return {"strategy": strategy, **{name: json.loads(value) for name, value in pairs}}

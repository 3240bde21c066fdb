"""A run that is there, against a request to open it: what differs, and what to do about it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from typing import Any

from promptgps_client.wire import CreateRun, PoolShare

from promptgps_service.errors import Conflict, Fault
from promptgps_service.flow.run_settings import NULLABLE, RunSettings
from promptgps_service.store.records import RunRecord

# In a run's request as it is stored: names of the settings that it did not leave to defaults.
GIVEN = "given"
FIXED = ("pools", "seed", "warm_start_from")
TOLD = 5  # differences in the message; all of them are faults


@dataclass(frozen=True)
class Difference:
    """A setting that the run has otherwise than a request asks for."""

    field: str
    here: Any
    asked: Any

    def __str__(self) -> str:
        return f"{self.field} is {_shown(self.here)} here, {_shown(self.asked)} was asked for"


def stored_request(request: CreateRun) -> dict[str, Any]:
    """A request to open a run as it is kept: spelled out, with the names of what it gave itself."""
    return RunSettings.of(request).dump() | {GIVEN: sorted(_given(request))}


def conflict_with(record: RunRecord, request: CreateRun) -> Conflict | None:
    """The refusal to open a run whose name another has; None where the run is what is asked for.

    It is compared with what the run is now, after every PATCH and restore. What only reports have
    shown (the values of a binary reward) and defaults that have moved since it was opened make no
    difference.
    """
    found = list(_differences(record, request))
    if not found:
        return None
    faults = tuple(
        Fault(each.field, f"is {_shown(each.here)} here, {_shown(each.asked)} was asked for")
        for each in found
    )
    return Conflict(_message(record, found), faults)


def _differences(record: RunRecord, request: CreateRun) -> Iterator[Difference]:
    now = RunSettings.load(record.settings)
    asked = RunSettings.of(request)
    given = _given(request)

    def moved(field: str, here: Any, then: Any) -> bool:
        """Whether a setting was left to its default, then and now, and only the default differs."""
        then_given: Collection[str] | None = record.request.get(GIVEN)
        return then_given is not None and field not in {*given, *then_given} and here == then

    if _shares(now.pools) != _shares(asked.pools):
        yield Difference("pools", _dumped(now.pools), _dumped(asked.pools))

    for field in ("rollouts_per_prompt", "seed", "warm_start_from"):
        here = getattr(now, field)
        other = getattr(asked, field)
        if here != other and not moved(field, here, record.request.get(field)):
            yield Difference(field, here, other)

    reward = now.reward.model_dump()
    if not now.takes(asked.reward) and not moved("reward", reward, record.request.get("reward")):
        yield Difference("reward", _sparse(reward), _sparse(asked.reward.model_dump()))

    opened = record.request.get("selection", {})
    same_strategy = now.selection.strategy == asked.selection.strategy
    rest = [
        Difference(f"selection.{name}", here, other)
        for name, other in asked.selection.model_dump(exclude={"strategy"}).items()
        if (here := getattr(now.selection, name)) != other
        and not (same_strategy and moved(f"selection.{name}", here, opened.get(name)))
        # A version that had it not.
        and not (same_strategy and here is None and name not in NULLABLE)
    ]
    if rest and not same_strategy:  # with equal settings another name of a strategy is only a name
        yield Difference("selection.strategy", now.selection.strategy, asked.selection.strategy)

    yield from rest


def _given(request: CreateRun) -> set[str]:
    own = request.model_fields_set - {"name", "selection"}
    selection = {
        f"selection.{name}"
        for name in request.selection.model_fields_set
        if getattr(request.selection, name) is not None or name in NULLABLE
    }
    return own | selection


def _shares(pools: Sequence[PoolShare]) -> dict[str, float | tuple[str, float] | None]:
    """What each pool gets: a quota, a part of the rest, or nothing set.

    The order and the unit of weights make no difference.
    """
    if len(pools) == 1 or all(share.weight is None and share.quota is None for share in pools):
        return dict.fromkeys((share.pool for share in pools), None)

    total = sum(share.weight or 1.0 for share in pools if share.quota is None)
    return {
        share.pool: ("quota", share.quota)
        if share.quota is not None
        else ("weight", round((share.weight or 1.0) / total, 12))
        for share in pools
    }


# ---- in words ------------------------------------------------------------------------------------


def _message(record: RunRecord, found: Sequence[Difference]) -> str:
    told = "; ".join(str(each) for each in found[:TOLD])
    more = f"; and {len(found) - TOLD} more" if len(found) > TOLD else ""
    parts = [f"run {record.name!r} is there with other settings: {told}{more}."]

    fixed = [each.field for each in found if each.field in FIXED]
    settled = [each.field for each in found if each.field == "reward" and record.log_position > 0]
    if fixed or settled:
        why = f"{' and '.join(fixed)} cannot be changed" if fixed else ""
        late = "reward cannot be changed once outcomes are stored" if settled else ""
        reasons = ", ".join(reason for reason in (why, late) if reason)
        parts.append(f"{reasons}: take another name, or ask for what is there.")
    elif all(_opened_with(record, each) for each in found):
        parts.append(
            "It was opened with what is asked for, and re-tuned since. "
            "To go on with it, ask for its settings as they "
            f"are now (GET /runs/{record.name}), or put them back (PATCH)."
        )
    else:
        parts.append(f"Ask for what is there, or change it (PATCH /runs/{record.name}).")

    return " ".join(parts)


def _opened_with(record: RunRecord, difference: Difference) -> bool:
    field, _, name = difference.field.partition(".")
    opened: Any = record.request.get(field)
    if name:
        opened = opened.get(name) if isinstance(opened, Mapping) else None
    if isinstance(opened, Mapping):
        opened = _sparse(opened)
    if isinstance(opened, float) and isinstance(difference.asked, int | float):
        return isclose(opened, difference.asked)

    return bool(opened == difference.asked)


def _dumped(pools: Sequence[PoolShare]) -> list[dict[str, Any]]:
    return [share.model_dump(exclude_none=True) for share in pools]


def _sparse(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

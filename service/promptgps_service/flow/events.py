"""What was done, page by page, for whoever may know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from promptgps_client.wire import Event, Events

from promptgps_service.errors import NotFound
from promptgps_service.store.records import Detail, EventRecord
from promptgps_service.store.unit import Store

MOST = 200  # events of one page
READ_AT_ONCE = 1_000
MOST_READ = 10_000  # events that one request reads to find those of its key


def list_events(
    store: Store, *, before: int | None, limit: int, owns: Callable[[str], bool] | None = None
) -> Events:
    """Events of all runs and pools, newest first.

    Args:
        store: the database.
        before: id that they come before; None begins with the newest.
        limit: how many at most. There may be more although there are fewer here: ``next`` says so.
        owns: tells by its name whether a run or a pool is one that the caller may know of; None for
            all of them, and what is about neither.
    """
    found: list[EventRecord] = []
    read = 0

    while True:
        with store.read() as unit:
            part = unit.events.page(before=before, limit=limit if owns is None else READ_AT_ONCE)

        mine = [event for event in part if owns is None or _is_of(event, owns)]
        found += mine[: limit - len(found)]
        read += len(part)
        whole = len(part) < (limit if owns is None else READ_AT_ONCE)
        if len(found) == limit and (found[-1] is not part[-1] or not whole):
            return _page(found, found[-1].id)
        if whole:
            return _page(found, None)

        before = part[-1].id
        if read >= MOST_READ:
            return _page(found, before)


def run_events(store: Store, name: str, *, before: int | None, limit: int) -> Events:
    """Events of the runs that have or had a name, newest first.

    Raises:
        NotFound: there is no such run, and never was.
    """
    with store.read() as unit:
        events = unit.events.page(run=name, before=before, limit=limit + 1)
        if not events and unit.runs.find(name) is None and not unit.events.page(run=name, limit=1):
            raise NotFound(f"there is no run {name!r}")
    return _first(events, limit)


def pool_events(store: Store, name: str, *, before: int | None, limit: int) -> Events:
    """Events of the pools that have or had a name, newest first.

    Raises:
        NotFound: there is no such pool, and never was.
    """
    with store.read() as unit:
        events = unit.events.page(pool=name, before=before, limit=limit + 1)
        if (
            not events
            and unit.pools.find(name) is None
            and not unit.events.page(pool=name, limit=1)
        ):
            raise NotFound(f"there is no pool {name!r}")

    return _first(events, limit)


def differences(
    before: Mapping[str, Any], after: Mapping[str, Any], within: str = ""
) -> dict[str, Detail]:
    """What has changed between two settings: dotted names, with the old and the new value."""
    found: dict[str, Detail] = {}
    for name in sorted(before.keys() | after.keys()):
        one = before.get(name)
        other = after.get(name)
        if isinstance(one, dict) and isinstance(other, dict) and name not in _WHOLE:
            found |= differences(one, other, f"{within}{name}.")
        elif one != other:
            found[f"{within}{name}"] = f"{one} → {other}"

    return found


_WHOLE = frozenset({"domain_quotas"})  # told as one: it may have a thousand entries


def _is_of(event: EventRecord, owns: Callable[[str], bool]) -> bool:
    about = event.run if event.run is not None else event.pool
    return about is not None and owns(about)


def _first(events: list[EventRecord], limit: int) -> Events:
    return _page(events[:limit], events[limit - 1].id if len(events) > limit else None)


def _page(events: list[EventRecord], following: int | None) -> Events:
    return Events(events=[_event(event) for event in events], next=following)


def _event(event: EventRecord) -> Event:
    return Event(
        id=event.id,
        created_at=event.created_at,
        key=event.key,
        action=event.action,
        run=event.run,
        pool=event.pool,
        detail=event.detail,
    )

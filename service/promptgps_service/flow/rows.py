"""Prompts to rows of a run, and back.

A prompt is (pool, key); the pool may be left out where only one pool of the run has the key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from promptgps_service.errors import Fault, Invalid, NotFound, RunGone
from promptgps_service.flow.context import Context
from promptgps_service.flow.growth import take_up_new_prompts
from promptgps_service.flow.run_state import RunState
from promptgps_service.store.records import PoolRecord, Segment
from promptgps_service.store.unit import Unit

FAULTS_NAMED = 20


@dataclass(frozen=True)
class Keys:
    """Keys of prompts, as a request names them.

    Attributes:
        keys: M of them.
        pools: of the keys: one for all, one for each, or None where the request does not say.
        field: that the keys stand in, for errors.
        pool_field: that the pools stand in.
    """

    keys: Sequence[str]
    pools: str | Sequence[str] | None
    field: str = "keys"
    pool_field: str = "pool"


@dataclass(frozen=True)
class Places:
    """Where prompts are, int64[M] each: id of the pool and position in it, −1 for unknown keys."""

    pool: NDArray[np.int64]
    position: NDArray[np.int64]

    @property
    def unknown(self) -> NDArray[np.int64]:
        """Places in the request of the keys that no pool has."""
        return np.flatnonzero(self.pool < 0)

    def rows(self, segments: Sequence[Segment]) -> NDArray[np.int64]:
        """Rows of a run, int64[M]; −1 where it has none for a prompt yet."""
        rows = np.full(self.pool.size, -1, np.int64)
        for pool_id in np.unique(self.pool[self.pool >= 0]).tolist():
            own = [segment for segment in segments if segment.pool_id == pool_id]
            starts = np.array([segment.start for segment in own], np.int64)
            shifts = np.array([segment.offset - segment.start for segment in own], np.int64)
            stop = own[-1].start + own[-1].count if own else 0
            there = np.flatnonzero((self.pool == pool_id) & (self.position < stop))
            which = np.searchsorted(starts, self.position[there], side="right") - 1
            rows[there] = self.position[there] + shifts[which] if there.size else 0

        return rows


def rows_of(context: Context, state: RunState, *asked: Keys) -> list[NDArray[np.int64]]:
    """Rows int64[M] of each list of keys; prompts added since the run was opened have one, too.

    Opens a unit of work, so it must not be called inside one. What it answers holds as long as the
    run does: rows are only ever added.

    Raises:
        NotFound: naming the rows of the request whose key no pool of the run has.
        Invalid: a key without a pool that several pools have, or a pool that is not the run's.
        RunGone: the run was deleted.
    """
    with context.store.read() as unit:
        places = known_places(unit, state, *asked)
    return rows_at(context, state, places)


def known_places(unit: Unit, state: RunState, *asked: Keys) -> list[Places]:
    """Where the prompts of each list of keys are.

    Raises:
        NotFound: naming the rows of the request whose key no pool of the run has.
        Invalid: a key without a pool that several pools have, or a pool that is not the run's.
        RunGone: the run was deleted.
    """
    places = [places_of(unit, state, keys) for keys in asked]
    for keys, found in zip(asked, places, strict=True):
        _require_all(keys, found)
    return places


def rows_at(context: Context, state: RunState, places: Sequence[Places]) -> list[NDArray[np.int64]]:
    """Rows int64[M] of prompts, new ones of the run's pools included; −1 for unknown keys."""
    # Another process may have given the run its new rows already; then nothing is to be written.
    for bring_up_to_date in (context.catch_up, partial(take_up_new_prompts, context)):
        rows = [found.rows(state.segments) for found in places]
        if not any(_has_gap(row, found) for row, found in zip(rows, places, strict=True)):
            return rows
        bring_up_to_date(state)
    return [found.rows(state.segments) for found in places]


def _has_gap(rows: NDArray[np.int64], places: Places) -> bool:
    """Whether the run has no row yet for a prompt that a pool has."""
    return bool(((rows < 0) & (places.pool >= 0)).any())


def places_of(unit: Unit, state: RunState, asked: Keys) -> Places:
    """Where the prompts are that a request names; keys that no pool has are left to the caller.

    Raises:
        Invalid: a key without a pool that several pools have, or a pool that is not the run's.
        RunGone: the run was deleted.
    """
    pools = _pools(unit, state)
    _require_own(state.name, pools, asked)
    places = Places(np.full(len(asked.keys), -1, np.int64), np.full(len(asked.keys), -1, np.int64))
    several = np.zeros(len(asked.keys), np.bool_)

    for pool, rows in _asked_of(pools, asked):
        found = _positions(unit, pool, [asked.keys[row] for row in rows.tolist()])
        has = rows[found >= 0]
        position = found[found >= 0]
        several[has] |= places.pool[has] >= 0
        places.pool[has] = pool.id
        places.position[has] = position

    if several.any():
        raise _ambiguous(unit, pools, asked, np.flatnonzero(several))

    return places


def _asked_of(
    pools: Sequence[PoolRecord], asked: Keys
) -> Iterator[tuple[PoolRecord, NDArray[np.int64]]]:
    """Each pool that is asked for, with the rows of the request that ask for it."""
    every = np.arange(len(asked.keys))
    if asked.pools is None:
        yield from ((pool, every) for pool in pools)
    elif isinstance(asked.pools, str):
        yield from ((pool, every) for pool in pools if pool.name == asked.pools)
    else:
        number = {pool.name: index for index, pool in enumerate(pools)}
        of_row = np.fromiter((number[name] for name in asked.pools), np.int64, len(asked.pools))
        yield from ((pool, np.flatnonzero(of_row == index)) for index, pool in enumerate(pools))


def _positions(unit: Unit, pool: PoolRecord, keys: Sequence[str]) -> NDArray[np.int64]:
    found = unit.pools.positions(pool, list(dict.fromkeys(keys)))
    return np.fromiter((found.get(key, -1) for key in keys), np.int64, len(keys))


def _ambiguous(
    unit: Unit, pools: Sequence[PoolRecord], asked: Keys, rows: NDArray[np.int64]
) -> Invalid:
    told = rows[:FAULTS_NAMED].tolist()
    keys = [asked.keys[row] for row in told]
    having = {pool.name: unit.pools.positions(pool, list(dict.fromkeys(keys))) for pool in pools}
    faults = []

    for row, key in zip(told, keys, strict=True):
        names = " and ".join(repr(name) for name, found in having.items() if key in found)
        detail = f"the pools {names} both have" if len(pools) == 2 else f"the pools {names} have"
        detail += f" the key {key!r}: name the one that is meant in `{asked.pool_field}`,"
        detail += f" beside `{asked.field}`"
        faults.append(Fault(asked.field, detail, row))

    return Invalid(
        f"{rows.size} of {len(asked.keys)} keys are in several pools of the run", tuple(faults)
    )


def _require_own(run: str, pools: Sequence[PoolRecord], asked: Keys) -> None:
    own = [pool.name for pool in pools]
    names = asked.pools if asked.pools is not None else []
    if isinstance(names, str):
        if names not in own:
            raise Invalid.at(asked.pool_field, _not_own(run, own, names))
        return

    known = set(own)
    foreign = [row for row, name in enumerate(names) if name not in known]
    if foreign:
        faults = tuple(
            Fault(asked.pool_field, _not_own(run, own, names[row]), row)
            for row in foreign[:FAULTS_NAMED]
        )
        raise Invalid(f"{len(foreign)} of {len(names)} pools are not the run's", faults)


def _not_own(run: str, own: Sequence[str], name: str) -> str:
    return f"run {run!r} does not draw from a pool {name!r}; its pools: {', '.join(own)}"


def _require_all(asked: Keys, found: Places) -> None:
    unknown = found.unknown
    if unknown.size:
        where = f" in pool {asked.pools!r}" if isinstance(asked.pools, str) else ""
        faults = tuple(
            Fault(asked.field, f"no prompt{where} has the key {asked.keys[row]!r}", row)
            for row in unknown[:FAULTS_NAMED].tolist()
        )
        raise NotFound(
            f"{unknown.size} of {len(asked.keys)} keys are not in the run's pools", faults
        )


def prompts_at(
    unit: Unit, segments: Sequence[Segment], rows: NDArray[np.int64], *, text: bool
) -> list[tuple[str, str | None]]:
    """Key and, if asked for, text of rows, in their order."""
    answer: dict[int, tuple[str, str | None]] = {}
    which = _segment_of(segments, rows)
    for index in np.unique(which):
        segment = segments[int(index)]
        shift = segment.offset - segment.start
        positions = [int(row) - shift for row in rows[which == index]]
        for position, prompt in unit.pools.keys_at(segment.pool_id, positions, text=text).items():
            answer[position + shift] = prompt

    return [answer[int(row)] for row in rows]


def pools_at(unit: Unit, state: RunState, rows: NDArray[np.int64]) -> list[str] | None:
    """Names of the pools that rows are of; None where the run has only one."""
    if len(state.settings.pools) == 1:
        return None
    names = {pool.id: pool.name for pool in _pools(unit, state)}
    of_segment = [names[segment.pool_id] for segment in state.segments]
    return [of_segment[index] for index in _segment_of(state.segments, rows).tolist()]


def _pools(unit: Unit, state: RunState) -> list[PoolRecord]:
    """The run's pools; one that is gone was deleted after the run.

    Only the deletion of the run makes that possible.
    """
    names = [share.pool for share in state.settings.pools]
    pools = unit.pools.named(names)
    if len(pools) < len(names):
        raise RunGone(state.id)
    return pools


def _segment_of(segments: Sequence[Segment], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    offsets = np.array([segment.offset for segment in segments])
    return np.searchsorted(offsets, rows, side="right") - 1

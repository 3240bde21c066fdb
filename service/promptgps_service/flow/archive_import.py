"""An exported run into a database, where it goes on with the same draws.

What comes in is looked at twice: all of it is checked before a row is written, and a run is built
on trial before anybody sees it. Its rows are written in short units of work, so that no other run
notices.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from promptgps_service.errors import Conflict, Invalid
from promptgps_service.flow.archive_folder import Folder
from promptgps_service.flow.archive_reader import ArchiveReader
from promptgps_service.flow.archive_run_checks import RunCheck
from promptgps_service.flow.leases import LEASE_SECONDS, Leases
from promptgps_service.flow.states import require_open_pool
from promptgps_service.flow.stored_trial import build_on_trial
from promptgps_service.flow.sweep import sweep
from promptgps_service.flow.ticker import Ticker
from promptgps_service.store.archive import POOL_TABLES, RUN_TABLES, WRITE_AT_ONCE, Row
from promptgps_service.store.records import PoolRecord, RunRecord, Segment
from promptgps_service.store.states import FAULTY
from promptgps_service.store.tables import VECTORS
from promptgps_service.store.unit import Store, Unit

ROWS_AT_ONCE = 1_000  # of small rows, in one unit of work

# Builds a run on trial: (store, id, segments of its source, segments that frame it); raises
# Invalid.
Trial = Callable[[Store, int, Sequence[Segment] | None, Sequence[Segment] | None], None]


@dataclass(frozen=True)
class Imported:
    """What came of an import.

    Attributes:
        same_draw_ids: whether draws issued before can still be reported by their ids.
    """

    run: str
    selections: int
    outcomes: int
    same_draw_ids: bool


def import_run(
    store: Store,
    path: Path,
    name: str | None = None,
    *,
    by: str | None = None,
    trial: Trial = build_on_trial,
) -> Imported:
    """Put an exported run into a database, all of it or nothing.

    Args:
        store: the database.
        path: folder that was exported.
        name: of the run here; None leaves its name.
        by: name of the API key that asked for it, if one was.
        trial: builds the run before anybody sees it.

    Raises:
        Invalid: it is no archive, it is damaged or tampered with, or it was made with a newer
            schema; names file and line. Nothing was written.
        Conflict: the run is there, or a pool of that name with other prompts.
        PoolNotOpen: a pool that is there is archived.
    """
    archive = ArchiveReader(Folder(path), path, name)
    with store.read() as unit:
        archive.require_schema(unit.archive.schema)

    archive.check()
    with store.read() as unit:
        places = _Places.found(unit, archive)

    with _worker(store) as worker:
        arrival = _Arrival(store, archive, places, worker)
        try:
            arrival.write()
            arrival.build(trial)
            arrival.show(by)
        except BaseException:
            arrival.abandon()
            raise

    head = archive.runs[0].head
    return Imported(archive.name, head.selections, head.log_position, arrival.run_ids[0] == head.id)


@dataclass(frozen=True)
class _Places:
    """What of an archive is here already: ids of pools and of runs, None for those to come."""

    pools: list[PoolRecord | None]
    runs: list[RunRecord | None]

    @classmethod
    def found(cls, unit: Unit, archive: ArchiveReader) -> _Places:
        """Look for it.

        Raises:
            Conflict: something else is there under a name.
            PoolNotOpen: a pool is archived.
        """
        if unit.runs.find(archive.name) is not None:
            raise Conflict(f"there is a run {archive.name!r}; give the import another name")
        runs = [None, *(_source_here(unit, run) for run in archive.runs[1:])]
        pools = [_pool_here(unit, archive, number) for number in range(len(archive.pools))]
        return cls(pools, runs)


def _source_here(unit: Unit, run: RunCheck) -> RunRecord | None:
    """The run that another started from, if it has come before."""
    there = unit.runs.find(run.head.name)
    if there is not None:
        same = there.created_at == run.head.created_at
        fixed = ("pools", "seed", "warm_start_from")
        if not same or any(
            there.settings.get(name) != run.head.settings.get(name) for name in fixed
        ):
            raise Conflict(
                f"there is another run {run.head.name!r}, and the one to import started from it"
            )

    return there


def _pool_here(unit: Unit, archive: ArchiveReader, number: int) -> PoolRecord | None:
    """The pool of that name, if there is one; it must begin with the same prompts."""
    head = archive.pools[number].head
    there = unit.pools.find(head.name)
    if there is None:
        return None

    require_open_pool(there)
    same = (there.embedding, there.dimension) == (head.embedding.model_dump(), head.dimension)
    same = same and there.frame_rows in (0, head.frame_rows) and there.prompts >= head.prompts
    if not same or not _same_prompts(unit, archive, number, there):
        raise Conflict(f"there is a pool {head.name!r} with other prompts, or in another order")

    return there


def _same_prompts(unit: Unit, archive: ArchiveReader, number: int, there: PoolRecord) -> bool:
    prompts = unit.archive.rows("prompts", there.id, archive.pools[number].head.prompts)
    if any(
        one != other
        for one, other in zip(prompts, archive.pool_rows(number, "prompts"), strict=True)
    ):
        return False

    aliases = {row["key"]: row["position"] for row in unit.archive.rows("prompt_aliases", there.id)}
    if any(
        aliases.get(row["key"]) != row["position"]
        for row in archive.pool_rows(number, "prompt_aliases")
    ):
        return False

    for row in archive.pool_rows(number, "pool_chunks"):
        arrays = unit.pools.arrays(there, row["start"], row["start"] + row["size"])
        for name, kind in VECTORS.items():
            one = getattr(arrays, name)
            other = np.frombuffer(row[name], kind)
            if not np.array_equal(one.astype(kind).ravel(), other, equal_nan=True):
                return False

    return True


@contextmanager
def _worker(store: Store) -> Iterator[Leases]:
    """This process as one that shows life: nobody takes away what it has brought so far."""
    leases = Leases(store, LEASE_SECONDS)
    leases.join()
    beating = Ticker("import", leases.pause, leases.beat)

    try:
        yield leases
    finally:
        beating.stop()
        leases.leave()


class _Arrival:
    """An archive on its way in, hidden until it is whole."""

    def __init__(
        self, store: Store, archive: ArchiveReader, places: _Places, leases: Leases
    ) -> None:
        self._store = store
        self._archive = archive
        self._places = places
        self._worker = leases.worker or ""
        self.run_ids: list[int] = []
        self._pool_ids: list[int] = []
        self._new_runs = [number for number, there in enumerate(places.runs) if there is None]
        self._new_pools = [number for number, there in enumerate(places.pools) if there is None]

    def write(self) -> None:
        """Write every row, in short units of work."""
        self._write_heads()
        for number in self._new_pools:
            for table in POOL_TABLES:
                self._write(table, self._pool_ids[number], self._archive.pool_rows(number, table))

        for number in self._new_runs:
            for table in RUN_TABLES[1:]:  # segments are there since the heads are
                self._write(table, self.run_ids[number], self._archive.run_rows(number, table))

    def _write_heads(self) -> None:
        """Make what is to come, and hold the pools that are here, so that nobody deletes them."""
        archive = self._archive
        with self._store.write() as unit:
            for number, run in enumerate(archive.runs):
                there = self._places.runs[number]
                if there is None:
                    run_id = unit.archive.add_run(run.head.model_dump())
                    unit.leases.take(run_id, self._worker)
                else:
                    run_id = there.id
                self.run_ids.append(run_id)

            for number, pool in enumerate(archive.pools):
                here = self._places.pools[number]
                if here is None:
                    aliases = archive.lines("pools", number).get("prompt_aliases", 0)
                    self._pool_ids.append(
                        unit.archive.add_pool(pool.head.model_dump(), aliases, self.run_ids[0])
                    )
                else:
                    found = unit.pools.get(pool.head.name, keep=True)
                    if found.id != here.id:
                        raise Conflict(f"pool {pool.head.name!r} is another by now; import again")
                    self._pool_ids.append(found.id)

            ids = {
                pool.head.id: self._pool_ids[number] for number, pool in enumerate(archive.pools)
            }

            for number in self._new_runs:
                segments = [
                    {**row, "pool_id": ids[row["pool_id"]]}
                    for row in archive.run_rows(number, "run_segments")
                ]
                unit.archive.add("run_segments", self.run_ids[number], segments)

    def _write(self, table: str, owner: int, rows: Iterator[Row]) -> None:
        at_once = WRITE_AT_ONCE.get(table, ROWS_AT_ONCE)
        start = 0

        while part := list(islice(rows, at_once)):
            with self._store.write() as unit:
                began = time.monotonic()
                unit.archive.hold(self.run_ids[0], self._worker)
                unit.archive.add(table, owner, part, start)
            start += len(part)
            # So that those who wait for the database come in between.
            time.sleep(time.monotonic() - began)

    def build(self, trial: Trial) -> None:
        """Build what has come, as whoever opens it will.

        Raises:
            Invalid: it cannot be built.
        """
        with self._store.read() as unit:
            segments = [unit.runs.segments(run_id) for run_id in self.run_ids]

        for number in self._new_runs:
            source = segments[number + 1] if number + 1 < len(segments) else None
            try:
                trial(
                    self._store,
                    self.run_ids[number],
                    source,
                    None if source is None else segments[-1],
                )
            except Invalid as error:
                # What was broken there may be broken here.
                if self._archive.runs[number].head.state != FAULTY:
                    raise Invalid(f"{self._archive.runs[number].place}: {error.detail}") from error

    def show(self, by: str | None) -> None:
        """Let everybody see it, all at once."""
        archive = self._archive
        with self._store.write() as unit:
            unit.archive.hold(self.run_ids[0], self._worker)
            for number, pool in enumerate(archive.pools):
                if number in self._new_pools:
                    unit.archive.show_pool(self._pool_ids[number], pool.head.name, pool.head.state)
                    told = {"prompts": pool.head.prompts}
                    unit.events.add("pool-imported", pool=pool.head.name, key=by, detail=told)
                else:
                    unit.pools.set_frame(self._pool_ids[number], pool.head.frame_rows)

            for number in self._new_runs:
                head = archive.runs[number].head
                name = archive.name if number == 0 else head.name
                unit.leases.release(self.run_ids[number])
                unit.archive.show_run(self.run_ids[number], name, head.state)
                unit.runs.advance(self.run_ids[number])
                counts = {
                    "selections": head.selections,
                    "draws": head.draws,
                    "outcomes": head.log_position,
                }
                unit.events.add("run-imported", run=name, key=by, detail=counts)

    def abandon(self) -> None:
        """Leave no trace."""
        with self._store.write() as unit:
            for number in self._new_runs:
                if number < len(self.run_ids):
                    unit.removal.abandon_import(self.run_ids[number])
        sweep(self._store, _pause)


def _pause(seconds: float) -> bool:
    time.sleep(seconds)
    return True

"""A run out of one database and into another, with its pools, its models and everything that was superseded.

There it goes on with the same draws. A run that started from what another had learned takes that one along: its
features are framed by the other's pools.

What comes in is looked at twice: all of it is checked before a row is written, and a run is built on trial before
anybody sees it. Its rows are written in short units of work, so that no other run notices.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from promptgps_client.wire import Name
from pydantic import TypeAdapter, ValidationError

from promptgps_service.errors import Conflict, Invalid
from promptgps_service.flow.archive_checks import PoolCheck, RunCheck
from promptgps_service.flow.archive_folder import MANIFEST, Folder, packed
from promptgps_service.flow.archive_rows import OLDER, Manifest, PoolEntry, RunEntry
from promptgps_service.flow.leases import LEASE_SECONDS, Leases
from promptgps_service.flow.run_settings import RunSettings
from promptgps_service.flow.states import require_open_pool
from promptgps_service.flow.stored_trial import build_on_trial
from promptgps_service.flow.sweep import sweep
from promptgps_service.flow.ticker import Ticker
from promptgps_service.flow.warm_start import sources
from promptgps_service.model.checkpoint import as_safetensors
from promptgps_service.store.archive import POOL_TABLES, RUN_TABLES, WRITE_AT_ONCE, Row
from promptgps_service.store.records import PoolRecord, RunRecord, Segment
from promptgps_service.store.states import FAULTY
from promptgps_service.store.tables import VECTORS
from promptgps_service.store.unit import Store, Unit

_log = structlog.get_logger(__name__)
_NAME: TypeAdapter[str] = TypeAdapter(Name)
ROWS_AT_ONCE = 1_000  # of small rows, in one unit of work

# Builds a run on trial: (store, id, segments of its source, segments that frame it); raises Invalid.
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


# ---- out -----------------------------------------------------------------------------------------------------


def export_run(store: Store, name: str, path: Path) -> None:
    """Write a run, as it is at one moment, to a new folder.

    Raises:
        NotFound: there is no such run.
        Conflict: something is there, or the run is broken so that nobody could read it.
    """
    folder = Folder(path)
    with store.read() as unit:
        chain = _chain(unit, unit.runs.get(name))
        folder.begin()
        lengths: dict[int, int] = {}
        for record in chain:
            for segment in unit.runs.segments(record.id):
                lengths[segment.pool_id] = max(lengths.get(segment.pool_id, 0), segment.start + segment.count)
        pools = [_export_pool(unit, folder, number, *pool) for number, pool in enumerate(lengths.items())]
        runs = [_export_run(unit, folder, number, record) for number, record in enumerate(chain)]
        folder.finish({"schema": unit.archive.schema, "pools": pools, "runs": runs})


def _chain(unit: Unit, record: RunRecord) -> list[RunRecord]:
    """A run, the one that it started from, the one that that started from, and so on."""
    try:
        return [record, *sources(unit, RunSettings.load(record.settings))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Conflict(f"run {record.name!r} cannot be exported: its settings make no sense ({error})") from error


def _export_pool(unit: Unit, folder: Folder, number: int, pool_id: int, length: int) -> dict[str, Any]:
    lines = {
        table: folder.write(f"pools/{number}/{table}", unit.archive.rows(table, pool_id, length))
        for table in POOL_TABLES
    }
    return {"row": {**unit.archive.head("pools", pool_id), "prompts": length}, "lines": lines}


def _export_run(unit: Unit, folder: Folder, number: int, record: RunRecord) -> dict[str, Any]:
    lines = {}
    for table in RUN_TABLES:
        rows = unit.archive.rows(table, record.id)
        if table == "model_versions":
            rows = _as_safetensors(rows)
        lines[table] = folder.write(f"runs/{number}/{table}", rows)
    return {"row": unit.archive.head("runs", record.id), "lines": lines}


def _as_safetensors(versions: Iterator[Row]) -> Iterator[Row]:
    """Model versions without their wrapping; of one that cannot be read only that: the log makes up for it."""
    for version in versions:
        try:
            state = as_safetensors(bytes(version["state"]))
        except ValueError as error:
            _log.warning("a damaged model is left out", model_version=version["version"], cause=str(error))
            yield {name: value for name, value in version.items() if name != "state"} | {"damaged": True}
        else:
            yield {**version, "state": state}


# ---- in ------------------------------------------------------------------------------------------------------


def import_run(
    store: Store, path: Path, name: str | None = None, *, by: str | None = None, trial: Trial = build_on_trial
) -> Imported:
    """Put an exported run into a database, all of it or nothing.

    Args:
        store: the database.
        path: folder that was exported.
        name: of the run here; None leaves its name.
        by: name of the API key that asked for it, if one was.
        trial: builds the run before anybody sees it.

    Raises:
        Invalid: it is no archive, it is damaged or tampered with, or it was made with a newer schema; names file and
            line. Nothing was written.
        Conflict: the run is there, or a pool of that name with other prompts.
        PoolNotOpen: a pool that is there is archived.
    """
    archive = _Archive(Folder(path), path, name)
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


class _Archive:
    """What is to be read, and how it is checked; each reading of a table checks its rows."""

    def __init__(self, folder: Folder, path: Path, name: str | None) -> None:
        self._folder = folder
        self._manifest = manifest = folder.manifest()
        self._file = path / MANIFEST
        self._begin(manifest)
        try:
            self.name = _NAME.validate_python(name or self.runs[0].head.name, strict=True)
        except ValidationError as error:
            raise Invalid.at("name", f"{name!r} is not 1 to 128 letters, digits, `.`, `_`, `-`") from error
        if name is not None and name in [run.head.name for run in self.runs[1:]]:
            raise Conflict(f"the archive brings another run {self.name!r}, from which this one started")

    def _begin(self, manifest: Manifest) -> None:
        """Take the heads in, and forget what the last reading has found."""
        self.pools = [
            PoolCheck(entry.row, f"pools/{number}", self._folder) for number, entry in enumerate(manifest.pools)
        ]
        by_id = {pool.head.id: pool for pool in self.pools}
        with self._told():
            self.runs = [
                RunCheck(entry.row, f"runs/{number}", self._folder, by_id)
                for number, entry in enumerate(manifest.runs)
            ]

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tell what is wrong between rows, which names its file itself unless it is the manifest."""
        try:
            yield
        except ValueError as error:
            where = "" if ".jsonl" in str(error) else f" {MANIFEST}:"
            raise Invalid(f"{self._file.parent}:{where} {error}") from error

    def require_schema(self, newest: str) -> None:
        """Check that this code knows what the rows mean.

        Raises:
            Invalid: they are of another schema.
        """
        schema = self._manifest.schema_
        if schema != newest and schema not in OLDER:
            known = ", ".join([*OLDER, newest])
            raise Invalid(f"{self._file} has schema {schema}, this reads {known}: export it anew, or upgrade")

    def check(self) -> None:
        """Read all of it once.

        Raises:
            Invalid: something of it cannot be; names file and line.
        """
        self._check_heads()
        for number, _ in enumerate(self.pools):
            for table in POOL_TABLES:
                for _ in self.pool_rows(number, table):
                    pass
        for number, run in enumerate(self.runs):
            with self._told():
                run.head_fits()
            for table in RUN_TABLES:
                for _ in self.run_rows(number, table):
                    pass
        self._begin(self._manifest)

    def _check_heads(self) -> None:
        with self._told():
            for what, heads in (("pools", self.pools), ("runs", self.runs)):
                for attribute in ("id", "name"):
                    if len({getattr(each.head, attribute) for each in heads}) != len(heads):
                        raise ValueError(f"{what} have one {attribute} twice")
            for pool in self.pools:
                pool.head_fits()
            used = {share.pool for run in self.runs for share in run.settings.pools}
            if used != {pool.head.name for pool in self.pools}:
                raise ValueError("pools are not those of the runs")
            sources = [run.settings.warm_start_from for run in self.runs]
            if sources != [*(run.head.name for run in self.runs[1:]), None]:
                raise ValueError("runs are not those that each has started from")

    def lines(self, what: str, number: int) -> dict[str, int]:
        """How many lines each file of a pool or of a run has."""
        entry: PoolEntry | RunEntry = getattr(self._manifest, what)[number]
        return entry.lines

    def pool_rows(self, number: int, table: str) -> Iterator[Row]:
        """Rows of a table of a pool, as the database has them."""
        pool = self.pools[number]
        rows = self._rows(pool.place, table, self.lines("pools", number), getattr(pool, table))
        yield from rows
        with self._told():
            if table == "prompt_aliases":
                pool.keys_differ()
            if table == "pool_chunks":
                pool.vectors_are_whole()

    def run_rows(self, number: int, table: str) -> Iterator[Row]:
        """Rows of a table of a run, as the database has them."""
        run = self.runs[number]
        yield from self._rows(run.place, table, self.lines("runs", number), getattr(run, table))
        whole = {
            "run_segments": run.segments_are_whole,
            "restores": run.restores_are_whole,
            "selections": run.selections_are_whole,
            "outcomes": run.log_is_whole,
            "model_versions": run.versions_are_whole,
        }
        with self._told():
            if table in whole:
                whole[table]()

    def _rows(
        self, place: str, table: str, lines: dict[str, int], check: Callable[[dict[str, Any]], None]
    ) -> Iterator[Row]:
        absent, defaults = OLDER.get(self._manifest.schema_, (set(), {}))
        if table in absent:
            return
        if table not in lines:
            raise Invalid(f"{self._file}: the number of lines of {place}/{table}.jsonl is missing")
        added = defaults.get(table, {})

        def checked(row: dict[str, Any]) -> None:
            for name, value in added.items():
                if name in row:
                    raise ValueError(f"{name} is not of schema {self._manifest.schema_}")
                row[name] = value
            if "outcomes" in table and "part" not in row:
                raise ValueError("part: Field required")
            check(row)

        for row in self._folder.read(f"{place}/{table}", lines[table], checked):
            yield packed(row)


@dataclass(frozen=True)
class _Places:
    """What of an archive is here already: ids of pools and of runs, None for those that are to come."""

    pools: list[PoolRecord | None]
    runs: list[RunRecord | None]

    @classmethod
    def found(cls, unit: Unit, archive: _Archive) -> _Places:
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
        if not same or any(there.settings.get(name) != run.head.settings.get(name) for name in fixed):
            raise Conflict(f"there is another run {run.head.name!r}, and the one to import started from it")
    return there


def _pool_here(unit: Unit, archive: _Archive, number: int) -> PoolRecord | None:
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


def _same_prompts(unit: Unit, archive: _Archive, number: int, there: PoolRecord) -> bool:
    prompts = unit.archive.rows("prompts", there.id, archive.pools[number].head.prompts)
    if any(one != other for one, other in zip(prompts, archive.pool_rows(number, "prompts"), strict=True)):
        return False
    aliases = {row["key"]: row["position"] for row in unit.archive.rows("prompt_aliases", there.id)}
    if any(aliases.get(row["key"]) != row["position"] for row in archive.pool_rows(number, "prompt_aliases")):
        return False
    for row in archive.pool_rows(number, "pool_chunks"):
        arrays = unit.pools.arrays(there, row["start"], row["start"] + row["size"])
        for name, kind in VECTORS.items():
            one, other = getattr(arrays, name), np.frombuffer(row[name], kind)
            if not np.array_equal(one.astype(kind).ravel(), other, equal_nan=True):
                return False
    return True


@contextmanager
def _worker(store: Store) -> Iterator[Leases]:
    """This process as one that shows signs of life, so that nobody takes away what it has brought so far."""
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

    def __init__(self, store: Store, archive: _Archive, places: _Places, leases: Leases) -> None:
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
        """Make what is to come, and hold the pools that are here: nobody deletes them from now on."""
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
                    self._pool_ids.append(unit.archive.add_pool(pool.head.model_dump(), aliases, self.run_ids[0]))
                else:
                    found = unit.pools.get(pool.head.name, keep=True)
                    if found.id != here.id:
                        raise Conflict(f"pool {pool.head.name!r} is another by now; import again")
                    self._pool_ids.append(found.id)
            ids = {pool.head.id: self._pool_ids[number] for number, pool in enumerate(archive.pools)}
            for number in self._new_runs:
                segments = [
                    {**row, "pool_id": ids[row["pool_id"]]} for row in archive.run_rows(number, "run_segments")
                ]
                unit.archive.add("run_segments", self.run_ids[number], segments)

    def _write(self, table: str, owner: int, rows: Iterator[Row]) -> None:
        at_once, start = WRITE_AT_ONCE.get(table, ROWS_AT_ONCE), 0
        while part := list(islice(rows, at_once)):
            with self._store.write() as unit:
                began = time.monotonic()
                unit.archive.hold(self.run_ids[0], self._worker)
                unit.archive.add(table, owner, part, start)
            start += len(part)
            time.sleep(time.monotonic() - began)  # so that those who wait for the database come in between

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
                trial(self._store, self.run_ids[number], source, None if source is None else segments[-1])
            except Invalid as error:
                if self._archive.runs[number].head.state != FAULTY:  # what was broken there may be broken here
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
                counts = {"selections": head.selections, "draws": head.draws, "outcomes": head.log_position}
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

"""An archive as it is read: its heads, and its rows, each checked whenever it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from promptgps_client.wire import Name
from pydantic import TypeAdapter, ValidationError

from promptgps_service.errors import Conflict, Invalid
from promptgps_service.flow.archive_folder import MANIFEST, Folder, packed
from promptgps_service.flow.archive_pool_checks import PoolCheck
from promptgps_service.flow.archive_rows import OLDER, Manifest, PoolEntry, RunEntry
from promptgps_service.flow.archive_run_checks import RunCheck
from promptgps_service.store.archive import POOL_TABLES, RUN_TABLES, Row

_NAME: TypeAdapter[str] = TypeAdapter(Name)


class ArchiveReader:
    """What is to be read, and how it is checked; each reading of a table checks its rows."""

    def __init__(self, folder: Folder, path: Path, name: str | None) -> None:
        self._folder = folder
        self._manifest = manifest = folder.manifest()
        self._file = path / MANIFEST
        self._begin(manifest)

        try:
            self.name = _NAME.validate_python(name or self.runs[0].head.name, strict=True)
        except ValidationError as error:
            raise Invalid.at(
                "name", f"{name!r} is not 1 to 128 letters, digits, `.`, `_`, `-`"
            ) from error

        if name is not None and name in [run.head.name for run in self.runs[1:]]:
            raise Conflict(
                f"the archive brings another run {self.name!r}, from which this one started"
            )

    def _begin(self, manifest: Manifest) -> None:
        """Take the heads in, and forget what the last reading has found."""
        self.pools = [
            PoolCheck(entry.row, f"pools/{number}", self._folder)
            for number, entry in enumerate(manifest.pools)
        ]
        by_id = {pool.head.id: pool for pool in self.pools}

        with self._told():
            self.runs = [
                RunCheck(entry.row, f"runs/{number}", self._folder, by_id)
                for number, entry in enumerate(manifest.runs)
            ]

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tell what is wrong between rows; errors name their file, unless it is the manifest."""
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
            raise Invalid(
                f"{self._file} has schema {schema}, this reads {known}: export it anew, or upgrade"
            )

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

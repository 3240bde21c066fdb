"""A run out of one database and into another, with its pools, its models and everything that was superseded.

There it goes on with the same draws. A run that started from what another had learned takes that one along: its
features are framed by the other's pools.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from promptgps_service.errors import Conflict, Invalid
from promptgps_service.flow.archive_folder import Folder
from promptgps_service.flow.run_settings import RunSettings
from promptgps_service.flow.warm_start import sources
from promptgps_service.model.checkpoint import as_safetensors, from_safetensors
from promptgps_service.store.archive import RUN_TABLES, Row
from promptgps_service.store.records import RunRecord
from promptgps_service.store.unit import Store, Unit

_log = structlog.get_logger(__name__)


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


def export_run(store: Store, name: str, path: Path) -> None:
    """Write a run, as it is at one moment, to a new folder.

    Raises:
        NotFound: there is no such run.
        Conflict: something is there.
    """
    folder = Folder(path)
    with store.read() as unit:
        record = unit.runs.get(name)
        chain = [record, *sources(unit, RunSettings.load(record.settings))]
        folder.begin()
        lengths: dict[int, int] = {}
        for record in chain:
            for share in RunSettings.load(record.settings).pools:
                lengths.setdefault(unit.pools.get(share.pool).id, 0)
            for segment in unit.runs.segments(record.id):
                lengths[segment.pool_id] = max(lengths.get(segment.pool_id, 0), segment.start + segment.count)
        pools = [_export_pool(unit, folder, number, *pool) for number, pool in enumerate(lengths.items())]
        runs = [_export_rows(unit, folder, number, record) for number, record in enumerate(chain)]
        folder.finish({"schema": unit.archive.schema, "pools": pools, "runs": runs})


def import_run(store: Store, path: Path, name: str | None = None) -> Imported:
    """Put an exported run into a database, all of it or nothing.

    Args:
        store: the database.
        path: folder that was exported.
        name: of the run here; None leaves its name.

    Raises:
        Invalid: it is no archive, it is damaged, or it was made with another schema.
        Conflict: the run is there, or a pool of that name with other prompts.
    """
    folder = Folder(path)
    manifest = folder.manifest()
    with store.write() as unit:
        if manifest["schema"] != unit.archive.schema:
            raise Invalid(
                f"{path} has schema {manifest['schema']}, this database {unit.archive.schema}: export it anew"
            )
        pools = {
            described["row"]["id"]: _import_pool(unit, folder, number, described)
            for number, described in enumerate(manifest["pools"])
        }
        head, *others = manifest["runs"]
        for number, described in enumerate(others, start=1):
            if not _is_there(unit, described["row"]):
                _import_rows(unit, folder, number, described["row"], described["lines"], pools)
        row, lines = head["row"] | ({"name": name} if name else {}), head["lines"]
        run_id = _import_rows(unit, folder, 0, row, lines, pools)
    return Imported(row["name"], lines["selections"], lines["outcomes"], run_id == row["id"])


# ---- out -----------------------------------------------------------------------------------------------------


def _export_pool(unit: Unit, folder: Folder, number: int, pool_id: int, length: int) -> dict[str, Any]:
    lines = {
        table: folder.write(f"pools/{number}/{table}", unit.archive.rows(table, pool_id, length))
        for table in ("prompts", "pool_chunks")
    }
    return {"row": {**unit.archive.head("pools", pool_id), "prompts": length}, "lines": lines}


def _export_rows(unit: Unit, folder: Folder, number: int, record: RunRecord) -> dict[str, Any]:
    lines = {}
    for table in RUN_TABLES:
        rows = unit.archive.rows(table, record.id)
        if table == "model_versions":
            rows = _as_safetensors(rows)
        lines[table] = folder.write(f"runs/{number}/{table}", rows)
    return {"row": unit.archive.head("runs", record.id), "lines": lines}


def _as_safetensors(versions: Iterator[Row]) -> Iterator[Row]:
    """Model versions without their wrapping; one that cannot be read is left out, the log makes up for it."""
    for version in versions:
        try:
            state = as_safetensors(bytes(version["state"]))
        except ValueError as error:
            _log.warning("a model version is left out", model_version=version["version"], cause=str(error))
        else:
            yield {**version, "state": state}


# ---- in ------------------------------------------------------------------------------------------------------


def _import_pool(unit: Unit, folder: Folder, number: int, described: dict[str, Any]) -> int:
    """Id here of an archived pool: a new one, or the one of its name if it begins with the same prompts."""
    row, lines, archive = described["row"], described["lines"], unit.archive
    place = f"pools/{number}"
    there = unit.pools.find(row["name"])
    if there is None:
        pool_id = archive.add_head("pools", row)
        for table in ("prompts", "pool_chunks"):
            archive.add(table, pool_id, folder.read(f"{place}/{table}", archive.columns(table), lines[table]))
        return pool_id
    prompts = folder.read(f"{place}/prompts", archive.columns("prompts"), lines["prompts"])
    same = (there.embedding, there.dimension) == (row["embedding"], row["dimension"])
    same = same and there.frame_rows in (0, row["frame_rows"]) and there.prompts >= row["prompts"]
    if not same or any(one != other for one, other in zip(archive.rows("prompts", there.id), prompts, strict=False)):
        raise Conflict(f"there is a pool {row['name']!r} with other prompts, or in another order")
    unit.pools.set_frame(there.id, row["frame_rows"])
    return there.id


def _is_there(unit: Unit, row: Row) -> bool:
    """Whether the run that another started from has come before."""
    there = unit.runs.find(row["name"])
    if there is not None and unit.archive.head("runs", there.id)["created_at"] != row["created_at"]:
        raise Conflict(f"there is another run {row['name']!r}, and the one to import started from it")
    return there is not None


def _import_rows(
    unit: Unit, folder: Folder, number: int, row: Row, lines: dict[str, int], pools: dict[int, int]
) -> int:
    if unit.runs.find(row["name"]) is not None:
        raise Conflict(f"there is a run {row['name']!r}; give the import another name")
    run_id = unit.archive.add_head("runs", row)
    unit.runs.advance(run_id)
    for table in RUN_TABLES:
        rows = folder.read(f"runs/{number}/{table}", unit.archive.columns(table), lines[table])
        if table == "run_segments":
            rows = ({**segment, "pool_id": pools[segment["pool_id"]]} for segment in rows)
        if table == "model_versions":
            rows = ({**version, "state": from_safetensors(version["state"])} for version in rows)
        unit.archive.add(table, run_id, rows)
    return run_id

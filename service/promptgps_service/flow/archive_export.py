"""A run out of a database, with its pools, its models and everything that was superseded.

Elsewhere it goes on with the same draws. A run that started from what another had learned takes
that one along: its features are framed by the other's pools.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

from promptgps_service.errors import Conflict
from promptgps_service.flow.archive_folder import Folder
from promptgps_service.flow.run_settings import RunSettings
from promptgps_service.flow.warm_start import sources
from promptgps_service.model.checkpoint import as_safetensors
from promptgps_service.store.archive import POOL_TABLES, RUN_TABLES, Row
from promptgps_service.store.records import RunRecord
from promptgps_service.store.unit import Store, Unit

_log = structlog.get_logger(__name__)


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
                lengths[segment.pool_id] = max(
                    lengths.get(segment.pool_id, 0), segment.start + segment.count
                )

        pools = [
            _export_pool(unit, folder, number, *pool) for number, pool in enumerate(lengths.items())
        ]
        runs = [_export_run(unit, folder, number, record) for number, record in enumerate(chain)]
        folder.finish({"schema": unit.archive.schema, "pools": pools, "runs": runs})


def _chain(unit: Unit, record: RunRecord) -> list[RunRecord]:
    """A run, the one that it started from, the one that that started from, and so on."""
    try:
        return [record, *sources(unit, RunSettings.load(record.settings))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Conflict(
            f"run {record.name!r} cannot be exported: its settings make no sense ({error})"
        ) from error


def _export_pool(
    unit: Unit, folder: Folder, number: int, pool_id: int, length: int
) -> dict[str, Any]:
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
    """Model versions without their wrapping; one that cannot be read is only marked as damaged.

    The log makes up for it.
    """
    for version in versions:
        try:
            state = as_safetensors(bytes(version["state"]))
        except ValueError as error:
            _log.warning(
                "a damaged model is left out", model_version=version["version"], cause=str(error)
            )
            yield {name: value for name, value in version.items() if name != "state"} | {
                "damaged": True
            }
        else:
            yield {**version, "state": state}

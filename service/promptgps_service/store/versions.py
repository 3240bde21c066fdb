"""Model versions and the metrics of the steps that led to them."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select

from promptgps_service.store.clock import utc_now
from promptgps_service.store.named import insert_named
from promptgps_service.store.records import StepRecord, VersionRecord
from promptgps_service.store.tables import model_versions, snapshots, steps

# A version older than these serves nobody: the log can rebuild it. A snapshot keeps its own.
VERSIONS_KEPT = 2


class Versions:
    """Model versions over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def latest(self, run_id: int, *, below: int | None = None) -> VersionRecord | None:
        """The newest version of a run (below another one), if it has one."""
        query = select(model_versions).where(model_versions.c.run_id == run_id)
        if below is not None:
            query = query.where(model_versions.c.version < below)

        row = self._connection.execute(
            query.order_by(model_versions.c.version.desc()).limit(1)
        ).one_or_none()
        if row is None:
            return None

        return VersionRecord(row.version, row.trained_through, row.predictor, bytes(row.state))

    def served(self, run_id: int) -> str | None:
        """Predictor that the newest version serves; None where there is none."""
        return self._connection.execute(
            select(model_versions.c.predictor)
            .where(model_versions.c.run_id == run_id)
            .order_by(model_versions.c.version.desc())
            .limit(1)
        ).scalar_one_or_none()

    def add(self, run_id: int, record: VersionRecord) -> bool:
        """Store a version; false where there is one of that number."""
        return insert_named(
            self._connection,
            insert(model_versions).values(
                run_id=run_id,
                version=record.version,
                trained_through=record.trained_through,
                predictor=record.predictor,
                state=record.state,
                created_at=utc_now(),
            ),
        )

    def drop_old(self, run_id: int, newest: int) -> None:
        """Drop versions that nobody needs once there is a newer one; the run must be locked.

        Version 0, what a warm start began with, stays: the log alone cannot rebuild it.
        """
        pinned = select(snapshots.c.model_version).where(
            snapshots.c.run_id == run_id, snapshots.c.superseded_in == 0
        )
        self._connection.execute(
            delete(model_versions).where(
                model_versions.c.run_id == run_id,
                model_versions.c.version.between(1, newest - VERSIONS_KEPT),
                model_versions.c.version.not_in(pinned),
            )
        )

    def add_step(
        self, run_id: int, version: int, through: int, metrics: dict[str, float | None]
    ) -> None:
        """Keep the metrics of a learned step."""
        self._connection.execute(
            insert(steps).values(
                run_id=run_id,
                version=version,
                trained_through=through,
                metrics=metrics,
                created_at=utc_now(),
            )
        )

    def metrics(
        self, run_id: int, *, since: int = 0, every: int = 1, limit: int | None = None
    ) -> list[StepRecord]:
        """Steps in order; what is not answered is not read.

        Args:
            run_id: the run.
            since: first version that is wanted.
            every: of the steps from there on, this one and every k-th after it.
            limit: most steps.
        """
        place = func.row_number().over(order_by=steps.c.version) - 1
        later = (
            select(steps.c.version, place.label("place"))
            .where(steps.c.run_id == run_id, steps.c.version >= since)
            .subquery()
        )
        chosen = (
            select(later.c.version)
            .where(later.c.place % every == 0)
            .order_by(later.c.version)
            .limit(limit)
        )
        return self._steps(run_id, steps.c.version.in_(chosen.scalar_subquery()))

    def newest_metrics(self, run_id: int, limit: int) -> list[StepRecord]:
        """The newest steps, in order."""
        newest = (
            select(steps.c.version)
            .where(steps.c.run_id == run_id)
            .order_by(steps.c.version.desc())
            .limit(limit)
        )
        return self._steps(run_id, steps.c.version.in_(newest.scalar_subquery()))

    def _steps(self, run_id: int, which: ColumnElement[bool]) -> list[StepRecord]:
        query = select(steps).where(steps.c.run_id == run_id, which).order_by(steps.c.version)
        return [
            StepRecord(row.version, row.trained_through, row.metrics)
            for row in self._connection.execute(query)
        ]

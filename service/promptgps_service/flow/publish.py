"""A fitted state becomes the run's model version.

Not so where another process has learned the run in the meantime.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from promptgps_service.flow.step_metrics import Metrics
from promptgps_service.store.records import VersionRecord
from promptgps_service.store.states import OPEN
from promptgps_service.store.unit import Unit


class Overtaken(Exception):
    """The run is no longer what the state was learned from.

    Whoever publishes drops the state and loads what is stored.
    """


@dataclass(frozen=True)
class Origin:
    """Whose state it is, and what it was learned from.

    Attributes:
        worker: what the publishing process is called among the workers.
        epoch: of the run.
        revision: of its settings.
        version: published version that it goes on from.
    """

    run_id: int
    worker: str | None
    epoch: int
    revision: int
    version: int


def publish(unit: Unit, origin: Origin, record: VersionRecord, steps: Sequence[Metrics]) -> None:
    """Store a version with the metrics of the steps that led to it, and make it the run's.

    The state goes first: it is large, and selections need not wait for it. Then, with the run and
    its lease held, all that this goes on from must still be so.

    Raises:
        Overtaken: it is not; the unit of work must not be committed.
        RunGone: the run was deleted; the same.
    """
    new = unit.versions.add(origin.run_id, record)
    head = unit.runs.lock(origin.run_id)
    if head.state != OPEN:
        raise Overtaken(f"the run is {head.state}")

    holder = unit.leases.holder(origin.run_id, keep=True)
    if holder is None or holder != origin.worker:
        raise Overtaken(f"the run is held by {holder or 'nobody'}, not by {origin.worker}")
    if (head.epoch, head.revision) != (origin.epoch, origin.revision):
        raise Overtaken("the run was put back to a snapshot, or has other settings")
    if not new or head.model_version != origin.version:
        raise Overtaken(
            f"version {head.model_version} is published, this goes on from {origin.version}"
        )
    if record.version <= head.model_version or record.trained_through < head.trained_through:
        raise Overtaken(f"version {record.version} would be a step back from {head.model_version}")

    for version, metrics in enumerate(steps, start=origin.version + 1):
        unit.versions.add_step(origin.run_id, version, record.trained_through, metrics)

    unit.runs.advance(
        origin.run_id, model_version=record.version, trained_through=record.trained_through
    )
    unit.versions.drop_old(origin.run_id, record.version)

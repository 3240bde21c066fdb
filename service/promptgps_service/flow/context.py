"""What the use cases share: the store, the lane, the pools' vectors, and the runs this process knows."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch

from promptgps_service.errors import Unavailable
from promptgps_service.flow.feature_space import FeatureSpace
from promptgps_service.flow.lane import Lane
from promptgps_service.flow.limits import Limits
from promptgps_service.flow.run_state import RunState, ScoreTable
from promptgps_service.flow.stillness import Stillness
from promptgps_service.flow.trainer import Learning, Trainer
from promptgps_service.store.records import RunRecord, Segment
from promptgps_service.store.unit import Store, Unit

LEASE_SECONDS = 10.0


@dataclass
class Desk:
    """A run in this process: its state, and the trainer that owns its model on the lane."""

    state: RunState
    trainer: Trainer


class Context:
    """Composition of one process; made once, closed once."""

    def __init__(
        self, store: Store, *, device: torch.device, learning: Learning, lane_depth: int,
        lease_seconds: float = LEASE_SECONDS, limits: Limits | None = None,
    ) -> None:  # fmt: skip
        self.store = store
        self.limits = limits or Limits()
        self.waiting = threading.BoundedSemaphore(self.limits.waiting)
        self.device = device
        self.learning = learning
        self.lane = Lane(str(device), lane_depth)
        self.features = FeatureSpace(store, device, self.limits.embedding_root)
        self.imports = Stillness()
        self.import_seconds = 2 * lease_seconds  # an import shows a sign of life only with each chunk
        self._desks: dict[str, Desk] = {}
        self._opening = threading.Lock()
        self._all_open = False

    def close(self) -> None:
        """Stop learning and close the database; what was acknowledged is in the log."""
        self.lane.stop()
        self.store.close()

    def desk(self, name: str) -> Desk:
        """The run of that name, read from the database on first use.

        Raises:
            NotFound: there is none.
        """
        found = self._desks.get(name)
        if found is not None:
            return found
        with self._opening:
            if name not in self._desks:
                with self.store.read() as unit:
                    record = unit.runs.get(name)
                state = RunState(record, self.device)
                self.catch_up(state)
                trainer = Trainer(self.store, self.features, self.lane, state, self.learning, self.catch_up)
                self.lane.call(trainer.load)
                self._desks[name] = Desk(state, trainer)
                trainer.wake()
            return self._desks[name]

    def served(self, name: str) -> ScoreTable | None:
        """What this process serves of a run, if it has opened it."""
        desk = self._desks.get(name)
        return None if desk is None else desk.state.table

    def open_all(self) -> None:
        """Read every run, so that the first request after a restart does not wait for it."""
        with self.store.read() as unit:
            names = [record.name for record in unit.runs.all()]
        for name in names:
            self.desk(name)
        self._all_open = True

    def states(self) -> list[RunState]:
        """The runs that this process has opened."""
        return [desk.state for desk in list(self._desks.values())]

    def checks(self) -> dict[str, str]:
        """Readiness part by part: `ok`, or what is wrong."""
        checks = {"lane": "ok" if self.lane.alive else "the training lane has stopped"}
        checks["runs"] = "ok" if self._all_open else "runs are being read"
        try:
            current = self.store.is_current()
            checks["database"] = "ok"
            checks["migrations"] = "ok" if current else "the schema is not the newest: run `promptgps migrate`"
        except Unavailable as error:
            checks["database"] = error.detail
        return checks

    def catch_up(self, state: RunState) -> None:
        """Bring a run's state up to the database."""
        with self.store.read() as unit:
            self.catch_up_in(unit, state, unit.runs.get(state.name))

    def catch_up_in(self, unit: Unit, state: RunState, record: RunRecord) -> None:
        """The same inside a unit of work that already has the run's heads; costs nothing when up to date."""
        with state.lock:
            segments = unit.runs.segments(state.id, after=state.rows)
            if segments:
                state.add_rows(segments, self.features.identity(unit, segments))
            if record.selections > state.ordinal:
                for selection in unit.selections.since(state.id, state.ordinal):
                    state.apply_selection(selection)
            if record.log_position > state.log_position:
                state.apply_log(unit.log.after(state.id, state.log_position))

    def add_grown_rows(self, unit: Unit, state: RunState) -> bool:
        """Give a run the prompts that its pools have got since; its run must be locked in the unit of work."""
        taken: dict[int, int] = {}
        for segment in state.segments:
            taken[segment.pool_id] = segment.start + segment.count
        offset, added = state.rows, []
        for share in state.settings.pools:
            pool = unit.pools.get(share.pool)
            start = taken.get(pool.id, 0)
            if pool.prompts > start:
                added.append(Segment(offset, pool.id, start, pool.prompts - start))
                offset += pool.prompts - start
        for segment in added:
            unit.runs.add_segment(state.id, segment)
        return bool(added)

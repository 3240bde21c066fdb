"""What the use cases share: the store, the lane, the pools' vectors, and the runs that this process has opened."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass

import torch

from promptgps_service.flow import readiness
from promptgps_service.flow.feature_space import FeatureSpace
from promptgps_service.flow.follow import POLL_SECONDS, Follower
from promptgps_service.flow.lane import Lane
from promptgps_service.flow.leases import LEASE_SECONDS, Leases
from promptgps_service.flow.limits import Limits
from promptgps_service.flow.run_state import RunState
from promptgps_service.flow.stillness import Stillness
from promptgps_service.flow.ticker import Ticker
from promptgps_service.flow.trainer import Learning, Trainer
from promptgps_service.store.records import RunRecord, Segment
from promptgps_service.store.unit import Store, Unit

PROBE_SECONDS = 1.0


@dataclass
class Desk:
    """A run in this process: its state, and the trainer that owns its model on the lane."""

    state: RunState
    trainer: Trainer


class Context:
    """Composition of one process; made once, closed once."""

    def __init__(
        self, store: Store, *, device: torch.device, learning: Learning, lane_depth: int,
        poll_seconds: float = POLL_SECONDS, lease_seconds: float = LEASE_SECONDS,
        limits: Limits | None = None,
    ) -> None:  # fmt: skip
        self.store = store
        self.limits = limits or Limits()
        self.waiting = threading.BoundedSemaphore(self.limits.waiting)
        self.device = device
        self.learning = learning
        self.lane = Lane(str(device), lane_depth)
        self.features = FeatureSpace(store, device, self.limits.embedding_root)
        self.leases = Leases(store, lease_seconds)
        self.imports = Stillness()
        self.import_seconds = 2 * lease_seconds  # an import shows a sign of life only with each chunk
        self._poll_seconds = poll_seconds
        self._tickers = {"leases": Ticker("leases", self.leases.pause, self.leases.beat)}
        self._desks: dict[str, Desk] = {}
        self._opening = threading.Lock()
        self._all_open = False

    def follow(self, only: Collection[str] | None = None) -> None:
        """Follow from now on what other processes write, and learn their runs, or ``only`` those of these names."""
        self._tickers["follow"] = Ticker("follow", self._poll_seconds, Follower(self, only).look)

    def probe_writes(self) -> None:
        """Find out from now on whether the database takes writes, also where nobody writes."""
        self._tickers[readiness.WRITES] = Ticker(readiness.WRITES, PROBE_SECONDS, self.store.probe_writes)

    def watch(self, name: str, ticker: Ticker) -> None:
        """Make readiness depend on a thread of somebody else, who also stops it."""
        self._tickers[name] = ticker

    def close(self) -> None:
        """Stop learning, give the runs back and close the database; what was acknowledged is in the log."""
        for name in ("follow", readiness.WRITES):
            if name in self._tickers:
                self._tickers[name].stop()
        self.lane.stop()
        self._tickers["leases"].stop()  # what the lane was learning to its end was still this process's to learn
        self.leases.leave()
        self.store.close()

    def opened(self, name: str) -> Desk | None:
        """The run of that name, if this process has opened it."""
        return self._desks.get(name)

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
                trainer = Trainer(
                    self.store, self.features, self.lane, state, self.learning, self.leases, self.catch_up
                )
                self.lane.call(trainer.load)
                self._desks[name] = Desk(state, trainer)
                trainer.refresh()  # from here on the follower knows the run; what it has passed over until now
                trainer.wake()
            return self._desks[name]

    def open_all(self) -> None:
        """Read every run, so that the first request after a restart does not wait for it."""
        with self.store.read() as unit:
            names = [record.name for record in unit.runs.all()]
        for name in names:
            self.desk(name)
        self._all_open = True

    def desks(self) -> list[Desk]:
        """The runs that this process has opened."""
        return list(self._desks.values())

    @property
    def alive(self) -> bool:
        """Whether every thread of the process still works."""
        return self.lane.alive and all(ticker.alive for ticker in self._tickers.values())

    def checks(self) -> dict[str, str]:
        """Readiness part by part: `ok`, or what is wrong."""
        return readiness.check(self.store, self.lane, self._tickers, runs_are_read=self._all_open)

    def catch_up(self, state: RunState) -> RunRecord:
        """Bring a run's state up to the database; answers the heads that it has come to."""
        with self.store.read() as unit:
            record = unit.runs.get(state.name)
            self.catch_up_in(unit, state, record)
        return record

    def catch_up_in(self, unit: Unit, state: RunState, record: RunRecord) -> None:
        """The same inside a unit of work that already has the run's heads; costs nothing when up to date."""
        with state.lock:
            if record.epoch < state.epoch:
                return  # read before a restore that the state has seen
            if record.epoch > state.epoch:
                state.rewind(record.epoch)
            if record.revision > state.revision:
                state.retune(record)
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

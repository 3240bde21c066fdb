"""What the use cases share: the store, the lane, the pools' vectors, and the runs that this process has opened."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass

import torch

from promptgps_service.errors import NotFound, NotOpen, Unavailable
from promptgps_service.flow.feature_space import FeatureSpace
from promptgps_service.flow.follow import POLL_SECONDS, Follower
from promptgps_service.flow.lane import Lane
from promptgps_service.flow.leases import LEASE_SECONDS, Leases
from promptgps_service.flow.limits import Limits
from promptgps_service.flow.run_state import RunState
from promptgps_service.flow.states import require_open
from promptgps_service.flow.stillness import Stillness
from promptgps_service.flow.sweep import Sweeper
from promptgps_service.flow.ticker import Ticker
from promptgps_service.flow.trainer import Learning, Trainer
from promptgps_service.store.records import RunRecord, Segment
from promptgps_service.store.states import ARCHIVED, OPEN
from promptgps_service.store.unit import Store, Unit

# So long without an answer from the database, or with one job, and a load balancer should ask another process.
SILENCE_SECONDS = 15.0
RESTING = Learning(enabled=False, groups=1, seconds=0.0)
MOST_RESTING = 2  # archived runs that are kept in memory after a prediction


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
        self.sweeper = Sweeper(store)
        self.imports = Stillness()
        self.import_seconds = 2 * lease_seconds  # an import shows a sign of life only with each chunk
        self._poll_seconds = poll_seconds
        self._tickers = {"leases": Ticker("leases", self.leases.pause, self.leases.beat)}
        self._desks: dict[str, Desk] = {}
        self._resting: dict[int, Desk] = {}  # of archived runs, by id, opened for a prediction
        self._opening = threading.Lock()
        self._all_open = False

    def follow(self, only: Collection[str] | None = None) -> None:
        """Follow from now on what other processes write, and learn their runs, or ``only`` those of these names."""
        self._tickers["follow"] = Ticker("follow", self._poll_seconds, Follower(self, only).look)
        self.sweeper.wake()  # a process that was killed may have left something half deleted

    def close(self) -> None:
        """Stop learning, give the runs back and close the database; what was acknowledged is in the log."""
        if "follow" in self._tickers:
            self._tickers["follow"].stop()
        self.lane.stop()
        self._tickers["leases"].stop()  # what the lane was learning to its end was still this process's to learn
        self.leases.leave()
        self.sweeper.close()
        self.store.close()

    def opened(self, name: str) -> Desk | None:
        """The run of that name, if this process has opened it."""
        return self._desks.get(name)

    def desk(self, name: str) -> Desk:
        """The run of that name, read from the database on first use.

        Raises:
            NotFound: there is none.
            NotOpen: it is archived or faulty.
        """
        found = self._desks.get(name)
        if found is not None:
            return found
        with self._opening:
            if name not in self._desks:
                with self.store.read() as unit:
                    record = unit.runs.get(name)
                    require_open(unit, record)
                self._resting.pop(record.id, None)
                self._desks[name] = desk = self._read(record, self.learning)
                self._close_if_over(desk)
                desk.trainer.refresh()  # from here on the follower knows the run; what it has passed over until now
                desk.trainer.wake()
                return desk
            return self._desks[name]

    def _read(self, record: RunRecord, learning: Learning) -> Desk:
        state = RunState(record, self.device)
        self.catch_up(state)
        trainer = Trainer(self.store, self.features, self.lane, state, learning, self.leases, self.catch_up)
        self.lane.call(trainer.load)
        return Desk(state, trainer)

    def _close_if_over(self, desk: Desk) -> None:
        """Look again at a run that was just opened: it may have been put away meanwhile."""
        with self.store.read() as unit:
            record = unit.runs.find(desk.state.name)
        if record is None or record.id != desk.state.id or record.state != OPEN:
            self.drop_id(desk.state.id)

    def desk_to_read(self, name: str) -> Desk:
        """The run of that name for a prediction, also one that is archived.

        An archived run is read from the database as it stands, learns nothing, and is kept only until some other
        archived runs have been asked for.

        Raises:
            NotFound: there is none.
            NotOpen: it is faulty.
        """
        found = self._desks.get(name)
        if found is not None:
            return found
        with self.store.read() as unit:
            record = unit.runs.get(name)
        if record.state != ARCHIVED:
            return self.desk(name)
        with self._opening:
            if record.id not in self._resting:
                self._resting[record.id] = self._read(record, RESTING)
                while len(self._resting) > MOST_RESTING:
                    self._resting.pop(next(iter(self._resting)))
                self._forget_pools()
            return self._resting[record.id]

    def drop(self, name: str) -> None:
        """Forget the run of that name, if this process has opened it; in the database nothing changes."""
        desk = self._desks.get(name)
        if desk is not None:
            self.drop_id(desk.state.id)

    def drop_id(self, run_id: int) -> None:
        """The same, by id: another run may have the name by now."""
        self._resting.pop(run_id, None)
        for name, desk in list(self._desks.items()):
            if desk.state.id == run_id and self._desks.get(name) is desk:
                del self._desks[name]
                desk.state.end()
                self.leases.forget(run_id)
        self._forget_pools()

    def _forget_pools(self) -> None:
        desks = [*self._desks.values(), *self._resting.values()]
        self.features.keep_only({segment.pool_id for desk in desks for segment in desk.state.segments})

    def open_all(self) -> None:
        """Read every run, so that the first request after a restart does not wait for it."""
        with self.store.read() as unit:
            names = [record.name for record in unit.runs.all() if record.state == OPEN]
        for name in names:
            try:
                self.desk(name)
            except (NotFound, NotOpen):  # put away since
                continue
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
        checks = {"lane": "ok" if self.lane.alive else "the training lane has stopped"}
        checks["runs"] = "ok" if self._all_open else "runs are being read"
        for name, ticker in self._tickers.items():
            silent = ticker.silence
            checks[name] = "ok" if silent < SILENCE_SECONDS else f"not done for {silent:.0f} s"
        try:
            current = self.store.is_current()
            checks["database"] = "ok"
            checks["migrations"] = "ok" if current else "the schema is not the newest: run `promptgps migrate`"
        except Unavailable as error:
            checks["database"] = error.detail
        return checks

    def catch_up(self, state: RunState) -> RunRecord:
        """Bring a run's state up to the database; answers the heads that it has come to.

        Raises:
            RunGone: the run was deleted.
        """
        with self.store.read() as unit:
            record = unit.runs.by_id(state.id)
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

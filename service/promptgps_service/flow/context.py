"""What the use cases share: the store, the device, the pools' vectors and the opened runs.

The runs are those that this process has opened.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog
import torch

from promptgps_service.errors import Busy, NotOpen, PromptGPSError, RunGone, Unavailable
from promptgps_service.flow import readiness
from promptgps_service.flow.catch_up import catch_up
from promptgps_service.flow.device_queue import CALLERS, DeviceQueue
from promptgps_service.flow.faults import PASSING, is_short_of_memory
from promptgps_service.flow.feature_space import FeatureSpace
from promptgps_service.flow.follow import POLL_SECONDS, Follower
from promptgps_service.flow.keyed_locks import KeyedLocks
from promptgps_service.flow.leases import LEASE_SECONDS, Leases
from promptgps_service.flow.limits import Limits
from promptgps_service.flow.run_state import RunState
from promptgps_service.flow.states import require_open
from promptgps_service.flow.stillness import Stillness
from promptgps_service.flow.sweep import Sweeper
from promptgps_service.flow.ticker import Ticker
from promptgps_service.flow.trainer import Learning, Trainer
from promptgps_service.store.records import RunRecord
from promptgps_service.store.states import ARCHIVED, FAULTY, OPEN
from promptgps_service.store.unit import Store

_log = structlog.get_logger(__name__)

PROBE_SECONDS = 1.0
RESTING = Learning(enabled=False, groups=1, seconds=0.0)
MOST_RESTING = 2  # archived runs that are kept in memory after a prediction
FAULT_LENGTH = 1_000  # characters of a reason that are kept


@dataclass
class Desk:
    """A run in this process: its state, and the trainer that owns its model."""

    state: RunState
    trainer: Trainer


class Context:
    """Composition of one process; made once, closed once."""

    def __init__(
        self,
        store: Store,
        *,
        device: torch.device,
        learning: Learning,
        callers: int = CALLERS,
        poll_seconds: float = POLL_SECONDS,
        lease_seconds: float = LEASE_SECONDS,
        limits: Limits | None = None,
    ) -> None:
        self.store = store
        self.limits = limits or Limits()
        self.waiting = threading.BoundedSemaphore(self.limits.waiting)
        self.device = device
        self.learning = learning
        self.queue = DeviceQueue(str(device), callers)
        self.features = FeatureSpace(store, device, self.limits.embedding_root)
        self.leases = Leases(store, lease_seconds)
        self.sweeper = Sweeper(store)
        self.imports = Stillness()
        # An import shows a sign of life only with each chunk.
        self.import_seconds = 2 * lease_seconds
        self._poll_seconds = poll_seconds
        self._tickers = {"leases": Ticker("leases", self.leases.pause, self.leases.beat)}
        self._desks: dict[str, Desk] = {}
        self._resting: dict[int, Desk] = {}  # of archived runs, by id, opened for a prediction
        self._resting_lock = threading.Lock()
        self._opening = KeyedLocks()
        self._opener = ThreadPoolExecutor(1, "open-runs")
        self._all_open = False

    def follow(self, only: Collection[str] | None = None) -> None:
        """Follow from now on what other processes write, and learn their runs.

        With ``only``: those of these names.
        """
        follower = Follower(self, only)
        self._tickers["follow"] = Ticker("follow", self._poll_seconds, follower.look)
        self.sweeper.wake()  # a process that was killed may have left something half deleted

    def probe_writes(self) -> None:
        """Find out from now on whether the database takes writes, also where nobody writes."""
        self._tickers[readiness.WRITES] = Ticker(
            readiness.WRITES, PROBE_SECONDS, self.store.probe_writes
        )

    def watch(self, name: str, ticker: Ticker) -> None:
        """Make readiness depend on a thread of somebody else, who also stops it."""
        self._tickers[name] = ticker

    def close(self) -> None:
        """Stop learning, give the runs back and close the database.

        What was acknowledged is in the log.
        """
        for name in ("follow", readiness.WRITES):
            if name in self._tickers:
                self._tickers[name].stop()

        self._opener.shutdown(wait=False, cancel_futures=True)
        self.queue.stop()
        self._tickers[
            "leases"
        ].stop()  # what was being learned to its end was still this process's to learn
        self._opener.shutdown()
        self.leases.leave()
        self.sweeper.close()
        self.store.close()

    # ---- runs --------------------------------------------------------------------------------

    def opened(self, name: str) -> Desk | None:
        """The run of that name, if this process has opened it."""
        return self._desks.get(name)

    def desks(self) -> list[Desk]:
        """The runs that this process has opened."""
        return list(self._desks.values())

    def desk(self, name: str) -> Desk:
        """The run of that name, read from the database on first use.

        Raises:
            NotFound: there is none.
            NotOpen: it is archived, or broken.
        """
        found = self._desks.get(name)
        if found is not None:
            return found
        with self._opening[name]:
            return self._desks.get(name) or self._open(name)

    def _open(self, name: str) -> Desk:
        with self.store.read() as unit:
            record = unit.runs.get(name)
            require_open(unit, record)

        with self._resting_lock:
            self._resting.pop(record.id, None)

        desk = self._desks[name] = self._read(record, self.learning)
        self._drop_if_put_away(desk)
        # From here on the follower knows the run; what it has passed over until now.
        desk.trainer.follow()
        desk.trainer.wake()

        return desk

    def _read(self, record: RunRecord, learning: Learning) -> Desk:
        """Build a run as the database has it.

        Raises:
            NotOpen: it cannot be built; it is out of service from now on.
            Busy: there is no room for it now.
        """
        try:
            state = RunState(record, self.device)
            self.catch_up(state)
            trainer = Trainer(
                self.store,
                self.features,
                self.queue,
                state,
                learning,
                self.leases,
                self.catch_up,
                lambda doing, error: self.mark_faulty(record, doing, error),
            )
            self.queue.call(trainer, trainer.load)
        except PASSING:
            raise
        except Exception as error:
            if is_short_of_memory(error):
                raise Busy(
                    f"there is not enough memory to open run {record.name!r}", 10.0
                ) from error
            raise self.mark_faulty(record, "open", error) from error

        return Desk(state, trainer)

    def _drop_if_put_away(self, desk: Desk) -> None:
        """Look again at a run that was just opened: it may have been put away meanwhile."""
        with self.store.read() as unit:
            record = unit.runs.find(desk.state.name)
        if record is None or record.id != desk.state.id or record.state != OPEN:
            self.drop_id(desk.state.id)

    def desk_to_read(self, name: str) -> Desk:
        """The run of that name for a prediction, also one that is archived.

        An archived run is read from the database as it stands, learns nothing, and is kept only
        until some other archived runs have been asked for.

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

        with self._opening[name]:
            desk = self._resting.get(record.id)
            if desk is None:
                desk = self._read(record, RESTING)
                self._let_rest(desk)
            return desk

    def _let_rest(self, desk: Desk) -> None:
        with self._resting_lock:
            self._resting[desk.state.id] = desk
            while len(self._resting) > MOST_RESTING:
                self._resting.pop(next(iter(self._resting)))
        self._forget_pools()

    def open_soon(self, record: RunRecord) -> None:
        """Open a run that this process is to learn, without waiting for it."""
        self._opener.submit(self._open_to_learn, record)

    def _open_to_learn(self, record: RunRecord) -> None:
        try:
            self.desk(record.name).trainer.wake(record.wanted)
        except PromptGPSError as error:
            _log.warning("a run is not taken on", run=record.name, cause=error.detail)
            self.leases.forget(record.id)
        # One run's fault must not keep the others from being opened.
        except Exception:  # noqa: BLE001
            _log.exception("a run is not taken on", run=record.name)
            self.leases.forget(record.id)

    def open_all(self) -> None:
        """Read every run, so that the first request after a restart does not wait for it.

        Raises:
            Unavailable: the database does not answer.
        """
        with self.store.read() as unit:
            names = [record.name for record in unit.runs.all() if record.state == OPEN]

        for name in names:
            try:
                self.desk(name)
            except Unavailable:
                raise
            except PromptGPSError as error:
                _log.warning("a run is not opened", run=name, cause=error.detail)

        self._all_open = True

    @property
    def in_memory(self) -> set[int]:
        """Ids of the runs that this process has in memory, asked-for archived ones too."""
        return {desk.state.id for desk in [*self._desks.values(), *self._resting.values()]}

    def drop(self, name: str) -> None:
        """Forget the run of that name, if this process has opened it; the database keeps it."""
        desk = self._desks.get(name)
        if desk is not None:
            self.drop_id(desk.state.id)

    def drop_id(self, run_id: int) -> None:
        """The same, by id: another run may have the name by now."""
        with self._resting_lock:
            self._resting.pop(run_id, None)

        for name, desk in list(self._desks.items()):
            if desk.state.id == run_id and self._desks.get(name) is desk:
                del self._desks[name]
                desk.state.end()
                self.queue.forget(desk.trainer)
                self.leases.forget(run_id)

        self._forget_pools()

    def _forget_pools(self) -> None:
        desks = [*self._desks.values(), *self._resting.values()]
        pools = {segment.pool_id for desk in desks for segment in desk.state.segments}
        self.features.keep_only(pools)

    def mark_faulty(self, record: RunRecord, doing: str, error: Exception) -> PromptGPSError:
        """Take a run out of service that cannot be opened, loaded or learned; all others go on.

        Args:
            record: of the run.
            doing: what was being done.
            error: what went wrong.

        Returns:
            What callers of the run are told.
        """
        fault = f"{doing}: {type(error).__name__}: {error}"[:FAULT_LENGTH]
        _log.error(
            "a run is broken, and out of service", run=record.name, fault=fault, exc_info=error
        )
        self.drop_id(record.id)

        try:
            with self.store.write() as unit:
                now = unit.runs.lock(record.id)
                if now.state == OPEN:
                    unit.runs.set_state(record.id, FAULTY, fault)
                    unit.leases.release(record.id)
                    unit.events.add("run-faulty", run=record.name, detail={"fault": fault})
            with self.store.read() as unit:
                require_open(unit, unit.runs.by_id(record.id))
        except (NotOpen, RunGone) as told:
            return told
        except Unavailable as away:  # whoever opens it next finds out anew
            _log.warning("the fault is not written down", run=record.name, cause=away.detail)

        return NotOpen(f"run {record.name!r} is faulty: {fault}")

    # ---- the process -------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether every thread of the process still works."""
        return self.queue.alive and all(ticker.alive for ticker in self._tickers.values())

    def checks(self) -> dict[str, str]:
        """Readiness part by part: `ok`, or what is wrong."""
        return readiness.check(self.store, self.queue, self._tickers, runs_are_read=self._all_open)

    def catch_up(self, state: RunState) -> RunRecord:
        """Bring a run's state up to the database; answers the heads that it has come to."""
        return catch_up(self.store, self.features, state)

"""Learning: from the log to a new model version, scored over the whole pool, stored, then swapped in one go.

In a process that does not learn a run, the versions that another one has published are loaded, scored and swapped.
Everything here runs on the lane, so a trainer needs no lock of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from promptgps_service.errors import RunGone, Unavailable
from promptgps_service.flow.feature_space import FeatureSpace, Matrix
from promptgps_service.flow.lane import Lane
from promptgps_service.flow.leases import Leases
from promptgps_service.flow.publish import Origin, Overtaken, publish
from promptgps_service.flow.run_state import RunState, ScoreTable
from promptgps_service.flow.step_metrics import Metrics, step_metrics
from promptgps_service.flow.steps import Step, at_most, due, split_steps, waits
from promptgps_service.flow.timeline import Timeline
from promptgps_service.flow.warm_start import PINNED, framing, places, source_segments, state_and_rows
from promptgps_service.model.checkpoint import pack, unpack
from promptgps_service.model.features import Features
from promptgps_service.model.panel import Panel
from promptgps_service.model.predictor import Posterior
from promptgps_service.model.registry import make_predictor
from promptgps_service.store.records import LogSlice, RunRecord, VersionRecord
from promptgps_service.store.unit import Store

_log = structlog.get_logger(__name__)
RETRY_SECONDS = 1.0  # after the database did not answer
BASELINES = ("beta", "ridge", "constant")


@dataclass(frozen=True)
class Learning:
    """When to learn.

    Attributes:
        enabled: false in a process that only serves.
        groups: complete groups that are learned from without waiting for the rest of their step.
        seconds: longest time that the outcomes of an unfinished step wait, unless the trainer waits for the model:
            then they wait until it asks.
    """

    enabled: bool
    groups: int
    seconds: float


class Trainer:
    """Owner of one run's predictor."""

    def __init__(
        self, store: Store, features: FeatureSpace, lane: Lane, state: RunState, learning: Learning, leases: Leases,
        catch_up: Callable[[RunState], RunRecord],
    ) -> None:  # fmt: skip
        self._store = store
        self._leases = leases
        self._catch_up = catch_up
        self._features = features
        self._lane = lane
        self._state = state
        self._learning = learning
        self._predictor: Panel | None = None
        self._matrix: Matrix | None = None
        self._identity = ""
        self._epoch = 0
        self._revision = 0
        self._version = 0
        self._through = 0
        self._timeline = Timeline()
        self._informed = False
        self._waiting_since: float | None = None

    # ---- called from any thread ----------------------------------------------------------------------------

    def wake(self, wanted: int = 0) -> None:
        """Something was reported: learn when there is enough, and in any case up to what somebody waits for."""
        if self._learning.enabled:
            self._state.wanted = max(self._state.wanted, wanted)
            self._lane.submit(("learn", self), self._learn)

    def ask(self, position: int) -> None:
        """Somebody waits for the model to learn up to a position: here, or in the process that holds the run.

        Raises:
            Unavailable: the database does not answer.
        """
        self.wake(position)
        if not self._leases.holds(self._state.id):
            with self._store.write() as unit:
                unit.runs.want(self._state.id, position)

    def learn(self, position: int) -> None:
        """Learn up to a position of the log, and return when that is published.

        Raises:
            Busy: the lane is full.
            Unavailable: the database does not answer.
        """
        self._state.wanted = max(self._state.wanted, position)
        self._lane.call(self._learn_if_held)

    def update(self) -> None:
        """Serve what the database has now: rows, settings, epoch or version are others; from the log if need be.

        Raises:
            Busy: the lane is full.
            Unavailable: the database does not answer.
        """
        self._lane.call(self.load)

    def refresh(self) -> None:
        """The same, without waiting for it."""
        self._lane.submit(("load", self), self._refresh)

    def predict_new(
        self, embedding: NDArray[np.float32], texts: list[str] | None
    ) -> tuple[Posterior, ScoreTable]:
        """Posterior for prompts outside the pool, and the version that it comes from."""
        return self._lane.call(lambda: self._predict_new(embedding, texts))

    # ---- on the lane ---------------------------------------------------------------------------------------

    def load(self) -> None:
        """Build the predictor over the run's rows and serve the newest stored version, or the prior."""
        state = self._state
        record = self._catch_up(state)
        with state.lock:
            segments, rows = list(state.segments), state.rows
        served = (record.epoch, record.revision, record.model_version, rows)
        if self._predictor is not None and state.table is not None and state.table.made_of == served:
            return
        with self._store.read() as unit:
            framed_by = framing(unit, state.settings, segments)
        matrix = self._features.matrix(segments, framed_by)
        identity = str(state.settings.predictor())
        if self._predictor is not None and identity == self._identity and self._is_current(record):
            self._predictor.grow(matrix.features)
        else:  # the epoch is that of the heads: should a restore come in between, publishing finds out
            self._epoch, self._version = record.epoch, 0
            self._predictor = self._restored(identity, matrix)
            if self._through < record.trained_through:
                self._tell_what_is_lost(record)
        self._predictor.replaceable = bool(state.settings.selection.fallback)
        self._identity, self._matrix, self._revision = identity, matrix, record.revision
        self._serve()

    def _is_current(self, record: RunRecord) -> bool:
        """Whether the predictor comes from the published version."""
        return (record.epoch, record.model_version) == (self._epoch, self._version)

    def _tell_what_is_lost(self, record: RunRecord) -> None:
        """What the newest version had learned is to be learned again: the run is behind, which a worker sees."""
        self._state.wanted = max(self._state.wanted, record.trained_through)
        with self._store.write() as unit:
            now = unit.runs.lock(record.id)
            if (now.epoch, now.revision, now.model_version) == (record.epoch, record.revision, record.model_version):
                unit.runs.advance(record.id, trained_through=self._through)
                unit.runs.want(record.id, record.trained_through)

    def _refresh(self) -> None:
        if self._state.over:
            return
        try:
            self.load()
        except RunGone:
            self._state.end()
        except Unavailable:
            _log.warning("the database does not answer; loading waits", run=self._state.name)
            self._lane.submit(("load", self), self._refresh, RETRY_SECONDS)

    def _restored(self, identity: str, matrix: Matrix) -> Panel:
        """The newest stored state; at the start of a run, the prior, or what the run it is to start from has learned.

        A state of another predictor, or one that cannot be read, is left alone: the log is learned from where the one
        before it stopped, or from its start.
        """
        features = matrix.features
        self._through, self._timeline = 0, Timeline()
        self._informed = features.offline is not None
        with self._store.read() as unit:
            stored = unit.versions.latest(self._state.id)
        if stored is not None:
            self._version = stored.version
        while stored is not None:
            if stored.version == PINNED:
                self._informed = True
                return self._warm(stored, matrix)
            restored = self._loaded(stored, identity, features)
            if restored is not None:
                self._through, self._timeline = stored.trained_through, restored[1]
                return restored[0]
            with self._store.read() as unit:
                stored = unit.versions.latest(self._state.id, below=stored.version)
        return self._fresh(features)

    def _warm(self, pinned: VersionRecord, matrix: Matrix) -> Panel:
        with self._store.read() as unit:
            segments = source_segments(unit, self._state.settings)
        panel = self._fresh(matrix.features)
        state, rows = state_and_rows(pinned)
        panel.begin(state, places(self._features.matrix(segments).identity[:rows], matrix.identity))
        return panel

    def _loaded(
        self, stored: VersionRecord, identity: str, features: Features
    ) -> tuple[Panel, Timeline] | None:
        try:
            tensors, metadata = unpack(stored.state)
            if metadata["identity"] != identity:
                return None
            predictor = self._fresh(features.head(int(metadata["rows"])))
            predictor.load_state_dict(tensors)
            timeline = Timeline.load(metadata["timeline"])
        except (ValueError, KeyError) as error:
            _log.error(
                "a stored model cannot be read; what it had learned is learned anew",
                run=self._state.name, model_version=stored.version, cause=str(error),
            )  # fmt: skip
            return None
        if int(metadata["rows"]) < features.rows:  # the pools have grown since
            predictor.grow(features)
        return predictor, timeline

    def _fresh(self, features: Features) -> Panel:
        main, parameters = self._state.settings.predictor()
        members = [make_predictor(main, features, self._state.device, **parameters)]
        members += [make_predictor(name, features, self._state.device) for name in BASELINES if name != main]
        return Panel(members)

    def _learn(self) -> None:
        if self._state.over:
            return
        try:
            self._learn_if_held()
        except RunGone:
            _log.info("the run was deleted; what was learned is dropped", run=self._state.name)
            self._state.end()
        except Unavailable:
            _log.warning("the database does not answer; learning waits", run=self._state.name)
            self._lane.submit(("learn", self), self._learn, RETRY_SECONDS)

    def _learn_if_held(self) -> None:
        if not self._leases.hold(self._state.id):
            return  # another process learns this run, and its versions are loaded as they come
        try:
            self._learn_what_is_due()
        except Overtaken as reason:
            _log.warning("what was learned is dropped", run=self._state.name, cause=str(reason))
            self._predictor = None
            self._leases.forget(self._state.id)
            self.load()
            self.wake()
        except BaseException:
            # A fit that broke off half-way is not served and not learned on: the stored version stands.
            self._predictor = None
            raise

    def _learn_what_is_due(self) -> None:
        record = self._catch_up(self._state)
        if self._predictor is None or record.revision != self._revision or not self._is_current(record):
            self.load()
        part = self._log_after(self._through)
        with self._state.lock:
            if self._state.epoch != self._epoch:
                raise Overtaken("the run was put back to a snapshot")
            if self._state.log_position > part.head:  # what is due is a question to all that the state has counted
                part = part.then(self._log_after(part.head))
            steps, reached = self._due(part)
        if reached > self._through:
            self._waiting_since = None
            self._advance(steps, reached)
            if reached < part.head:  # there may be more to learn, once the others have had their turn
                self._lane.submit(("learn", self), self._learn)
        elif part and self._may_time_out(part):
            self._waiting_since = self._waiting_since or time.monotonic()
            self._lane.submit(("learn", self), self._learn, self._learning.seconds)

    def _log_after(self, position: int) -> LogSlice:
        """What the log has after a position, as far as the state knows it: lines refer to its draws."""
        with self._store.read() as unit:
            return unit.log.after(self._state.id, position, until=self._state.log_position)

    def _due(self, part: LogSlice) -> tuple[list[Step], int]:
        """Steps to learn from now, and the position of the log that they reach.

        Between what is due by itself and what somebody waits for the steps are cut at the same positions, whether the
        model finds the time for the one before it hears of the other or not.
        """
        state, groups = self._state, self._learning.groups
        waited = time.monotonic() - self._waiting_since if self._waiting_since is not None else 0.0
        late = waited >= self._learning.seconds and self._may_time_out(part)
        steps: list[Step] = []
        reached = part.start
        while reached < part.head:
            rest = part.after(reached)
            position = due(rest, state, groups)
            if reached < state.wanted < position or (position == reached < state.wanted):
                position = min(state.wanted, part.head)
            elif position == reached and late:
                position = part.head
            position, wanted = at_most(rest, state, position), position
            if position == reached:
                break
            steps += split_steps(rest.until(position), state, groups, self._timeline)
            reached = position
            if position < wanted:
                break
        return steps, reached

    def _may_time_out(self, part: LogSlice) -> bool:
        return not waits(self._state) or bool((part.draw < 0).all())

    def _advance(self, steps: list[Step], reached: int) -> None:
        assert self._predictor is not None
        state = self._state
        started = time.perf_counter()
        measured = []
        for step in steps:
            mean = self._predictor.predict().take(step.visits.rows).mean.cpu()
            served = self._predictor.served
            report = self._predictor.observe(step.visits, torch.from_numpy(step.uniform))
            measured.append(step_metrics(step, mean, served, report, state.settings.rollouts_per_prompt))
            if report.served != served or report.failed:
                _log.warning("predictors", run=state.name, served=report.served, failed=report.failed)
        version = self._version + max(len(measured), 1)
        fitted = time.perf_counter()
        table = self._table(version, reached)
        if measured:
            measured[-1] |= {"fit_seconds": fitted - started, "score_seconds": time.perf_counter() - fitted}
        self._store_version(version, reached, measured)
        self._version, self._through = version, reached
        state.publish(table)
        _log.info(
            "learned", run=state.name, model_version=version, trained_through=reached,
            seconds=round(time.perf_counter() - started, 4),
        )  # fmt: skip

    def _store_version(self, version: int, through: int, measured: list[Metrics]) -> None:
        """Until this is stored the predictor is ahead of the log's reader, so it must not be given up."""
        assert self._predictor is not None
        assert self._matrix is not None
        rows = str(self._matrix.features.rows)
        metadata = {"identity": self._identity, "rows": rows, "timeline": self._timeline.dump()}
        state = pack(self._predictor.state_dict(), metadata)
        record = VersionRecord(version, through, self._predictor.served, state)
        origin = Origin(self._state.id, self._leases.worker, self._epoch, self._revision, self._version)
        while True:
            try:
                with self._store.write() as unit:
                    publish(unit, origin, record, measured)
                return
            except Unavailable:
                _log.warning("the database does not answer; publishing waits", run=self._state.name)
                if not self._lane.rest(RETRY_SECONDS):
                    raise

    def _table(self, version: int, through: int) -> ScoreTable:
        assert self._predictor is not None
        assert self._matrix is not None
        posterior, rows = self._predictor.predict(), self._matrix.features.rows
        above = self._state.settings.selection.retire_above
        retired = None
        if above is not None:
            visited = (self._state.trials[:rows] > 0).to(self._state.device)
            retired = (posterior.mean > above) & visited
        informed = self._informed or through > 0
        return ScoreTable(self._epoch, self._revision, version, through, posterior, rows, retired, informed)

    def _serve(self) -> None:
        self._state.publish(self._table(self._version, self._through))

    def _predict_new(
        self, embedding: NDArray[np.float32], texts: list[str] | None
    ) -> tuple[Posterior, ScoreTable]:
        if self._predictor is None:
            self.load()
        assert self._predictor is not None
        assert self._matrix is not None
        assert self._state.table is not None
        x = self._features.new_features(self._matrix, embedding, texts)
        return self._predictor.predict_new(x), self._state.table


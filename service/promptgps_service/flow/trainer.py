"""Learning: from the log to a new model version, scored over the whole pool, stored, then swapped in one go.

Everything here runs on the lane, so a trainer needs no lock of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from promptgps_service.errors import Unavailable
from promptgps_service.flow.feature_space import FeatureSpace, Matrix
from promptgps_service.flow.lane import Lane
from promptgps_service.flow.run_state import RunState, ScoreTable
from promptgps_service.flow.step_metrics import step_metrics
from promptgps_service.flow.steps import ready, split_steps
from promptgps_service.model.checkpoint import pack, unpack
from promptgps_service.model.features import Features
from promptgps_service.model.panel import Panel
from promptgps_service.model.predictor import Posterior
from promptgps_service.model.registry import make_predictor
from promptgps_service.store.records import LogSlice, VersionRecord
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
        seconds: longest time that the outcomes of an unfinished step wait.
    """

    enabled: bool
    groups: int
    seconds: float


class Trainer:
    """Owner of one run's predictor."""

    def __init__(
        self, store: Store, features: FeatureSpace, lane: Lane, state: RunState, learning: Learning,
        catch_up: Callable[[RunState], None],
    ) -> None:  # fmt: skip
        self._store = store
        self._catch_up = catch_up
        self._features = features
        self._lane = lane
        self._state = state
        self._learning = learning
        self._predictor: Panel | None = None
        self._matrix: Matrix | None = None
        self._identity = ""
        self._version = 0
        self._through = 0
        self._informed = False
        self._waiting_since: float | None = None

    # ---- called from any thread ----------------------------------------------------------------------------

    def wake(self, *, now: bool = False) -> None:
        """Something was reported, or somebody waits (``now``): learn when there is enough."""
        if self._learning.enabled:
            self._lane.submit(("learn", self._state.id, now), lambda: self._learn(now))

    def reconfigure(self) -> None:
        """The settings have changed: rebuild what they touch, from the log if the predictor is another."""
        self._lane.call(self.load)
        self.wake(now=True)

    def grow(self) -> None:
        """The run has new rows: score them too."""
        self._lane.call(self.load)

    def predict_new(
        self, embedding: NDArray[np.float32], texts: list[str] | None
    ) -> tuple[Posterior, ScoreTable]:
        """Posterior for prompts outside the pool, and the version that it comes from."""
        return self._lane.call(lambda: self._predict_new(embedding, texts))

    # ---- on the lane ---------------------------------------------------------------------------------------

    def load(self) -> None:
        """Build the predictor over the run's rows and serve the newest stored version, or the prior."""
        state = self._state
        with state.lock:
            segments = list(state.segments)
        matrix = self._features.matrix(segments)
        identity = str(state.settings.predictor())
        if self._predictor is not None and identity == self._identity:
            self._predictor.grow(matrix.features)
        else:
            self._predictor = self._restored(identity, matrix.features)
        self._predictor.replaceable = bool(state.settings.selection.fallback)
        self._identity, self._matrix = identity, matrix
        self._serve()

    def _restored(self, identity: str, features: Features) -> Panel:
        """The newest stored state; without one that of the run to start from; without that the prior.

        A state of another predictor, or one that cannot be read, is left alone: the log is learned from where the one
        before it stopped, or from its start.
        """
        self._through = 0
        with self._store.read() as unit:
            stored = unit.versions.latest(self._state.id)
            if stored is not None:
                self._version = stored.version
            elif self._state.settings.warm_start_from is not None:
                source = unit.runs.get(self._state.settings.warm_start_from)
                warm = self._loaded(unit.versions.latest(source.id), identity, features)
                self._informed = warm is not None
                return warm or self._fresh(features)
        while stored is not None:
            restored = self._loaded(stored, identity, features)
            if restored is not None:
                self._through = stored.trained_through
                return restored
            with self._store.read() as unit:
                stored = unit.versions.latest(self._state.id, below=stored.version)
        return self._fresh(features)

    def _loaded(self, stored: VersionRecord | None, identity: str, features: Features) -> Panel | None:
        if stored is None:
            return None
        try:
            tensors, metadata = unpack(stored.state)
            if metadata["identity"] != identity:
                return None
            predictor = self._fresh(features.head(int(metadata["rows"])))
            predictor.load_state_dict(tensors)
        except (ValueError, KeyError) as error:
            _log.error(
                "a stored model cannot be read; what it had learned is learned anew",
                run=self._state.name, model_version=stored.version, cause=str(error),
            )  # fmt: skip
            return None
        if int(metadata["rows"]) < features.rows:  # the pools have grown since
            predictor.grow(features)
        return predictor

    def _fresh(self, features: Features) -> Panel:
        main, parameters = self._state.settings.predictor()
        members = [make_predictor(main, features, self._state.device, **parameters)]
        members += [make_predictor(name, features, self._state.device) for name in BASELINES if name != main]
        return Panel(members)

    def _learn(self, now: bool) -> None:
        try:
            if self._predictor is None:
                self.load()
            self._learn_from(self._unlearned(), now)
        except Unavailable:
            _log.warning("the database does not answer; learning waits", run=self._state.name)
            self._lane.submit(("learn", self._state.id, now), lambda: self._learn(now), RETRY_SECONDS)
        except BaseException:
            # A fit that broke off half-way is not served and not learned on: the stored version stands.
            self._predictor = None
            raise

    def _unlearned(self) -> LogSlice:
        """What the log has more than the model, as far as the state knows it: lines refer to the state's draws."""
        self._catch_up(self._state)
        with self._store.read() as unit:
            return unit.log.after(self._state.id, self._through, until=self._state.log_position)

    def _learn_from(self, part: LogSlice, now: bool) -> None:
        if part.head == self._through:
            return
        waited = time.monotonic() - self._waiting_since if self._waiting_since is not None else 0.0
        enough = now or waited >= self._learning.seconds or ready(part, self._state, self._learning.groups)
        if not enough:
            self._waiting_since = self._waiting_since or time.monotonic()
            self._lane.submit(("learn", self._state.id, False), lambda: self._learn(False), self._learning.seconds)
            return
        self._waiting_since = None
        self._advance(part)

    def _advance(self, part: LogSlice) -> None:
        assert self._predictor is not None
        state = self._state
        started = time.perf_counter()
        measured = []
        for step in split_steps(part, state, self._learning.groups):
            mean = self._predictor.predict().take(step.visits.rows).mean.cpu()
            served = self._predictor.served
            report = self._predictor.observe(step.visits)
            measured.append(step_metrics(step, mean, served, report, state.settings.rollouts_per_prompt))
            if report.served != served or report.failed:
                _log.warning("predictors", run=state.name, served=report.served, failed=report.failed)
        version = self._version + max(len(measured), 1)
        fitted = time.perf_counter()
        table = self._table(version, part.head)
        if measured:
            measured[-1] |= {"fit_seconds": fitted - started, "score_seconds": time.perf_counter() - fitted}
        self._store_version(version, part.head, measured)
        self._version, self._through = version, part.head
        state.publish(table)
        _log.info(
            "learned", run=state.name, model_version=version, trained_through=part.head,
            seconds=round(time.perf_counter() - started, 4),
        )  # fmt: skip

    def _store_version(self, version: int, through: int, measured: list[dict[str, float | None]]) -> None:
        """Until this is stored the predictor is ahead of the log's reader, so it must not be given up."""
        assert self._predictor is not None
        assert self._matrix is not None
        metadata = {"identity": self._identity, "rows": str(self._matrix.features.rows)}
        state = pack(self._predictor.state_dict(), metadata)
        record = VersionRecord(version, through, self._predictor.served, state)
        while True:
            try:
                with self._store.write() as unit:
                    for index, metrics in enumerate(measured, start=self._version + 1):
                        unit.versions.add_step(self._state.id, index, through, metrics)
                    unit.versions.add(self._state.id, record)
                return
            except Unavailable:
                _log.warning("the database does not answer; publishing waits", run=self._state.name)
                if not self._lane.rest(RETRY_SECONDS):
                    raise

    def _table(self, version: int, through: int) -> ScoreTable:
        assert self._predictor is not None
        assert self._matrix is not None
        posterior = self._predictor.predict()
        above = self._state.settings.selection.retire_above
        retired = None
        if above is not None:
            rows = self._matrix.features.rows
            visited = (self._state.trials[:rows] > 0).to(self._state.device)
            retired = (posterior.mean > above) & visited
        informed = self._informed or through > 0
        return ScoreTable(version, through, posterior, self._matrix.features.rows, retired, informed)

    def _serve(self) -> None:
        self._state.publish(self._table(self._version, self._through))

    def _predict_new(
        self, embedding: NDArray[np.float32], texts: list[str] | None
    ) -> tuple[Posterior, ScoreTable]:
        assert self._predictor is not None
        assert self._matrix is not None
        assert self._state.table is not None
        x = self._features.new_features(self._matrix, embedding, texts)
        return self._predictor.predict_new(x), self._state.table


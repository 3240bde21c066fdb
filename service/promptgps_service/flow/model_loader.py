"""Loading: from what the database has of a run to its model, over all of its rows.

The work of a loader is done on the device; the database is read and written aside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import structlog

from promptgps_service.flow.device_queue import DeviceQueue, Steps
from promptgps_service.flow.faults import PASSING, is_short_of_memory
from promptgps_service.flow.feature_space import FeatureSpace, Matrix
from promptgps_service.flow.loaded_model import LoadedModel, new_panel, start_from, stored_panel
from promptgps_service.flow.run_settings import RunSettings
from promptgps_service.flow.run_state import RunState
from promptgps_service.flow.timeline import Timeline
from promptgps_service.flow.warm_start import PINNED, framing, source_segments
from promptgps_service.model.panel import Panel
from promptgps_service.store.records import RunRecord, VersionRecord
from promptgps_service.store.unit import Store

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Found:
    """What the database has of a run, to load a model from.

    Attributes:
        record: the run's heads.
        settings: of the run.
        epoch: of the run.
        revision: of the settings.
        matrix: features of the run's rows.
    """

    record: RunRecord
    settings: RunSettings
    epoch: int
    revision: int
    matrix: Matrix

    @property
    def identity(self) -> str:
        """Name and parameters of the predictor, as text."""
        return str(self.settings.predictor())

    @property
    def made_of(self) -> tuple[int, int, int, int]:
        """What a score table would have to be made of."""
        return self.epoch, self.revision, self.record.model_version, self.matrix.features.rows


class ModelLoader:
    """Loads one run's model.

    Args:
        store: the database.
        features: of the pools.
        queue: of the device.
        state: of the run.
        catch_up: brings the state up to the database; answers the heads that it has come to.
    """

    def __init__(
        self,
        store: Store,
        features: FeatureSpace,
        queue: DeviceQueue,
        state: RunState,
        catch_up: Callable[[RunState], RunRecord],
    ) -> None:
        self._store = store
        self._features = features
        self._queue = queue
        self._state = state
        self._catch_up = catch_up

    def find(self) -> Found:
        """What the database has now; off the device."""
        record = self._catch_up(self._state)
        with self._state.lock:
            segments = list(self._state.segments)
            settings = self._state.settings
            epoch = self._state.epoch
            revision = self._state.revision

        with self._store.read() as unit:
            framed_by = framing(unit, settings, segments)

        matrix = self._features.matrix(segments, framed_by)
        return Found(record, settings, epoch, revision, matrix)

    def load(self, at_hand: LoadedModel | None, found: Found) -> Steps[LoadedModel]:
        """The model that the database tells of.

        Args:
            at_hand: the one that was served until now. It is grown in place where it is still the
                one.
            found: what the database has.
        """
        if at_hand is not None and _is_published(at_hand, found):
            if at_hand.matrix is not found.matrix:
                at_hand.predictor.grow(found.matrix.features)
            at_hand.predictor.replaceable = bool(found.settings.selection.fallback)
            return replace(at_hand, matrix=found.matrix, revision=found.revision)

        model = yield from self._restored(found)
        if model.through < found.record.trained_through:
            yield from self._queue.aside(
                lambda: self._tell_what_is_lost(found.record, model.through)
            )

        return model

    def _tell_what_is_lost(self, record: RunRecord, through: int) -> None:
        """What the newest version had learned is to be learned again.

        The run is behind, which a worker sees.
        """
        self._state.want(record.trained_through)
        heads = (record.epoch, record.revision, record.model_version)

        with self._store.write() as unit:
            now = unit.runs.lock(record.id)
            if (now.epoch, now.revision, now.model_version) == heads:
                unit.runs.advance(record.id, trained_through=through)
                unit.runs.want(record.id, record.trained_through)

    def _restored(self, found: Found) -> Steps[LoadedModel]:
        """The newest stored state; at the start of a run, the prior or what it is to start from.

        What it is to start from is what another run has learned. A state of another predictor, or
        one that cannot be read, is left alone: the log is learned from where the one before it
        stopped, or from its start.
        """
        stored = yield from self._queue.aside(lambda: self._stored(None))
        version = 0 if stored is None else stored.version

        while stored is not None:
            try:
                model = yield from self._of_version(found, stored, version)
                if model is not None:
                    return model
            except PASSING:
                raise
            except Exception as error:
                if is_short_of_memory(error):
                    raise  # else bytes that are damaged: they can break anything
                _log.error(
                    "a stored model cannot be read; what it had learned is learned anew",
                    run=self._state.name,
                    model_version=stored.version,
                    cause=repr(error),
                )

            stored = yield from self._queue.aside(partial(self._stored, stored.version))

        prior = new_panel(found.settings, found.matrix.features, self._state.device)
        return _model(found, version, prior)

    def _stored(self, below: int | None) -> VersionRecord | None:
        with self._store.read() as unit:
            return unit.versions.latest(self._state.id, below=below)

    def _of_version(
        self, found: Found, stored: VersionRecord, version: int
    ) -> Steps[LoadedModel | None]:
        """A stored state as the model that goes on from ``version``; None if of another predictor.

        Raises:
            ValueError: it is damaged, or cannot be this run's.
        """
        features = found.matrix.features
        if stored.version == PINNED:
            there = yield from self._queue.aside(lambda: self._source(found.settings))
            panel = new_panel(found.settings, features, self._state.device)
            start_from(panel, stored, there.identity, found.matrix.identity)
            return replace(_model(found, version, panel), informed=True)

        if stored.trained_through > found.record.log_position:
            raise ValueError(f"it has learned up to {stored.trained_through}, past the log")

        loaded = stored_panel(stored, found.identity, found.settings, features, self._state.device)
        if loaded is None:
            return None

        panel, timeline = loaded
        return replace(
            _model(found, version, panel), timeline=timeline, through=stored.trained_through
        )

    def _source(self, settings: RunSettings) -> Matrix:
        """Features of the run that this one started from."""
        with self._store.read() as unit:
            segments = source_segments(unit, settings)
        return self._features.matrix(segments)


def _is_published(model: LoadedModel, found: Found) -> bool:
    """Whether a model is the published version, by the predictor that the run asks for."""
    own = (model.identity, model.epoch, model.version)
    return own == (found.identity, found.epoch, found.record.model_version)


def _model(found: Found, version: int, predictor: Panel) -> LoadedModel:
    """A predictor at the start of the log, as the model of what was found."""
    return LoadedModel(
        predictor=predictor,
        matrix=found.matrix,
        identity=found.identity,
        epoch=found.epoch,  # should a restore come in between, publishing finds out
        revision=found.revision,
        version=version,
        through=0,
        timeline=Timeline(),
        informed=found.matrix.features.offline is not None,
    )

"""Learning: from the log to a new model version, scored, stored, then swapped in one go.

It is scored over the whole pool. In a process that does not learn a run, the versions that another
one has published are loaded, scored and swapped. All work of a run is done in order by the device
queue, so a trainer needs no lock of its own. The device is only held for arithmetic: the database
is read and written aside.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import structlog
import torch

from promptgps_service.errors import NotOpen, PromptGPSError, RunGone, Unavailable
from promptgps_service.flow.device_queue import DeviceQueue, Steps
from promptgps_service.flow.faults import PASSING, is_short_of_memory
from promptgps_service.flow.feature_space import FeatureSpace
from promptgps_service.flow.leases import Leases
from promptgps_service.flow.loaded_model import LoadedModel
from promptgps_service.flow.model_loader import ModelLoader
from promptgps_service.flow.publish import Origin, Overtaken, publish
from promptgps_service.flow.run_state import NewPrompts, RunState, ScoreTable
from promptgps_service.flow.step_metrics import Metrics, step_metrics
from promptgps_service.flow.steps import Step, at_most, due, split_steps, waits
from promptgps_service.flow.timeline import Timeline
from promptgps_service.model.panel import Panel
from promptgps_service.model.predictor import Posterior
from promptgps_service.store.records import LogSlice, RunRecord, VersionRecord
from promptgps_service.store.unit import Store

_log = structlog.get_logger(__name__)

RETRY_SECONDS = 1.0  # after the database did not answer, or memory was short
TRIES = 2  # at something that breaks, before the run is taken for broken

T = TypeVar("T")
# What goes wrong with a run: (what was done, the error) to the error that callers get.
OnFault = Callable[[str, Exception], PromptGPSError]


@dataclass(frozen=True)
class Learning:
    """When to learn.

    Attributes:
        enabled: false in a process that only serves.
        groups: complete groups that are learned from without waiting for the rest of their step.
        seconds: longest time that the outcomes of an unfinished step wait, unless the trainer waits
            for the model: then they wait until it asks.
    """

    enabled: bool
    groups: int
    seconds: float


@dataclass(frozen=True)
class _Plan:
    """What to learn now.

    Attributes:
        model: that is to learn.
        steps: to learn from, in order.
        reached: position of the log that they come to; where they start if there is nothing to
            learn.
        head: position up to which the log was read.
        may_time_out: whether what is left is learned after a while, complete or not.
    """

    model: LoadedModel
    steps: list[Step]
    reached: int
    head: int
    may_time_out: bool


class Trainer:
    """Owner of one run's model.

    Args:
        store: the database.
        features: of the pools.
        queue: of the device.
        state: of the run.
        learning: when to learn.
        leases: of this process.
        catch_up: brings the state up to the database; answers the heads that it has come to.
        on_fault: takes a run out of service that cannot be loaded or learned.
    """

    def __init__(
        self,
        store: Store,
        features: FeatureSpace,
        queue: DeviceQueue,
        state: RunState,
        learning: Learning,
        leases: Leases,
        catch_up: Callable[[RunState], RunRecord],
        on_fault: OnFault,
    ) -> None:
        self._store = store
        self._leases = leases
        self._catch_up = catch_up
        self._features = features
        self._loader = ModelLoader(store, features, queue, state, catch_up)
        self._queue = queue
        self._state = state
        self._learning = learning
        self._on_fault = on_fault
        self._model: LoadedModel | None = None
        self._waiting_since: float | None = None
        self._failures: Counter[str] = Counter()

    # ---- called from any thread --------------------------------------------------------------

    def wake(self, wanted: int = 0) -> None:
        """Something was reported: learn when there is enough.

        In any case learn up to what somebody waits for.
        """
        if self._learning.enabled:
            self._state.want(wanted)
            self._queue.submit(self, "learn", self._learn)

    def ask(self, position: int) -> None:
        """Somebody waits for the model to learn up to a position.

        It learns here, or in the process that holds the run.

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
            Busy: too many wait for the device.
            NotOpen: the run is broken.
            Unavailable: the database does not answer.
        """
        self._state.want(position)
        self._queue.call(self, lambda: self._guarded("learn", self._learn_if_held))

    def update(self) -> None:
        """Serve what the database has now, from the log if need be.

        To be called where its rows, settings, epoch or version are others than those served.

        Raises:
            Busy: too many wait for the device.
            NotOpen: the run is broken.
            Unavailable: the database does not answer.
        """
        self._queue.call(self, lambda: self._guarded("load", self._loaded))

    def refresh(self) -> None:
        """The same, without waiting for it."""
        self._queue.submit(self, "load", self._refresh)

    def follow(self) -> None:
        """Another process may have changed the run: take over what it has written.

        Returns without waiting for it.
        """
        self._queue.submit(self, "follow", self._follow)

    def predict_new(self, parts: Sequence[NewPrompts]) -> tuple[list[Posterior], ScoreTable]:
        """Posteriors for prompts outside the pool, part by part.

        All are of one version, which comes with them.
        """
        return self._queue.call(self, lambda: self._predict_new(parts))

    # ---- faults ------------------------------------------------------------------------------

    def _guarded(self, doing: str, work: Callable[[], Steps[T]]) -> Steps[T]:
        """Do something; where it breaks through no fault of database or memory, the run is broken.

        Raises:
            NotOpen: it is.
            PromptGPSError: of what was done.
        """
        try:
            return (yield from work())
        except PASSING:
            raise
        except Exception as error:
            if is_short_of_memory(error):
                raise
            fault = error

        raise (yield from self._queue.aside(lambda: self._on_fault(doing, fault)))

    def _in_background(self, key: str, work: Callable[[], Steps[object]]) -> Steps[None]:
        """Do something that nobody waits for, again and again where a failure may pass."""
        if self._state.over:
            return

        try:
            yield from work()
            self._failures.pop(key, None)
        except (NotOpen, RunGone):  # what there is to tell was told
            self._state.end()
        except PASSING as error:
            _log.warning("tried again", run=self._state.name, job=key, cause=error.detail)
            self._again(key, work)
        except Exception as error:  # noqa: BLE001  one run's fault is that run's
            self._failures[key] += not is_short_of_memory(error)
            if self._failures[key] < TRIES:
                _log.exception("tried again", run=self._state.name, job=key)
                self._again(key, work)
                return
            fault = error
            yield from self._queue.aside(lambda: self._on_fault(key, fault))

    def _again(self, key: str, work: Callable[[], Steps[object]]) -> None:
        self._queue.submit(self, key, lambda: self._in_background(key, work), RETRY_SECONDS)

    # ---- loading, on the device --------------------------------------------------------------

    def load(self) -> Steps[LoadedModel]:
        """Build the model over the run's rows and serve the newest stored version, or the prior."""
        return (yield from self._guarded("load", self._loaded))

    def _refresh(self) -> Steps[None]:
        yield from self._in_background("load", self._loaded)

    def _follow(self) -> Steps[None]:
        yield from self._in_background("follow", self._catch_up_and_load)

    def _catch_up_and_load(self) -> Steps[None]:
        heads = yield from self._queue.aside(self._heads)
        table = self._state.table
        if table is None or table.made_of != heads:
            yield from self._loaded()

    def _heads(self) -> tuple[int, int, int, int]:
        """What a score table would have to be made of by now; off the device."""
        record = self._catch_up(self._state)
        return record.epoch, record.revision, record.model_version, self._state.rows

    def _loaded(self) -> Steps[LoadedModel]:
        """The model as the database has it, and served so."""
        found = yield from self._queue.aside(self._loader.find)
        at_hand = self._model
        table = self._state.table
        if at_hand is not None and table is not None and table.made_of == found.made_of:
            return at_hand

        self._model = None  # what breaks off here is not served, and not learned on
        model = yield from self._loader.load(at_hand, found)
        self._model = model
        table = yield from self._table(model, model.version, model.through)
        self._state.publish(table)

        return model

    # ---- learning, on the device -------------------------------------------------------------

    def _learn(self) -> Steps[None]:
        yield from self._in_background("learn", self._learn_if_held)

    def _learn_if_held(self) -> Steps[None]:
        run_id = self._state.id
        held = self._leases.holds(run_id)
        if not held and not (yield from self._queue.aside(lambda: self._leases.hold(run_id))):
            return  # another process learns this run, and its versions are loaded as they come

        try:
            yield from self._learn_what_is_due()
        except Overtaken as reason:
            _log.warning("what was learned is dropped", run=self._state.name, cause=str(reason))
            self._model = None
            self._leases.forget(run_id)
            yield from self._loaded()
            self.wake()
        except BaseException:
            # A fit that broke off half-way is not served and not learned on: the stored version
            # stands.
            self._model = None
            raise

    def _learn_what_is_due(self) -> Steps[None]:
        plan = yield from self._planned()
        while plan is None:
            yield from self._loaded()
            plan = yield from self._planned()

        if plan.reached > plan.model.through:
            self._waiting_since = None
            yield from self._advance(plan)
            # There may be more to learn, once the others had their turn.
            if plan.reached < plan.head:
                self._queue.submit(self, "learn", self._learn)
        elif plan.head > plan.reached and plan.may_time_out:
            self._waiting_since = self._waiting_since or time.monotonic()
            self._queue.submit(self, "learn", self._learn, self._learning.seconds)

    def _planned(self) -> Steps[_Plan | None]:
        """What is due; None where the model is to be loaded first."""
        model = self._model
        if model is None:
            return None
        return (yield from self._queue.aside(lambda: self._plan(model)))

    def _plan(self, model: LoadedModel) -> _Plan | None:
        """What is due for a model; None where the run is not what it was loaded from.

        Raises:
            Overtaken: the run was put back to a snapshot meanwhile.
        """
        state = self._state
        if self._heads() != model.made_of:
            return None

        with state.lock, self._store.read() as unit:
            if state.epoch != model.epoch:
                raise Overtaken("the run was put back to a snapshot")
            if state.rows != model.rows:
                return None
            part = unit.log.after(state.id, model.through, until=state.log_position)
            steps, reached = self._due(part, model.timeline)
            return _Plan(model, steps, reached, part.head, self._may_time_out(part))

    def _due(self, part: LogSlice, timeline: Timeline) -> tuple[list[Step], int]:
        """Steps to learn from now, and the position of the log that they reach.

        Between what is due by itself and what somebody waits for the steps are cut at the same
        positions, whether the model finds the time for the one before it hears of the other or not.
        """
        state = self._state
        groups = self._learning.groups
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

            steps += split_steps(rest.until(position), state, groups, timeline)
            reached = position
            if position < wanted:
                break

        return steps, reached

    def _may_time_out(self, part: LogSlice) -> bool:
        return not waits(self._state) or bool((part.draw < 0).all())

    def _advance(self, plan: _Plan) -> Steps[None]:
        """Learn what is planned, publish it and serve it."""
        state = self._state
        model = plan.model
        measured: list[Metrics] = []
        fit_seconds = 0.0

        for step in plan.steps:
            if measured:
                yield None
            started = time.perf_counter()
            measured.append(self._step(model.predictor, step))
            fit_seconds += time.perf_counter() - started

        started = time.perf_counter()
        version = model.version + max(len(measured), 1)
        table = yield from self._table(model, version, plan.reached)
        score_seconds = time.perf_counter() - started
        if measured:
            measured[-1] |= {"fit_seconds": fit_seconds, "score_seconds": score_seconds}

        record = model.packed(version, plan.reached)
        yield from self._store_version(model, record, measured, table)
        self._model = replace(model, version=version, through=plan.reached)
        _log.info(
            "learned",
            run=state.name,
            model_version=version,
            trained_through=plan.reached,
            seconds=round(fit_seconds + score_seconds, 4),
        )

    def _step(self, predictor: Panel, step: Step) -> Metrics:
        """Score everybody on a step, and let them learn from it."""
        mean = predictor.predict().take(step.visits.rows).mean.cpu()
        served = predictor.served
        report = predictor.observe(step.visits, torch.from_numpy(step.uniform))
        if report.served != served or report.failed:
            _log.warning(
                "predictors", run=self._state.name, served=report.served, failed=report.failed
            )

        return step_metrics(step, mean, served, report, self._state.settings.rollouts_per_prompt)

    def _store_version(
        self, model: LoadedModel, record: VersionRecord, measured: list[Metrics], table: ScoreTable
    ) -> Steps[None]:
        """Store a version, and do not give up.

        Until it is stored the predictor is ahead of the log's reader. Once it is, whoever waits for
        it is served at once, and not only at the run's next turn on the device.
        """
        worker = self._leases.worker
        origin = Origin(self._state.id, worker, model.epoch, model.revision, model.version)

        while True:
            try:
                yield from self._queue.aside(lambda: self._publish(origin, record, measured, table))
                return
            except Unavailable:
                _log.warning("the database does not answer; publishing waits", run=self._state.name)
                yield RETRY_SECONDS

    def _publish(
        self, origin: Origin, record: VersionRecord, measured: list[Metrics], table: ScoreTable
    ) -> None:
        with self._store.write() as unit:
            publish(unit, origin, record, measured)
        self._state.publish(table)

    def _table(self, model: LoadedModel, version: int, through: int) -> Steps[ScoreTable]:
        above = self._state.settings.selection.retire_above
        if above is None:
            return model.table(version, through, None)
        visited = yield from self._queue.aside(lambda: self._state.visited(model.rows))
        mean = model.predictor.predict().mean
        return model.table(version, through, (mean > above) & visited)

    # ---- new prompts, on the device ----------------------------------------------------------

    def _predict_new(
        self, parts: Sequence[NewPrompts]
    ) -> Steps[tuple[list[Posterior], ScoreTable]]:
        """One job for all parts: nothing is learned between them."""
        model = self._model
        if model is None:
            model = yield from self.load()

        table = self._state.served
        posteriors = []

        for part in parts:
            x = self._features.new_features(model.matrix, part.embedding, part.texts)
            posteriors.append(model.predictor.predict_new(x))
            yield None

        return posteriors, table

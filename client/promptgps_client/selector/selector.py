"""The loop of a trainer: next batch, report, checkpoint.

Every adapter to a trainer stands on it.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from promptgps_client import wire
from promptgps_client.client import PromptGPS
from promptgps_client.columns import Array, Gaps, Integers, Numbers, Strings, plain
from promptgps_client.errors import BadAnswer, Conflict, InvalidRequest, NotFound
from promptgps_client.selector.asking import Asker, Question, Silence
from promptgps_client.selector.batch import Draw, DrawnBatch, Source, local_id
from promptgps_client.selector.courier import RUN_NOT_OPEN, Courier
from promptgps_client.selector.fallback import Fallback, LocalDraws
from promptgps_client.selector.launch import ON_EXISTING, Course, Launch, OnExisting
from promptgps_client.selector.outcomes import Record, checked, first_version, run_of
from promptgps_client.selector.prompts import Given, Prompts
from promptgps_client.selector.spool import Spool, WhenFull
from promptgps_client.wire import Status
from promptgps_client.wire.base import MAX_CANDIDATES

_log = logging.getLogger(__name__)

ROLLOUTS: int = wire.CreateRun.model_fields["rollouts_per_prompt"].default
BATCHES_REMEMBERED = 16  # for who asks position by position
DRAWS_REMEMBERED = 100_000  # for local draws by score: their outcomes may still come
STATE_FORMATS = (1, 2)  # the first had no course
KEYS_IN_A_SECOND = 50_000  # that the service can be expected to look up
EXAMPLES = 5


class Selector:
    """Batches from the service, or local ones where it is silent; reports through a spool on disk.

    Where the service refuses a request (wrong key, no such run) before it has answered one, the
    configuration is at fault and the refusal is raised; later draws become local, loudly. Outcomes
    that it will never take are raised at the next step as `OutcomesRefused`, as long as none of
    this selector's was taken: nothing is being learned. Later single ones are set aside row by row,
    logged as errors and counted, and only a high share of them is raised again. Any number of
    threads may use a selector, but only the process that made it.

    A new training never inherits an old run by accident. Where outcomes of the run's draws were
    stored before this selector was made, and no state is loaded, the first batch that was answered
    before stops the loop (`ExistingRun`). Ranks of one launch are no relaunch: each makes its
    selector before the first of them reports. Outcomes by prompt, such as offline pass rates, do
    not count.

    Draws are of `prompts` alone, whatever else the run has or gets: they are sent to the service
    once.

    Args:
        service: A client, or an address for one; default: the environment's PROMPTGPS_URL.
        run: The run's name.
        batch_size: Draws of a batch.
        prompts: Keys of prompts of the run, or a mapping from them to rows of any kind. A whole
            number is its decimal string. Where the run has several pools with the same keys, (pool,
            key) pairs.
        spool: Folder for reports on their way, for this process alone.
        rollouts: n of every batch; default: the run's.
        seed: Of the local draws; the same on all ranks.
        deadline: Seconds that a step waits for the service, besides `wait_seconds`.
        wait_seconds: As in `select_batch`: time for the model to learn from everything reported.
        fallback: `uniform`, or `scores`: by the success rates that were last predicted and
            reported.
        prefetch: Ask for the next batch in the background as soon as one is handed out. It then
            misses the outcomes of the batch before it, and carries the policy version given with
            that one.
        spool_bytes: Most bytes of reports on disk.
        when_full: Of a full spool `drop_oldest` reports, or `block` until some are delivered.
        on_existing: What a training without a loaded state does with a run that one before it has
            reported to: `fail`, with what to do; `resume`, with batches after those that the run
            has had, and policy versions that count on; `new`, in a run NAME-2 (or -3, …) with the
            settings of this one, which all ranks come to. Reports that wait in the spool go to the
            run that they were made for.

    Raises:
        SpoolInUse: Another process has the spool.
        ValueError: The prompts or the settings contradict each other, or the run has too few of the
            prompts.
        InvalidRequest: Keys are in two pools of the run, and no pool is given.
        OSError: The spool's folder cannot be used.
    """

    def __init__(
        self,
        service: PromptGPS | str | None = None,
        *,
        run: str,
        batch_size: int,
        prompts: Given,
        spool: str | Path,
        rollouts: int | None = None,
        seed: int = 0,
        deadline: float = 5.0,
        wait_seconds: float = 0.0,
        fallback: Fallback = "uniform",
        prefetch: bool = False,
        spool_bytes: int = 512 << 20,
        when_full: WhenFull = "drop_oldest",
        on_existing: OnExisting = "fail",
    ) -> None:
        self._prompts = Prompts(prompts)
        _check(self._prompts, batch_size, deadline, on_existing)
        self._asked_run = run
        self._batch_size = batch_size
        self._rollouts = rollouts
        self._prefetch = prefetch
        self._deadline = deadline
        self._on_existing = on_existing
        self._waits = wait_seconds > 0 and not prefetch
        self._local = LocalDraws(fallback, len(self._prompts), batch_size, seed)
        self._sequence = 0
        self._policy_version: int | None = None
        self._answered = False
        self._reported = False
        self._fallbacks: set[int] = set()
        self._recent: OrderedDict[int, DrawnBatch] = OrderedDict()
        self._drawn: OrderedDict[str, int] = OrderedDict()
        self._sources: Counter[Source] = Counter()
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._closed = False

        client = service if isinstance(service, PromptGPS) else PromptGPS(service)
        self._own_client = None if client is service else client
        self._spool = Spool(Path(spool), spool_bytes, when_full, run_of)
        self._asker = Asker(client, batch_size, rollouts, deadline, wait_seconds)
        self._launch = Launch(
            self._asker, run, on_existing, batch_size, run in self._spool.inherited
        )
        self._course = Course(run)
        self._membership: _Membership | None = None
        self._courier = Courier(client, self._spool, self._asker, run)
        atexit.register(self.close)

        try:
            self._look_ahead()
        except BaseException:
            self.close()
            raise

    @property
    def course(self) -> Course:
        """The run that this training is in, and where; for a sibling's `follow`."""
        return self._course

    @property
    def settled_course(self) -> Course | None:
        """The course, once it can change no more."""
        return self._course if self._launch.settled and self._course.shift is not None else None

    def follow(self, course: Course) -> None:
        """Take the course of a sibling, which has drawn.

        It is another rank, or the process that this one reports for.
        """
        with self._lock:
            self._launch.settled = True
            self._adopt(course)

    # ---- the run ---------------------------------------------------------------------------------

    def _look_ahead(self) -> None:
        """See at once what cannot be.

        A service that is away, or refuses, is met again at the first batch.
        """
        try:
            self._launch.look(at_once=True)
            self._join()
        except Silence as silence:
            _log.warning("run %s cannot be looked at: %s", self._asked_run, silence)
        except InvalidRequest:
            raise
        except BadAnswer as refusal:
            _log.warning("run %s cannot be looked at: %s", self._asked_run, refusal)

    def _settle(self) -> None:
        """Find out which run this training is in, as far as that can be known before a batch is.

        Raises:
            Silence: No answer in time.
            BadAnswer: The service refuses.
        """
        if not self._launch.settled and (course := self._launch.settle()) is not None:
            self._adopt(course)

    def _adopt(self, course: Course) -> None:
        self._course = course
        self._courier.release(course.run)

    def _join(self) -> None:
        """Let the service know which prompts are ours.

        Raises:
            Silence: No answer in time.
            BadAnswer: The service refuses.
            UnusableDraws: The run has too few of them.
        """
        run = self._course.run
        if self._membership is not None and self._membership.run == run:
            return

        found = self._launch.found
        if found is None or found.name != run:
            found = self._asker.within(lambda client: client.run(run))

        pools = [share.pool for share in found.pools]
        if strangers := [
            pool for pool in dict.fromkeys(self._prompts.pools or ()) if pool not in pools
        ]:
            raise UnusableDraws(
                f"prompts are of pool {strangers[0]!r}, and run {run!r} draws from "
                f"{', '.join(pools)}"
            )

        self._membership = _Membership(
            run, pools[0] if len(pools) == 1 else None, self._subset_of(run)
        )

    def _subset_of(self, run: str) -> str | None:
        """Id of our prompts among the run's.

        It is None where they are too many, or the service knows no subsets.
        """
        keys = self._prompts.keys
        pools = self._prompts.pools
        if len(keys) > MAX_CANDIDATES:
            return None

        try:
            subset = self._asker.within(
                lambda client: client.send_subset(run, keys=keys, pool=pools),
                len(keys) / KEYS_IN_A_SECOND,
            )
        except NotFound as refusal:
            _log.warning("draws cannot be kept to this selector's prompts: %s", refusal)
            return None
        except InvalidRequest as refusal:
            if all(fault.field == "keys" and fault.row is None for fault in refusal.problem.errors):
                raise UnusableDraws(
                    f"run {run!r} has none of this selector's prompts: {refusal}"
                ) from refusal
            raise

        if not subset.unknown:
            return subset.subset

        named = ", ".join(map(repr, subset.unknown_keys[:EXAMPLES]))
        theirs = (
            f"; it has such as {', '.join(map(repr, subset.run_keys[:EXAMPLES]))}"
            if subset.run_keys
            else ""
        )
        lacks = (
            f"run {run!r} does not have {subset.unknown} of this selector's {len(keys)} prompts: "
            f"{named}{theirs}"
        )
        if subset.prompts < self._batch_size:
            raise UnusableDraws(
                f"{lacks}. The {subset.prompts} others are fewer than batch_size {self._batch_size}"
            )

        _log.warning("%s. They are not drawn", lacks)
        return subset.subset

    # ---- draws -----------------------------------------------------------------------------------

    def next_batch(self, policy_version: int | None = None) -> DrawnBatch:
        """The next batch to roll out.

        It is the same on every rank and after a restart from the same state.

        Args:
            policy_version: The trainer's step counter.

        Raises:
            ExistingRun: It is a batch of a training before this one.
            OutcomesRefused: The service will not take what was reported.
            BadAnswer: The service refuses, and has never answered this selector.
            ValueError: The service draws prompts that this selector was not given, likewise.
        """
        policy_version = None if policy_version is None else int(plain(policy_version))
        with self._lock:
            asked_ahead = self._prefetch and self._sequence > 0
            batch = self.batch_at(
                self._sequence, self._policy_version if asked_ahead else policy_version
            )
            self._sequence += 1
            self._policy_version = policy_version

            if self._prefetch:
                self._asker.ask_ahead(self._question(self._sequence, policy_version))
            return batch

    def batch_at(self, sequence: int, policy_version: int | None = None) -> DrawnBatch:
        """The batch of a sequence.

        It is for trainers that number their steps or read positions again after a restart.

        A sequence that was drawn locally stays local: what the service may have answered too late
        is not used. Errors are those of `next_batch`.
        """
        self._check_process()

        with self._lock:
            self._raise_trouble()
            if sequence not in self._recent:
                self._recent[sequence] = self._draw(sequence, policy_version)
                if len(self._recent) > BATCHES_REMEMBERED:
                    self._recent.popitem(last=False)
            return self._recent[sequence]

    def draws(self, position: int = 0) -> Iterator[Draw]:
        """Draws one by one without end, from a position on; batch b begins at b · `batch_size`."""
        while True:
            sequence, row = divmod(position, self._batch_size)
            yield self.batch_at(sequence)[row]
            position += 1

    def _draw(self, sequence: int, policy_version: int | None) -> DrawnBatch:
        if sequence in self._fallbacks:
            return self._drawn_locally(sequence, policy_version, "it was before")

        if not (self._asker.silent or self._courier.failing):
            if self._waits:
                # else the model could not learn from what waits in the spool
                self._courier.flush(self._deadline)
            elif self._reported and self._courier.unproven:
                # what is refused is told before more is rolled out
                self._courier.wait_verdict(self._deadline)

            self._raise_trouble()

        try:
            self._settle()
            self._course = self._course.begun(policy_version)
            self._join()
            return self._taken(sequence, self._ask(sequence, policy_version))
        except Silence as silence:
            self._courier.wake()
            return self._drawn_locally(sequence, policy_version, str(silence))
        except (BadAnswer, UnusableDraws) as refusal:
            if not self._answered:
                raise
            return self._drawn_locally(sequence, policy_version, str(refusal))

    def _question(self, sequence: int, policy_version: int | None) -> Question:
        """What is asked for a batch of this training."""
        course = self._course
        subset = None if self._membership is None else self._membership.subset
        return Question(
            course.run, course.offset + sequence, course.shifted(policy_version), subset
        )

    def _ask(self, sequence: int, policy_version: int | None) -> wire.Batch:
        question = self._question(sequence, policy_version)
        try:
            answer = self._asker.ask(question)
        except Conflict as refusal:
            if refusal.problem.type != RUN_NOT_OPEN:
                self._launch.check(question.sequence, refusal)
            raise
        except NotFound as refusal:
            if not any(fault.field == "subset" for fault in refusal.problem.errors):
                raise
            self._membership = None  # the service has lost it
            self._join()
            answer = self._asker.ask(self._question(sequence, policy_version))

        if answer.replayed:
            self._launch.check(answer.sequence)
        return answer

    def _taken(self, sequence: int, answer: wire.Batch) -> DrawnBatch:
        """The service's answer as draws."""
        draws = answer.draws
        columns = (
            draws.draw_id,
            draws.prompt,
            draws.rollouts,
            draws.predicted_success,
            draws.pool or draws.prompt,
        )

        sizes = {len(column) for column in columns}
        if sizes != {self._batch_size}:
            raise UnusableDraws(
                f"the service answers columns of {sorted(sizes)} draws, not of {self._batch_size}"
            )

        only_pool = None if self._membership is None else self._membership.only_pool
        pools: Sequence[str | None] = draws.pool or [only_pool] * self._batch_size
        index = [
            self._prompts.find(pool, key) for pool, key in zip(pools, draws.prompt, strict=True)
        ]
        strangers = [position for position, at in enumerate(index) if at is None]

        if len(strangers) == self._batch_size:
            first = draws.prompt[0]
            raise UnusableDraws(
                f"the service draws {first!r}, which is not among this selector's prompts, nor the "
                "rest"
            )

        self._answered = True
        self._courier.release(self._course.run)
        self._rollouts = draws.rollouts[0]

        for warning in answer.warnings:
            _log.info("batch %d: %s", answer.sequence, warning)

        columns_ = _Columns(
            list(draws.draw_id),
            [-1 if at is None else at for at in index],
            list(draws.pool or ()),
            list(draws.predicted_success),
        )

        warnings = list(answer.warnings)
        if strangers:
            warnings.append(self._replace(answer.sequence, columns_, strangers, draws.prompt))

        source: Source = "replay" if answer.replayed else "service"
        return self._batch(sequence, source, columns_, draws.rollouts, warnings)

    def _replace(
        self, sequence: int, columns: _Columns, strangers: Sequence[int], drawn: Sequence[str]
    ) -> str:
        """Put local draws in the place of prompts that are not ours; answers what to say of it."""
        free = self._local.replacements(sequence, set(columns.index), len(strangers))
        for position, at in zip(strangers, free, strict=False):
            columns.draw_id[position] = self._local_id(sequence, position, None, at)
            columns.index[position] = at
            columns.predicted_success[position] = self._local.predicted(at)
            if columns.pool:
                columns.pool[position] = self._prompts.pool(at) or columns.pool[position]

        keys = ", ".join(repr(drawn[position]) for position in strangers[:EXAMPLES])
        warning = (
            f"batch {sequence}: {len(strangers)} draws are of prompts that are not this "
            f"selector's, such as {keys}; local draws have taken their place"
        )
        _log.warning(warning)
        return warning

    def _drawn_locally(self, sequence: int, policy_version: int | None, reason: str) -> DrawnBatch:
        number = self._course.offset + sequence
        warning = f"batch {sequence} is drawn locally: {reason}"
        _log.warning(warning)
        self._fallbacks.add(sequence)

        if not self._launch.settled and not self._answered:
            self._courier.hold()  # until it is known which run this training is in

        rollouts = self._rollouts or ROLLOUTS
        index = list(self._local.draw(number, rollouts))
        version = self._course.shifted(policy_version)
        draw_id = [
            self._local_id(number, position, version, at) for position, at in enumerate(index)
        ]
        columns = _Columns(draw_id, index, [], [self._local.predicted(at) for at in index])

        return self._batch(sequence, "fallback", columns, [rollouts] * len(index), [warning])

    def _local_id(self, sequence: int, position: int, policy_version: int | None, at: int) -> str:
        return local_id(
            sequence, position, policy_version, self._prompts.pool(at), self._prompts.keys[at]
        )

    def _batch(
        self,
        sequence: int,
        source: Source,
        columns: _Columns,
        rollouts: list[int],
        warnings: list[str],
    ) -> DrawnBatch:
        index = columns.index
        self._sources[source] += 1
        self._local.learn(self._course.offset + sequence, index, columns.predicted_success)
        self._drawn.update(zip(columns.draw_id, index, strict=True))

        while len(self._drawn) > DRAWS_REMEMBERED:
            self._drawn.popitem(last=False)

        return DrawnBatch(
            sequence=sequence,
            source=source,
            draw_id=columns.draw_id,
            prompt=[self._prompts.keys[at] for at in index],
            pool=columns.pool or [self._prompts.pool(at) for at in index],
            index=index,
            rollouts=rollouts,
            predicted_success=columns.predicted_success,
            row=[self._prompts.rows[at] for at in index],
            warnings=warnings,
        )

    # ---- outcomes --------------------------------------------------------------------------------

    def report(
        self,
        draw_id: Strings,
        *,
        successes: Numbers | None = None,
        trials: Integers | None = None,
        reward: Gaps | None = None,
        rollout_index: Integers | None = None,
        status: Iterable[Status] | Array | None = None,
        policy_version: int | Integers | None = None,
    ) -> None:
        """Report whole groups (`successes` of `trials`) or single rollouts (`reward`).

        The report is on disk once this returns.

        Draws of the service and local ones may be mixed, and come from any batch. It does not wait
        for the service.

        Args:
            draw_id: Of each row. For rollouts once for each: the flat lists of a trainer fit as
                they are.
            successes: In [0, trials].
            trials: Rollouts that count.
            reward: Raw rewards. Without `status`, None is a rollout that nobody scored
                (`cancelled`), and NaN and the infinities are an `error`.
            rollout_index: Number of the rollout in its draw; default: in the order of the rows. It
                must be given where the rollouts of one draw are reported in several calls.
            status: As in `report_rollouts`.
            policy_version: The trainer's step that sampled them, one for all or one for each row.

        Raises:
            InvalidRequest: Names field and row; only before a first report was good. Later the rows
                are set aside.
            OutcomesRefused: The service will not take what was reported before; this report is on
                disk all the same.
        """
        self._check_process()
        report = {
            "draw_id": draw_id,
            "successes": successes,
            "trials": trials,
            "reward": reward,
            "rollout_index": rollout_index,
            "status": status,
            "policy_version": policy_version,
        }

        report = {name: _once(column) for name, column in report.items() if column is not None}
        self._settle_for(report)
        try:
            made = checked(self._course.run, report, self._course.shift or 0)
            if made.faults and not self._reported:
                raise made.refusal()
        except InvalidRequest as refusal:
            if not self._reported:
                raise
            self._courier.set_aside([repr(report).encode()], str(refusal), 1)
        else:
            if made.faults:
                self._courier.set_aside(made.faulty, str(made.refusal()), len(made.faults))
            self._deliver(made.records)

        self._raise_trouble()

    def _deliver(self, records: Sequence[Record]) -> None:
        self._reported = self._reported or bool(records)
        durable = [self._spool.append(record.line()) for record in records]
        self._courier.wake()

        for record in records:
            self._learn(record)
        if not all(durable) and not self._asker.silent:
            self._courier.flush(self._deadline)

    def _settle_for(self, report: Mapping[str, Any]) -> None:
        """Come to the same run as the processes that draw.

        A process that only reports must do so before its first report.
        """
        if self._on_existing == "fail" or (self._launch.settled and self._course.shift is not None):
            return

        with self._lock:
            if not self._try_to_settle():
                self._courier.hold()
            if self._launch.settled and (version := first_version(report)) is not None:
                self._course = self._course.begun(version)

    def _learn(self, record: Record) -> None:
        """Learn from a record, without the lock.

        A step holds the lock while it waits for the service; this only replaces what is there.
        """
        for draw_id, successes, trials in record.evidence:
            if (index := self._drawn.get(draw_id)) is not None:
                self._local.report(index, successes, trials)

    def _raise_trouble(self) -> None:
        if (trouble := self._courier.trouble()) is not None:
            raise trouble

    def flush(self, seconds: float = 30.0) -> bool:
        """Deliver what is reported; false when time ran out, then it is delivered later."""
        self._meet()
        return self._courier.flush(seconds)

    def _meet(self) -> None:
        """Where reports are held because it is not known which run they are of, try to find out."""
        if not self._launch.settled:
            with self._lock:
                self._try_to_settle()

    def _try_to_settle(self) -> bool:
        try:
            self._settle()
        except (Silence, BadAnswer) as fault:
            _log.debug("it is not known yet which run this is: %s", fault)
            return False
        return True

    @property
    def counters(self) -> dict[str, int]:
        """Counts for the trainer's own metrics.

        Batches are by source, outcomes by what the service said, reports by their state.

        `outcomes_refused` are set aside, in `reports_refused` lines; `reports_dropped` are lost.
        """
        batches = {
            f"batches_{source}": self._sources[source]
            for source in ("service", "replay", "fallback")
        }

        return batches | {
            "outcomes_stored": self._courier.stored,
            "outcomes_duplicate": self._courier.duplicates,
            "outcomes_conflicting": self._courier.conflicts,
            "outcomes_refused": self._courier.refused,
            "reports_waiting": len(self._spool),
            "reports_refused": self._spool.refused,
            "reports_dropped": self._spool.dropped,
        }

    # ---- checkpoint ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What a trainer's checkpoint keeps, in JSON's types.

        The next batch is then the same after a restart.

        It has the real name of the run, so that a training that was opened as NAME-2 goes on there.
        """
        with self._lock:
            return {
                "format": STATE_FORMATS[-1],
                "asked_run": self._asked_run,
                **asdict(self._course),
                "sequence": self._sequence,
                "policy_version": self._policy_version,
                "answered": self._answered,
                "rollouts": self._rollouts,
                "fallbacks": sorted(self._fallbacks),
                "known": self._local.state(self._prompts.label),
            }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: It is of another run, or of another version of this client.
        """
        names = {state["run"], state.get("asked_run", state["run"])}
        if state["format"] not in STATE_FORMATS or self._asked_run not in names:
            told = f"a state of format {state['format']} and run {state['run']!r}"
            raise ValueError(f"{told}, not of {self._asked_run!r} in format {STATE_FORMATS[-1]}")

        with self._lock:
            self._sequence = state["sequence"]
            self._policy_version = state["policy_version"]
            self._answered = state["answered"]
            self._rollouts = state["rollouts"]
            self._fallbacks = set(state["fallbacks"])
            self._local.restore(state["known"], self._prompts.labelled(state["known"]))
            self._recent.clear()
            self.follow(
                Course(**{name: state[name] for name in asdict(self._course) if name in state})
            )

    # ---- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Deliver what can be within the deadline; the rest waits on disk for the next selector."""
        if self._closed or self._process != os.getpid():
            return

        self._closed = True
        atexit.unregister(self.close)

        if len(self._spool) and not self._asker.silent:
            self._meet()

        if not self._courier.flush(0.0 if self._asker.silent else self._deadline):
            _log.warning("%d reports wait in the spool for the next selector", len(self._spool))

        if (trouble := self._courier.trouble()) is not None:
            _log.error("%s", trouble)

        self._courier.close()
        self._asker.close()
        self._spool.close()

        if self._own_client is not None:
            self._own_client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise RuntimeError(
                "this selector belongs to the process that made it; make one here, with its own "
                "spool"
            )


class UnusableDraws(ValueError):
    """An answer that is no batch for this selector, or a run that can have none."""


@dataclass(frozen=True)
class _Membership:
    """What the service knows of our prompts: `subset` is None where draws are of the whole run."""

    run: str
    only_pool: str | None
    subset: str | None


@dataclass(frozen=True)
class _Columns:
    """Columns of a batch in the making; `pool` is empty where only the prompts know."""

    draw_id: list[str]
    index: list[int]
    pool: list[str | None]
    predicted_success: list[float | None]


def _once(column: Any) -> Any:
    """An iterator can be read once only."""
    return list(column) if isinstance(column, Iterator) else column


def _check(prompts: Prompts, batch_size: int, deadline: float, on_existing: str) -> None:
    if not 1 <= batch_size <= len(prompts):
        raise ValueError(
            f"batch_size {batch_size} is not in 1..{len(prompts)}, the number of prompts"
        )
    if not deadline > 0:
        raise ValueError(f"deadline {deadline:g} s is not positive")
    if on_existing not in ON_EXISTING:
        raise ValueError(f"on_existing {on_existing!r} is none of {', '.join(ON_EXISTING)}")

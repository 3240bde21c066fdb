"""The loop of a trainer: next batch, report, checkpoint. What every adapter to a trainer stands on."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from promptgps_client import wire
from promptgps_client.client import PromptGPS
from promptgps_client.columns import Array, Integers, Numbers, Strings
from promptgps_client.errors import BadAnswer
from promptgps_client.selector.asking import Asker, Question, Silence
from promptgps_client.selector.batch import Draw, DrawnBatch, Source, local_id
from promptgps_client.selector.courier import Courier
from promptgps_client.selector.fallback import Fallback, LocalDraws
from promptgps_client.selector.outcomes import Record, records
from promptgps_client.selector.spool import Spool, WhenFull
from promptgps_client.wire import Status

_log = logging.getLogger(__name__)

ROLLOUTS: int = wire.CreateRun.model_fields["rollouts_per_prompt"].default
BATCHES_REMEMBERED = 16  # for who asks position by position
DRAWS_REMEMBERED = 100_000  # for local draws by score: their outcomes may still come
STATE_FORMAT = 1


class Selector:
    """Batches from the service, or local ones where it does not answer; reports through a spool on disk.

    Where the service refuses a request (wrong key, no such run, an outcome that cannot be) before it has taken one of
    the kind, the configuration is at fault and the refusal is raised. Later nothing of the service is: draws become
    local, reports are set aside, loudly. Any number of threads may use it, but only the process that made it.

    Args:
        service: A client, or an address for one; default: the environment's PROMPTGPS_URL.
        run: The run's name.
        batch_size: Draws of a batch.
        prompts: Keys of the run's prompts, or a mapping from them to rows of any kind; local draws come from these.
        spool: Folder for reports on their way, for this process alone.
        rollouts: n of every batch; default: the run's.
        seed: Of the local draws; the same on all ranks.
        deadline: Seconds that a step waits for the service, besides `wait_seconds`.
        wait_seconds: As in `select_batch`: time for the model to learn from everything reported.
        fallback: `uniform`, or `scores`: by the success rates that were last predicted and reported.
        prefetch: Ask for the next batch in the background as soon as one is handed out. It then misses the outcomes
            of the batch before it, and carries the policy version given with that one.
        spool_bytes: Most bytes of reports on disk.
        when_full: Of a full spool `drop_oldest` reports, or `block` until some are delivered.

    Raises:
        SpoolInUse: Another process has the spool.
        ValueError: The prompts or the settings contradict each other.
        OSError: The spool's folder cannot be used.
    """

    def __init__(
        self, service: PromptGPS | str | None = None, *, run: str, batch_size: int,
        prompts: Sequence[str] | Mapping[str, Any], spool: str | Path, rollouts: int | None = None, seed: int = 0,
        deadline: float = 5.0, wait_seconds: float = 0.0, fallback: Fallback = "uniform", prefetch: bool = False,
        spool_bytes: int = 512 << 20, when_full: WhenFull = "drop_oldest",
    ) -> None:  # fmt: skip
        self._keys = list(prompts)
        self._rows = list(prompts.values()) if isinstance(prompts, Mapping) else [None] * len(self._keys)
        self._index = {key: index for index, key in enumerate(self._keys)}
        _check(self._keys, self._index, batch_size, deadline)
        self._run, self._seed, self._prefetch, self._deadline = run, seed, prefetch, deadline
        self._rollouts, self._batch_size = rollouts, batch_size
        self._waits = wait_seconds > 0 and not prefetch
        self._local = LocalDraws(fallback, len(self._keys), batch_size, seed)
        self._sequence = 0
        self._policy_version: int | None = None
        self._answered = self._reported = False
        self._fallbacks: set[int] = set()
        self._recent: OrderedDict[int, DrawnBatch] = OrderedDict()
        self._drawn: OrderedDict[str, int] = OrderedDict()
        self._sources: Counter[Source] = Counter()
        self._lock = threading.RLock()
        self._process, self._closed = os.getpid(), False
        client = service if isinstance(service, PromptGPS) else PromptGPS(service)
        self._own_client = None if client is service else client
        self._spool = Spool(Path(spool), spool_bytes, when_full)
        self._asker = Asker(client, run, batch_size, rollouts, deadline, wait_seconds)
        self._courier = Courier(client, self._spool, self._asker)
        atexit.register(self.close)

    # ---- draws ---------------------------------------------------------------------------------------------

    def next_batch(self, policy_version: int | None = None) -> DrawnBatch:
        """The next batch to roll out, the same on every rank and after a restart from the same state.

        Args:
            policy_version: The trainer's step counter.

        Raises:
            BadAnswer: The service refuses, and has never answered this selector.
            ValueError: The service draws prompts that this selector was not given, likewise.
        """
        policy_version = None if policy_version is None else int(policy_version)
        with self._lock:
            asked_ahead = self._prefetch and self._sequence > 0
            batch = self.batch_at(self._sequence, self._policy_version if asked_ahead else policy_version)
            self._sequence += 1
            self._policy_version = policy_version
            if self._prefetch:
                self._asker.ask_ahead(Question(self._sequence, policy_version))
            return batch

    def batch_at(self, sequence: int, policy_version: int | None = None) -> DrawnBatch:
        """The batch of a sequence, for trainers that number their steps or read positions again after a restart.

        A sequence that was drawn locally stays local: what the service may have answered too late is not used. Errors
        are those of `next_batch`.
        """
        self._check_process()
        with self._lock:
            if sequence not in self._recent:
                self._recent[sequence] = self._draw(Question(sequence, policy_version))
                if len(self._recent) > BATCHES_REMEMBERED:
                    self._recent.popitem(last=False)
            return self._recent[sequence]

    def draws(self, position: int = 0) -> Iterator[Draw]:
        """Draws one by one without end, from a position on: that of batch b begins at b · `batch_size`."""
        while True:
            sequence, row = divmod(position, self._batch_size)
            yield self.batch_at(sequence)[row]
            position += 1

    def _draw(self, question: Question) -> DrawnBatch:
        if question.sequence in self._fallbacks:
            return self._drawn_locally(question, "it was before")
        if self._waits and not (self._asker.silent or self._courier.failing):
            self._courier.flush(self._deadline)  # or the model could not learn from what waits in the spool
        try:
            return self._taken(self._asker.ask(question))
        except Silence as silence:
            self._courier.wake()
            return self._drawn_locally(question, str(silence))
        except (BadAnswer, UnusableDraws) as refusal:
            if not self._answered:
                raise
            return self._drawn_locally(question, str(refusal))

    def _taken(self, answer: wire.Batch) -> DrawnBatch:
        """The service's answer as draws."""
        draws = answer.draws
        if foreign := [key for key in draws.prompt if key not in self._index]:
            raise UnusableDraws(f"the service draws {foreign[0]!r}, which is not among this selector's prompts")
        sizes = {len(column) for column in (draws.draw_id, draws.prompt, draws.rollouts, draws.predicted_success)}
        if sizes != {self._batch_size}:
            raise UnusableDraws(f"the service answers columns of {sorted(sizes)} draws, not of {self._batch_size}")
        self._answered = True
        self._rollouts = draws.rollouts[0]
        for warning in answer.warnings:
            _log.info("batch %d: %s", answer.sequence, warning)
        return self._batch(
            answer.sequence, "replay" if answer.replayed else "service", draws.draw_id,
            [self._index[key] for key in draws.prompt], draws.rollouts, list(draws.predicted_success), answer.warnings,
        )  # fmt: skip

    def _drawn_locally(self, question: Question, reason: str) -> DrawnBatch:
        warning = f"batch {question.sequence} is drawn locally: {reason}"
        _log.warning(warning)
        self._fallbacks.add(question.sequence)
        rollouts = self._rollouts or ROLLOUTS
        index = self._local.draw(question.sequence, rollouts)
        draw_id = [
            local_id(question.sequence, position, question.policy_version, self._keys[at])
            for position, at in enumerate(index)
        ]
        predicted = [self._local.predicted(at) for at in index]
        return self._batch(question.sequence, "fallback", draw_id, index, [rollouts] * len(index), predicted, [warning])

    def _batch(
        self, sequence: int, source: Source, draw_id: list[str], index: Sequence[int], rollouts: list[int],
        predicted: list[float | None], warnings: list[str],
    ) -> DrawnBatch:  # fmt: skip
        self._sources[source] += 1
        self._local.learn(sequence, index, predicted)
        self._drawn.update(zip(draw_id, index, strict=True))
        while len(self._drawn) > DRAWS_REMEMBERED:
            self._drawn.popitem(last=False)
        return DrawnBatch(
            sequence=sequence, source=source, draw_id=draw_id, prompt=[self._keys[at] for at in index],
            index=list(index), rollouts=rollouts, predicted_success=predicted, row=[self._rows[at] for at in index],
            warnings=warnings,
        )  # fmt: skip

    # ---- outcomes ------------------------------------------------------------------------------------------

    def report(
        self, draw_id: Strings, *, successes: Numbers | None = None, trials: Integers | None = None,
        reward: Sequence[float | None] | Array | None = None, rollout_index: Integers | None = None,
        status: Sequence[Status] | None = None, policy_version: int | Integers | None = None,
    ) -> None:  # fmt: skip
        """Report whole groups (`successes` of `trials`) or single rollouts (`reward`). On disk once it returns.

        Draws of the service and local ones may be mixed, and come from any batch. It does not wait for the service.

        Args:
            draw_id: Of each row. For rollouts once for each: the flat lists of a trainer fit as they are.
            successes: In [0, trials].
            trials: Rollouts that count.
            reward: Raw rewards. Without `status`, None is a rollout that nobody scored (`cancelled`), and NaN and the
                infinities are an `error`.
            rollout_index: Number of the rollout in its draw; default: in the order of the rows. It must be given where
                the rollouts of one draw are reported in several calls.
            status: As in `report_rollouts`.
            policy_version: The trainer's step that sampled them, one for all or one for each row.

        Raises:
            InvalidRequest: Names field and row; only before a first report was good. Later the report is set aside.
        """
        self._check_process()
        if len(draw_id) == 0:
            return
        report = {
            "draw_id": draw_id, "successes": successes, "trials": trials, "reward": reward,
            "rollout_index": rollout_index, "status": status, "policy_version": policy_version,
        }  # fmt: skip
        try:
            made = list(records(self._run, report))
        except Exception as refusal:
            if not self._reported:
                raise
            _log.debug("a report cannot be", exc_info=True)
            self._spool.set_aside(repr(report).encode(), str(refusal))
            return
        self._reported = True
        durable = [self._spool.append(record.line()) for record in made]
        self._courier.wake()
        for record in made:
            self._learn(record)
        if not all(durable) and not self._asker.silent:
            self._courier.flush(self._deadline)

    def _learn(self, record: Record) -> None:
        """Without the lock, which a step holds while it waits for the service: this only replaces what is there."""
        for draw_id, successes, trials in record.evidence:
            if (index := self._drawn.get(draw_id)) is not None:
                self._local.report(index, successes, trials)

    def flush(self, seconds: float = 30.0) -> bool:
        """Deliver what is reported; false when time ran out, then it is delivered later."""
        return self._courier.flush(seconds)

    @property
    def counters(self) -> dict[str, int]:
        """For the trainer's own metrics: batches by source; outcomes by what the service said; reports by their state.

        `dropped` reports are lost, `refused` ones set aside.
        """
        batches = {f"batches_{source}": self._sources[source] for source in ("service", "replay", "fallback")}
        return batches | {
            "outcomes_stored": self._courier.stored,
            "outcomes_duplicate": self._courier.duplicates,
            "outcomes_conflicting": self._courier.conflicts,
            "reports_waiting": len(self._spool),
            "reports_refused": self._spool.refused,
            "reports_dropped": self._spool.dropped,
        }

    # ---- checkpoint ----------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What a trainer's checkpoint keeps, in JSON's types: the next batch is then the same after a restart."""
        with self._lock:
            return {
                "format": STATE_FORMAT, "run": self._run, "sequence": self._sequence,
                "policy_version": self._policy_version, "answered": self._answered, "rollouts": self._rollouts,
                "fallbacks": sorted(self._fallbacks), "known": self._local.state(self._keys),
            }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: It is of another run, or of another version of this client.
        """
        if (state["format"], state["run"]) != (STATE_FORMAT, self._run):
            raise ValueError(f"a state of format {state['format']} and run {state['run']!r}, not of {self._run!r}")
        with self._lock:
            self._sequence, self._policy_version = state["sequence"], state["policy_version"]
            self._answered, self._rollouts = state["answered"], state["rollouts"]
            self._fallbacks = set(state["fallbacks"])
            self._local.restore(state["known"], self._index)
            self._recent.clear()

    # ---- the end -------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Deliver what can be delivered within the deadline; the rest waits on disk for the next selector."""
        if self._closed or self._process != os.getpid():
            return
        self._closed = True
        atexit.unregister(self.close)
        if not self._courier.flush(0.0 if self._asker.silent else self._deadline):
            _log.warning("%d reports wait in the spool for the next selector", len(self._spool))
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
            raise RuntimeError("this selector belongs to the process that made it; make one here, with its own spool")


class UnusableDraws(ValueError):
    """An answer that is no batch for this selector."""


def _check(keys: Sequence[str], index: Mapping[str, int], batch_size: int, deadline: float) -> None:
    if len(index) < len(keys):
        twice, _ = Counter(keys).most_common(1)[0]
        raise ValueError(f"prompts must be distinct keys, {twice!r} is there twice")
    if not 1 <= batch_size <= len(keys):
        raise ValueError(f"batch_size {batch_size} is not in 1..{len(keys)}, the number of prompts")
    if not deadline > 0:
        raise ValueError(f"deadline {deadline:g} s is not positive")

"""Asking for a batch with a deadline, and, after silence, not at every step."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar

from promptgps_client.client import PromptGPS
from promptgps_client.errors import BadAnswer
from promptgps_client.transport import PASSING
from promptgps_client.wire import Batch

_log = logging.getLogger(__name__)

A = TypeVar("A")

LONGEST_WAIT = 600.0
SHORTER_WHEN_ALIVE = 8  # a sign of life divides the wait by this
THREADS = 4  # one that hangs (a name server) must not keep the next request from being tried


class Silence(Exception):
    """The service did not answer in time, or not to the point; it may pass."""


@dataclass(frozen=True)
class Question:
    """What tells one request of a selector from another; asked again it gets the same draws.

    Attributes:
        run: Its name.
        sequence: Of the batch in the run.
        policy_version: The trainer's step counter, as the run counts it.
        subset: Id of the prompts to draw from; None for all of the run.
    """

    run: str
    sequence: int
    policy_version: int | None
    subset: str | None = None


class Asker:
    """Asks for batches, at most `deadline` seconds (and `wait_seconds`) each.

    After the n-th silence in a row it asks again no sooner than deadline · 2ⁿ seconds later, at
    most ten minutes; an eighth of that once the service has shown a sign of life. Until then it
    raises `Silence` at once.
    """

    def __init__(
        self,
        client: PromptGPS,
        batch_size: int,
        rollouts: int | None,
        deadline: float,
        wait_seconds: float,
    ) -> None:
        self._client = client
        self._batch_size = batch_size
        self._rollouts = rollouts
        self._deadline = deadline
        self._wait_seconds = wait_seconds
        self._threads = ThreadPoolExecutor(THREADS, "promptgps-select")
        self._ahead: tuple[Question, Future[Batch]] | None = None
        self._silences = 0
        self._silent_since = self._alive_at = monotonic()

    @property
    def silent(self) -> bool:
        """Whether the last request got no answer."""
        return self._silences > 0

    @property
    def lost(self) -> bool:
        """Whether there has been no sign of life since."""
        return self.silent and self._alive_at <= self._silent_since

    def alive(self) -> None:
        """The service has answered something else."""
        self._alive_at = monotonic()

    def ask(self, question: Question) -> Batch:
        """The answer to a question, perhaps asked ahead.

        Raises:
            Silence: None in time, or it is too early to try again.
            BadAnswer: The service refuses.
        """
        seconds = self._deadline + self._wait_seconds
        ahead = self._asked_ahead(question)
        if ahead is not None:
            try:
                return self._answered(ahead, seconds, self._note_late)
            except BadAnswer:
                _log.debug("what was asked ahead is refused, and asked anew", exc_info=True)

        self._check_rest()
        return self._answered(self._send(question), seconds, self._note_late)

    def within(self, call: Callable[[PromptGPS], A], longer: float = 0.0) -> A:
        """The answer to any other call, with the same patience, or so many seconds more.

        Raises:
            Silence: None in time, or it is too early to try again.
            BadAnswer: The service refuses.
        """
        self._check_rest()
        client = self._patient(longer)
        return self._answered(
            self._threads.submit(call, client), self._deadline + longer, lambda _: self.alive()
        )

    def ask_ahead(self, question: Question) -> None:
        """Ask in the background, for an `ask` to come."""
        if not self.silent:
            self._ahead = question, self._send(question)

    def close(self) -> None:
        """Let go of the threads.

        One that still waits for an answer ends with its request's own timeout.
        """
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _answered(
        self, answer: Future[A], seconds: float, late: Callable[[Future[A]], object]
    ) -> A:
        try:
            result = answer.result(seconds)
        except BadAnswer as refusal:
            if refusal.status not in PASSING and refusal.status < 500:
                raise
            raise self._silence(refusal) from refusal
        except TimeoutError as fault:
            answer.add_done_callback(late)
            raise self._silence(f"no answer within {seconds:g} s") from fault
        except Exception as fault:
            _log.debug("no answer", exc_info=True)
            raise self._silence(fault) from fault

        self._silences = 0
        return result

    def _asked_ahead(self, question: Question) -> Future[Batch] | None:
        """What was asked ahead, unless it is another question or failed: then it is asked anew."""
        asked, answer = self._ahead or (None, None)
        self._ahead = None
        if (
            asked != question
            or answer is None
            or (answer.done() and answer.exception() is not None)
        ):
            return None

        return answer

    def _send(self, question: Question) -> Future[Batch]:
        return self._threads.submit(
            self._patient().select_batch,
            run=question.run,
            batch_size=self._batch_size,
            sequence=question.sequence,
            policy_version=question.policy_version,
            subset=question.subset,
            rollouts=self._rollouts,
            wait_seconds=self._wait_seconds,
        )

    def _patient(self, longer: float = 0.0) -> PromptGPS:
        return self._client.with_options(
            timeout=2 * self._deadline + longer,
            connect_timeout=self._deadline,
            longest_wait=1.0,
            retry_seconds=0.0 if self.silent else self._deadline,
        )

    def _check_rest(self) -> None:
        """Raise where it is not worth asking again yet."""
        if not self.silent:
            return

        wait = min(self._deadline * 2.0 ** min(self._silences, 30), LONGEST_WAIT)
        if not self.lost:
            wait /= SHORTER_WHEN_ALIVE

        if (rest := self._silent_since + wait - monotonic()) > 0:
            raise Silence(
                f"the service was silent and is asked again in {rest:.0f} s at the latest"
            )

    def _silence(self, reason: object) -> Silence:
        self._silences += 1
        self._silent_since = monotonic()
        return Silence(str(reason))

    def _note_late(self, answer: Future[Batch]) -> None:
        if not answer.cancelled() and answer.exception() is None:
            self.alive()
            sequence = answer.result().sequence
            _log.warning(
                "batch %d was answered late; local draws have taken the place of its own", sequence
            )

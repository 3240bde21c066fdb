"""The background thread that brings reports from the spool to the service, and looks whether a silent one is back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from time import monotonic

from pydantic import ValidationError

from promptgps_client.client import PromptGPS
from promptgps_client.errors import BadAnswer, Conflict, InvalidRequest, NotFound, PromptGPSError, TooLarge
from promptgps_client.selector.asking import Asker, Silence
from promptgps_client.selector.outcomes import Record, merged, send
from promptgps_client.selector.segment import Line
from promptgps_client.selector.spool import Spool
from promptgps_client.wire import Reward

_log = logging.getLogger(__name__)

REPORTS_IN_REQUEST = 64
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
TRIES_AT_500 = 20  # minutes: a service that is deployed broken may be mended in so long, a report that breaks it not
OWN_PROBLEMS = "urn:promptgps:problem:"


class Courier:
    """Delivers what is in a spool, in order, one request at a time; what the service refuses is set aside."""

    def __init__(self, client: PromptGPS, spool: Spool, asker: Asker) -> None:
        self._client = client.with_options(timeout=60.0, retry_seconds=0.0)  # it waits between attempts itself
        self._spool, self._asker = spool, asker
        self._rewards: dict[str, Reward] = {}
        self._failures = 0
        self._due = 0.0
        self._urgent = self._closing = False
        self._turn = threading.Condition()
        self.stored = self.duplicates = self.conflicts = 0
        threading.Thread(target=self._run, name="promptgps-courier", daemon=True).start()

    @property
    def failing(self) -> bool:
        """Whether the last delivery did not succeed."""
        return self._failures > 0

    def wake(self, *, now: bool = False) -> None:
        """There is something to do; with `now` it does not wait for the time of the next attempt."""
        with self._turn:
            self._urgent |= now
            self._turn.notify()

    def flush(self, seconds: float) -> bool:
        """Deliver everything; false when time ran out."""
        self.wake(now=True)
        return self._spool.wait_empty(seconds)

    def close(self) -> None:
        """End the thread, without waiting for a request under way."""
        with self._turn:
            self._closing = True
            self._turn.notify()

    # ---- the thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._wait_for_turn():
            try:
                self._work()
            except (PromptGPSError, Silence) as fault:
                self._rest(fault)
            except Exception as fault:  # noqa: BLE001  reports must go on being delivered; the log has the traceback
                _log.exception("a delivery failed unexpectedly")
                self._rest(fault)
            else:
                self._failures, self._due = 0, 0.0

    def _wait_for_turn(self) -> bool:
        """Wait until there is something to do and it is time; false at the end."""
        with self._turn:
            while not self._closing:
                busy = len(self._spool) > 0 or self._asker.lost
                rest = self._due - monotonic()
                if busy and (self._urgent or rest <= 0):
                    self._urgent = False
                    return True
                self._turn.wait(rest if busy else None)
            return False

    def _rest(self, fault: Exception) -> None:
        wait = min(FIRST_WAIT * 2.0 ** min(self._failures, 30), LONGEST_WAIT)
        if isinstance(fault, BadAnswer):
            wait = max(wait, fault.retry_after or 0.0)
        self._failures += 1
        self._due = monotonic() + wait
        _log.warning("the service is tried again in %.3g s, %d reports wait: %s", wait, len(self._spool), fault)

    def _work(self) -> None:
        waiting = []
        for line, content in self._spool.oldest(1 if self._failures else REPORTS_IN_REQUEST):
            try:
                waiting.append((line, Record.model_validate_json(content)))
            except ValidationError as broken:
                self._spool.refuse(line, f"it is no report: {broken}")
        if waiting:
            self._deliver(waiting)
        elif self._asker.lost:
            if not self._client.ready().ready:
                raise Silence("it is not ready")
            self._asker.alive()

    def _deliver(self, waiting: Sequence[tuple[Line, Record]]) -> None:
        """Send the first reports as one request; where that is refused, each of them alone."""
        count, record = merged([record for _, record in waiting])
        try:
            answer = send(self._client, record, self._reward_of)
        except BadAnswer as fault:
            if not self._is_final(fault):
                raise
            if count == 1:
                self._spool.refuse(waiting[0][0], str(fault))
            else:
                for one in waiting[:count]:
                    self._deliver([one])
            return
        self._asker.alive()
        self.stored += answer.stored
        self.duplicates += answer.duplicates
        self.conflicts += len(answer.conflicts)
        if answer.conflicts:
            ids = (record.draw_id or [])[answer.conflicts[0]]
            _log.warning("%d outcomes contradict the log and change nothing, of draw %s on", len(answer.conflicts), ids)
        self._spool.done([line for line, _ in waiting[:count]])

    def _is_final(self, fault: BadAnswer) -> bool:
        """Whether the report itself is at fault, so that sending it again is of no use."""
        if isinstance(fault, NotFound):  # a proxy says so of its own while the service is away
            return fault.problem.type.startswith(OWN_PROBLEMS)
        broken = fault.status == 500 and self._failures >= TRIES_AT_500
        return broken or isinstance(fault, InvalidRequest | Conflict | TooLarge)

    def _reward_of(self, run: str) -> Reward:
        if run not in self._rewards:
            self._rewards[run] = self._client.run(run).reward
        return self._rewards[run]

"""The background thread that brings reports from the spool to the service.

It also looks whether a silent service is back.

What the service will never take is set aside row by row, and the rest of the report is sent again.
Reports of a run that is not open wait, and keep those of other runs up by nothing.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

from pydantic import ValidationError

from promptgps_client.client import PromptGPS
from promptgps_client.errors import (
    BadAnswer,
    Conflict,
    InvalidRequest,
    NotFound,
    OutcomesRefused,
    PromptGPSError,
    TooLarge,
)
from promptgps_client.selector.asking import Asker, Silence
from promptgps_client.selector.outcomes import Record, Refused, Request, mergeable, request_of, send
from promptgps_client.selector.segment import Line
from promptgps_client.selector.spool import Spool
from promptgps_client.wire import OutcomesStored, Reward

_log = logging.getLogger(__name__)

REPORTS_IN_REQUEST = 64
FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
# Minutes: a service that is deployed broken may be mended in so long, a report that breaks it not.
TRIES_AT_500 = 20
# Rounds of sending a report again without the rows that were refused; the service names up to 20
# in each.
ROUNDS = 64
# The loop is told of refusals where they are a high share of the rows of the last reports; after a
# first good report only where they are that many rows, or go on for so many reports: one wrong row
# is bad luck, a reward of another kind is not.
REPORTS_JUDGED = 8
HIGH_SHARE = 0.1
MANY_ROWS = 16
NOT_OPEN_WAIT = 30.0
REASONS_SHOWN = 3
OWN_PROBLEMS = "urn:promptgps:problem:"
RUN_NOT_OPEN = f"{OWN_PROBLEMS}run-not-open"


@dataclass
class Report:
    """A report on its way.

    Attributes:
        line: Where it waits.
        record: What of it is still to be sent.
        refused: Rows that were set aside, and why; together with the record they are the whole
            report.
    """

    line: Line
    record: Record
    refused: list[tuple[Record, str]]

    def refuse(self, rows: Mapping[int, str]) -> None:
        """Set rows of the record aside."""
        if rows:
            reasons = list(dict.fromkeys(rows.values()))
            more = (
                f"; and {len(reasons) - REASONS_SHOWN} more" if len(reasons) > REASONS_SHOWN else ""
            )
            self.refused.append((self.record.only(rows), "; ".join(reasons[:REASONS_SHOWN]) + more))
            self.record = self.record.without(rows)

    def refuse_all(self, reason: str) -> None:
        """Set all that is left aside."""
        self.refuse(dict.fromkeys(range(len(self.record)), reason))


class Courier:
    """Delivers what is in a spool, in order, one request at a time.

    Args:
        client: To the service.
        spool: What it delivers.
        asker: It is told of each sign of life.
        run: The run of this process's own reports.

    Attributes:
        stored: Outcomes that were new.
        duplicates: Outcomes that the service had already.
        conflicts: Outcomes that contradict what it has.
        refused: Outcomes that were set aside.
        unproven: Whether the service has not said yet what it makes of this process's reports.
    """

    def __init__(self, client: PromptGPS, spool: Spool, asker: Asker, run: str) -> None:
        # it waits between attempts itself
        self._client = client.with_options(timeout=60.0, retry_seconds=0.0)
        self._spool = spool
        self._asker = asker
        self._run_name = run
        self._renamed: dict[str, str] = {}
        self._held = False
        self._not_open: dict[str, float] = {}  # runs, and when they are tried again
        self._rewards: dict[str, Reward] = {}
        self._failures = 0
        self._due = 0.0
        self._urgent = False
        self._closing = False
        self._turn = threading.Condition()
        self.stored = 0
        self.duplicates = 0
        self.conflicts = 0
        self.refused = 0
        self.unproven = True
        self._proven = False  # whether a report of this process, not of one before it, was good
        # rows refused, and rows, of reports
        self._lately: deque[tuple[int, int]] = deque(maxlen=REPORTS_JUDGED)
        self._trouble: OutcomesRefused | None = None
        threading.Thread(target=self._run, name="promptgps-courier", daemon=True).start()

    @property
    def failing(self) -> bool:
        """Whether the last delivery did not succeed."""
        return self._failures > 0

    def wake(self, *, now: bool = False) -> None:
        """There is something to do; `now` does not wait for the time of the next attempt."""
        with self._turn:
            self._urgent |= now
            self._turn.notify()

    def hold(self) -> None:
        """Keep this process's own reports back: which run they are of is not known yet."""
        self._held = True

    def release(self, run: str) -> None:
        """Let them go, to that run."""
        if run != self._run_name:
            self._renamed[self._run_name] = run
        self._run_name = run
        self._held = False
        self.wake()

    def flush(self, seconds: float) -> bool:
        """Deliver everything; false when time ran out, or where the run is not open.

        Reports of other runs, which an earlier process has left, are not waited for where theirs is
        not open.
        """
        self._not_open = {}
        self.wake(now=True)
        self._spool.wait_empty(seconds, lambda: not self._spool.waits(self._kept_back))
        return not self._spool.waits(self._not_open.keys() - {self._run_name})

    def wait_verdict(self, seconds: float) -> None:
        """Wait until the service has said what it makes of this process's first report."""
        self.wake(now=True)
        self._spool.wait_empty(
            seconds, lambda: not self.unproven or self.failing or bool(self._not_open)
        )

    def close(self) -> None:
        """End the thread, without waiting for a request under way."""
        with self._turn:
            self._closing = True
            self._turn.notify()

    # ---- what is refused -------------------------------------------------------------------------

    def set_aside(self, lines: Iterable[bytes], reason: str, rows: int) -> None:
        """Set aside outcomes of this process that the service would refuse: they are never sent.

        Args:
            lines: What is kept, one line for each record.
            reason: Why.
            rows: How many outcomes they are.
        """
        self._keep(lines, reason, rows)
        self._proven = True  # or it would have been raised
        self._judge(rows, rows, reason)

    def _keep(self, lines: Iterable[bytes], reason: str, rows: int) -> None:
        for line in lines:
            self._spool.set_aside(line, reason)
        self.refused += rows

    def trouble(self) -> OutcomesRefused | None:
        """What the loop must be told, once."""
        with self._turn:
            trouble = self._trouble
            self._trouble = None
            return trouble

    def _judge(self, refused: int, rows: int, reason: str) -> None:
        """So many rows of a report of this process were refused."""
        with self._turn:
            self._lately.append((refused, rows))
            bad = sum(refused for refused, _ in self._lately)
            high = bad >= HIGH_SHARE * sum(rows for _, rows in self._lately)
            for_long = bad >= MANY_ROWS or len(self._lately) == REPORTS_JUDGED

            if refused and high and (for_long or not self._proven):
                path = str(self._spool.refused_path)
                self._trouble = OutcomesRefused(self._run_name, refused, reason, path)
                self._lately.clear()

            self._proven |= refused < HIGH_SHARE * rows

    # ---- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._wait_for_turn():
            try:
                self._work()
            except (PromptGPSError, Silence) as fault:
                self._rest(fault)
            except Exception as fault:  # noqa: BLE001
                # reports must go on being delivered; the log has the traceback
                _log.exception("a delivery failed unexpectedly")
                self._rest(fault)
            else:
                self._failures = 0
                self._due = 0.0
                self._spool.tell()

    def _wait_for_turn(self) -> bool:
        """Wait until there is something to do and it is time; false at the end."""
        with self._turn:
            while not self._closing:
                self._open_again()
                busy = self._spool.waits(self._kept_back) or self._asker.lost
                rest = self._due - monotonic()
                if busy and (self._urgent or rest <= 0):
                    self._urgent = False
                    return True
                self._turn.wait(rest if busy else self._until_open())

            return False

    @property
    def _kept_back(self) -> frozenset[str]:
        """Runs whose reports are not for now."""
        return frozenset(self._not_open) | (
            frozenset({self._run_name}) if self._held else frozenset()
        )

    def _open_again(self) -> None:
        """Runs that were not open are tried again from time to time, and at once in a hurry."""
        now = monotonic()
        self._not_open = {
            run: due for run, due in self._not_open.items() if due > now and not self._urgent
        }

    def _until_open(self) -> float | None:
        return max(min(self._not_open.values()) - monotonic(), 0.0) if self._not_open else None

    def _rest(self, fault: Exception) -> None:
        wait = min(FIRST_WAIT * 2.0 ** min(self._failures, 30), LONGEST_WAIT)
        if isinstance(fault, BadAnswer):
            wait = max(wait, fault.retry_after or 0.0)

        self._failures += 1
        self._due = monotonic() + wait
        self._spool.tell()
        _log.warning(
            "the service is tried again in %.3g s, %d reports wait: %s",
            wait,
            len(self._spool),
            fault,
        )

    def _work(self) -> None:
        waiting = []
        most = 1 if self._failures else REPORTS_IN_REQUEST
        for line, content in self._spool.oldest(most, self._kept_back):
            try:
                waiting.append(Report(line, self._addressed(line, content), []))
            except ValidationError as broken:
                self._spool.refuse(line, f"it is no report: {broken}")

        if waiting:
            self._deliver(waiting[: mergeable([report.record for report in waiting])])
        elif self._asker.lost:
            if not self._client.ready().ready:
                raise Silence("it is not ready")
            self._asker.alive()

    def _addressed(self, line: Line, content: bytes) -> Record:
        """A record, to the run that it is of: this process's own may have been renamed since."""
        record = Record.model_validate_json(content)
        name = record.run if line.segment.inherited else self._renamed.get(record.run, record.run)
        return record if name == record.run else record.model_copy(update={"run": name})

    def _deliver(self, reports: Sequence[Report]) -> None:
        """Send reports as one request.

        It is sent again without the rows that are refused, until the rest is taken or none is left.
        """
        for _ in range(ROUNDS):
            left = [report for report in reports if len(report.record)]
            if not left:
                break

            run = left[0].record.run
            try:
                request = self._request(left)
            except Refused as refused:
                self._refuse(left, refused.rows)
                continue

            try:
                answer = send(self._client, run, request, left[0].record.id)
            except BadAnswer as refusal:
                if refusal.problem.type == RUN_NOT_OPEN:
                    return self._leave(run, refusal)
                if not self._is_final(refusal):
                    raise

                rows = self._rows_at_fault(left, request, refusal)
                if not rows and len(left) > 1:  # one of them is at fault
                    for report in reports:
                        self._deliver([report])
                    return None

                self._refuse(
                    left,
                    rows
                    or dict.fromkeys(
                        ((0, row) for row in range(len(left[0].record))), str(refusal)
                    ),
                )
            else:
                self._taken(answer, request)
                break
        else:
            for report in reports:
                report.refuse_all("too many rows of the report are refused, one after the other")

        for report in reports:
            self._settle(report)
        return None

    def _request(self, left: Sequence[Report]) -> Request:
        """One request of what is left of reports.

        Raises:
            Refused: Rewards of local draws that the run does not take.
        """
        records = [report.record for report in left]
        try:
            return request_of(records, self._reward_of)
        except Refused:
            if self._rewards.pop(records[0].run, None) is None:
                raise
            return request_of(records, self._reward_of)  # the run's reward may have changed since

    def _rows_at_fault(
        self, left: Sequence[Report], request: Request, refusal: BadAnswer
    ) -> dict[tuple[int, int], str]:
        """Rows that a refusal names, as (report, row), and those that the next one would.

        There are none where it names none.
        """
        rows = request.faulty(refusal)
        if rows and any(fault.field == "reward" for fault in refusal.problem.errors):
            self._rewards.pop(left[0].record.run, None)
            reward = self._reward_of(left[0].record.run)
            for number, report in enumerate(left):
                rows |= {
                    (number, row): reason
                    for row, reason in report.record.unrewarded(reward).items()
                }

        return rows

    def _refuse(self, left: Sequence[Report], rows: Mapping[tuple[int, int], str]) -> None:
        for number, report in enumerate(left):
            report.refuse({row: reason for (of, row), reason in rows.items() if of == number})

    def _taken(self, answer: OutcomesStored, request: Request) -> None:
        self._asker.alive()
        self.stored += answer.stored
        self.duplicates += answer.duplicates
        self.conflicts += len(answer.conflicts)

        if answer.conflicts:
            name = "draw" if "draw_id" in request.columns else "prompt"
            first = request.columns["draw_id" if name == "draw" else name][answer.conflicts[0]]
            count = len(answer.conflicts)
            _log.warning(
                "%d outcomes contradict the log and change nothing, of %s %s on", count, name, first
            )

    def _settle(self, report: Report) -> None:
        """Forget a report that is done with, once what was refused of it is kept."""
        for record, reason in report.refused:
            self._keep([record.line()], reason, len(record))

        if not report.line.segment.inherited:
            refused = sum(len(record) for record, _ in report.refused)
            reason = report.refused[0][1] if report.refused else ""
            self._judge(refused, refused + len(report.record), reason)
            self.unproven = False

        self._spool.done([report.line])

    def _leave(self, run: str, refusal: BadAnswer) -> None:
        """Let the reports of a run wait that is not open."""
        self._not_open = {**self._not_open, run: monotonic() + NOT_OPEN_WAIT}
        self._asker.alive()
        _log.warning("reports of run %s wait: %s", run, refusal)

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

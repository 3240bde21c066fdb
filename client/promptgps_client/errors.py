"""Everything that a call can raise.

    PromptGPSError
    ├── NoAnswer               no answer; the service may have done it, except with ConnectFailed
    │   ├── ConnectFailed      the request was certainly not sent
    │   └── TimedOut           sent, and silence for longer than the timeout
    ├── BadAnswer              a problem came back: status, problem (RFC 9457), request_id
    │   ├── InvalidRequest     400, 422; also raised before sending, then request_id is None
    │   ├── Unauthenticated    401
    │   ├── Forbidden          403
    │   ├── NotFound           404
    │   ├── Conflict           409
    │   ├── TooLarge           413
    │   ├── TooBusy            429
    │   └── ServerFault        5xx
    ├── UnreadableAnswer       success came back in a form that this client cannot read
    ├── ExistingRun            a new training would go on in an old run; raised by `Selector`
    └── OutcomesRefused        outcomes that the service will never take; raised by `Selector`

Whatever is worth a retry has been retried before it is raised. Each error keeps its arguments in
`args`, so that it survives pickling: trainers raise across process borders (Ray, data loader
workers).
"""

from __future__ import annotations

from collections.abc import Sequence
from http.client import responses
from itertools import islice

from pydantic import ValidationError

from promptgps_client.wire import Problem, ProblemFault
from promptgps_client.wire.faults import fault_of, meant, message_of

FAULTS_SHOWN = 5
FAULTS_KEPT = 100
BODY_SHOWN = 300
SNAPSHOTS_SHOWN = 8


class PromptGPSError(Exception):
    """Root of the tree.

    `call` is method and path, `request_id` finds the request in the service's log.
    """

    call: str
    request_id: str | None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class NoAnswer(PromptGPSError):
    """The connection broke, or nothing came back."""

    def __init__(self, call: str, reason: str, request_id: str) -> None:
        super().__init__(call, reason, request_id)
        self.call = call
        self.reason = reason
        self.request_id = request_id

    def __str__(self) -> str:
        return f"{self.call}: {self.reason} (request {self.request_id})"


class ConnectFailed(NoAnswer):
    """No connection could be made; nothing was sent."""


class TimedOut(NoAnswer):
    """The service took the connection but was silent for longer than the timeout."""


class BadAnswer(PromptGPSError):
    """The service answered with a problem.

    `retry_after` is its wish in seconds, 0 to 60, or None.
    """

    def __init__(
        self,
        call: str,
        problem: Problem,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(call, problem, request_id, retry_after)
        self.call = call
        self.problem = problem
        self.request_id = request_id
        self.retry_after = retry_after

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.problem.status

    def __str__(self) -> str:
        faults = self.problem.errors
        detail = self.problem.detail or self.problem.title
        # The service repeats its first fault in the detail, by the request's row; ours are the
        # caller's rows.
        lead = [] if any(fault.detail in detail for fault in faults) else [detail]
        told = "; ".join([*lead, *map(_told, faults[:FAULTS_SHOWN])])
        more = f"; and {len(faults) - FAULTS_SHOWN} more" if len(faults) > FAULTS_SHOWN else ""
        request = f" (request {self.request_id})" if self.request_id else ""

        return f"{self.call}: {self.status}: {told}{more}{request}"


class InvalidRequest(BadAnswer):
    """400 or 422: the message names field and row. Nothing of the request was stored."""


class Unauthenticated(BadAnswer):
    """401: the API key is missing or wrong."""


class Forbidden(BadAnswer):
    """403."""


class NotFound(BadAnswer):
    """404: no such pool, run or prompt."""


class Conflict(BadAnswer):
    """409: the same name or sequence was used before with other content."""


class TooLarge(BadAnswer):
    """413: over one of the documented limits."""


class TooBusy(BadAnswer):
    """429: the service is full, and was so until the retry budget ran out."""


class ServerFault(BadAnswer):
    """5xx."""


class UnreadableAnswer(PromptGPSError):
    """An answer this client cannot read: a proxy's page, or of a service of another version.

    `status` is 0 where the body's encoding is broken, so that not even a problem could be read.
    """

    def __init__(self, call: str, reason: str, status: int, body: str, request_id: str) -> None:
        super().__init__(call, reason, status, body, request_id)
        self.call = call
        self.reason = reason
        self.status = status
        self.body = body
        self.request_id = request_id

    def __str__(self) -> str:
        begins = f"it begins {self.body!r}" if self.body else "no body"
        status = f"{self.status}, but " if self.status else ""
        return f"{self.call}: {status}{self.reason}; {begins} (request {self.request_id})"


class ExistingRun(PromptGPSError):
    """A training without a loaded state was about to be given the batches of one before it.

    `run` is its name, `snapshots` the tags that it can be put back to, `new_name` what
    `on_existing="new"` opens.
    """

    def __init__(
        self, run: str, sequence: int, draws: int, snapshots: Sequence[str], new_name: str
    ) -> None:
        super().__init__(run, sequence, draws, tuple(snapshots), new_name)
        self.call = "POST /select_batch"
        self.request_id = None
        self.run = run
        self.sequence = sequence
        self.draws = draws
        self.snapshots = tuple(snapshots)
        self.new_name = new_name

    def __str__(self) -> str:
        latest = ", ".join(self.snapshots[-SNAPSHOTS_SHOWN:])
        more = (
            f"the latest of {len(self.snapshots)}: "
            if len(self.snapshots) > SNAPSHOTS_SHOWN
            else ""
        )
        there_are = f"({more}{latest})" if latest else "(there is none now)"
        return (
            f"run {self.run!r} has been trained on before: outcomes of its draws are stored, up to "
            f"draw {self.draws - 1}, and batch {self.sequence} was answered then. No state was "
            "loaded, so this training would roll out the old draws again, and nothing of it would "
            "be learned. Either resume: load the trainer's checkpoint and with it the selector's "
            "state, or say on_existing='resume' for new batches after the old ones. Or restore: "
            f"put the run back to a snapshot {there_are} before going on from its checkpoint. Or "
            f"start anew: on_existing='new' opens {self.new_name!r}; another name does as well."
        )


class OutcomesRefused(PromptGPSError):
    """Outcomes of this training that the service will never take.

    `kept` is the file that has them.
    """

    def __init__(self, run: str, rows: int, reason: str, kept: str) -> None:
        super().__init__(run, rows, reason, kept)
        self.call = "POST /outcomes"
        self.request_id = None
        self.run = run
        self.rows = rows
        self.reason = reason
        self.kept = kept

    def __str__(self) -> str:
        return (
            f"{self.rows} outcomes reported to run {self.run!r} are refused: {self.reason}. They "
            f"are kept in {self.kept}; mended and renamed to 1.jsonl there, they are sent again by "
            "the next selector"
        )


BY_STATUS: dict[int, type[BadAnswer]] = {
    400: InvalidRequest,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    422: InvalidRequest,
    429: TooBusy,
}


def bad_answer(
    call: str,
    status: int,
    body: bytes,
    request_id: str,
    retry_after: float | None = None,
    first_row: int = 0,
) -> BadAnswer:
    """The error for an answer that is no success.

    A body that is no problem document (a proxy's) is quoted.

    Columns may go out in several requests: `first_row` is where this one's begin in the caller's
    columns.
    """
    try:
        problem = Problem.model_validate_json(body, extra="ignore").model_copy(
            update={"status": status}
        )
    except ValidationError:
        title = responses.get(status, "Unknown status")
        detail = f"{title}: {shown(body)}" if body.strip() else title
        problem = Problem(type="about:blank", title=title, status=status, detail=detail)

    moved = [
        fault.model_copy(update={"row": fault.row + first_row}) if fault.row is not None else fault
        for fault in problem.errors
    ]
    kind = BY_STATUS.get(status, ServerFault if status >= 500 else BadAnswer)
    request_id = problem.request_id or request_id
    return kind(call, problem.model_copy(update={"errors": moved}), request_id, retry_after)


def invalid_request(call: str, *faults: ProblemFault) -> InvalidRequest:
    """The error for a request that is refused before it is sent."""
    detail = "refused before it was sent"
    return InvalidRequest(
        call,
        Problem(
            type="about:blank",
            title="Invalid request",
            status=422,
            detail=detail,
            errors=list(faults),
        ),
    )


def faults_of(refused: ValidationError, first_row: int = 0) -> list[ProblemFault]:
    """Pydantic's faults in the words of the contract: field, row, detail."""
    return [
        fault_of(fault["loc"], message_of(fault), fault.get("ctx", {}), first_row)
        for fault in islice(meant(refused.errors(include_url=False)), FAULTS_KEPT)
    ]


def shown(body: bytes) -> str:
    """The beginning of a body, for a message."""
    return body[:BODY_SHOWN].decode(errors="replace")


def _told(fault: ProblemFault) -> str:
    row = "" if fault.row is None else f", row {fault.row}"
    return f"{fault.field}{row}: {fault.detail}"

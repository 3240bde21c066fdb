"""Reports on their way to the service.

They are checked, split by who drew, made records for the spool, and sent from there.

Outcomes of local draws have no draw of the service. They travel by prompt, as groups, with the
record's id as the idempotency key. Their single rollouts become groups only when they are sent: the
service knows the run's reward.

What is refused is refused row by row: `Record.only` and `Record.without` cut a record, whose id is
a digest of what it says, so that the rest of a report is another report, the same again after a
crash.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import isfinite
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from promptgps_client.call import read_fields
from promptgps_client.client import PromptGPS
from promptgps_client.columns import KINDS, NUMBERS, ROWS_IN_REQUEST, parts
from promptgps_client.errors import (
    FAULTS_KEPT,
    BadAnswer,
    InvalidRequest,
    faults_of,
    invalid_request,
)
from promptgps_client.selector.batch import local_draw
from promptgps_client.wire import OutcomesStored, ProblemFault, ReportOutcomes, Reward, Status

EVIDENCE = frozenset({"ok", "truncated"})  # the other statuses say nothing about difficulty
REPORTED = {**KINDS, "reward": NUMBERS}  # NaN is a rollout that failed, not one that is missing
Columns = Mapping[str, list[Any]]
_RUN = re.compile(rb'"run": ?"([A-Za-z0-9._-]+)"')


class Record(BaseModel):
    """One request to `/outcomes` to come.

    The id is a digest of its content: the same report again is a repetition.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    run: str
    draw_id: list[str] | None = None
    local_id: list[str] | None = None
    successes: list[float] | None = None
    trials: list[int] | None = None
    rollout_index: list[int] | None = None
    reward: list[float | None] | None = None
    status: list[Status] | None = None
    policy_version: list[int] | None = None

    @classmethod
    def of(cls, run: str, columns: Columns) -> Record:
        """The record of these columns.

        Raises:
            ValidationError: They are not of its types.
        """
        digest = blake2b(repr((run, sorted(columns.items()))).encode(), digest_size=16).hexdigest()
        return cls(id=digest, run=run, **columns)

    @property
    def columns(self) -> dict[str, list[Any]]:
        """Those that are there."""
        return self.model_dump(exclude={"id", "run"}, exclude_none=True)

    def __len__(self) -> int:
        return len(self.draw_id or self.local_id or [])

    def only(self, rows: Collection[int]) -> Record:
        """These rows of it."""
        return Record.of(self.run, _rows(self.columns, sorted(rows)))

    def without(self, rows: Collection[int]) -> Record:
        """The rest of it."""
        return self.only([row for row in range(len(self)) if row not in rows])

    @property
    def evidence(self) -> Iterator[tuple[str, float, int]]:
        """Draw, successes and trials of each row that says something.

        A raw reward in [0, 1] is taken for a success.
        """
        ids = self.draw_id or self.local_id or []
        if self.reward is None:
            yield from zip(ids, self.successes or [], self.trials or [], strict=True)

        for draw_id, reward in zip(ids, self.reward or [], strict=False):
            if reward is not None and 0 <= reward <= 1:
                yield draw_id, reward, 1

    def unrewarded(self, reward: Reward) -> dict[int, str]:
        """Rows whose raw reward a run does not take, and why."""
        found = {}
        statuses = self.status or ["ok"] * len(self)
        for row, (raw, status) in enumerate(zip(self.reward or [], statuses, strict=False)):
            try:
                if raw is not None and status in EVIDENCE:
                    reward.success(raw)
            except ValueError as fault:
                found[row] = f"reward: {fault}"

        return found

    def line(self) -> bytes:
        """As a line of JSON."""
        return self.model_dump_json(exclude_none=True).encode()


def run_of(line: bytes) -> str:
    """The run that a line is about; empty where it does not say."""
    found = _RUN.search(line)
    return found[1].decode() if found else ""


# ---- from the trainer to the spool ---------------------------------------------------------------


@dataclass(frozen=True)
class Checked:
    """A report as records, and what of it cannot be one.

    Attributes:
        records: To be delivered.
        faults: Why rows are refused, by row.
        faulty: Those rows as lines for the spool, to be mended and sent again.
    """

    records: list[Record]
    faults: dict[int, list[ProblemFault]]
    faulty: list[bytes]

    def refusal(self) -> InvalidRequest:
        """The error that names the refused rows."""
        faults = [fault for row in sorted(self.faults) for fault in self.faults[row]]
        return invalid_request("POST /outcomes", *faults[:FAULTS_KEPT])


def checked(run: str, report: Mapping[str, Any], shift: int = 0) -> Checked:
    """A report as records, row by row.

    Args:
        run: The run's name.
        report: `draw_id` with `successes` and `trials`, or with `reward` and perhaps
            `rollout_index` and `status`; perhaps `policy_version`. Columns of any kind.
        shift: Added to the policy versions.

    Raises:
        InvalidRequest: The report as a whole cannot be: a column is missing, too long, or none.
    """
    columns = read_fields("POST /outcomes", report, REPORTED)
    if "reward" in columns:
        columns = _completed(columns)

    if "draw_id" not in columns:
        raise invalid_request("POST /outcomes", ProblemFault(field="draw_id", detail="is needed"))

    rows = len(columns["draw_id"])
    if not rows:
        return Checked([], {}, [])

    faults = _faults(run, columns)
    if "policy_version" in columns:
        versions = columns["policy_version"]
        versions = versions if isinstance(versions, list) else [versions] * rows
        columns["policy_version"] = [
            version + shift if isinstance(version, int) else version for version in versions
        ]

    good = _rows(columns, [row for row in range(rows) if row not in faults])
    return Checked(
        list(_records(run, good)), faults, _as_lines(run, _rows(columns, sorted(faults)))
    )


def first_version(report: Mapping[str, Any]) -> int | None:
    """The policy version of a report's first row, where it has one."""
    try:
        versions = read_fields(
            "POST /outcomes", {"policy_version": report["policy_version"]}, REPORTED
        )
    except InvalidRequest:
        return None

    first = versions.get("policy_version")
    first = first[0] if isinstance(first, list) and first else first
    return first if isinstance(first, int) else None


def _records(run: str, columns: dict[str, list[Any]]) -> Iterator[Record]:
    """Records of those of the service's draws and of the local ones."""
    drawn = [local_draw(draw_id) for draw_id in columns["draw_id"]]
    theirs = [row for row, draw in enumerate(drawn) if draw is None]
    ours = [row for row, draw in enumerate(drawn) if draw is not None]

    if theirs:
        yield from _cut(run, _rows(columns, theirs))

    if ours:
        mine = _rows(columns, ours)
        mine["local_id"] = mine.pop("draw_id")
        versions = [draw.policy_version for draw in drawn if draw is not None]
        if "policy_version" not in mine and None not in versions:
            mine["policy_version"] = versions
        yield from _cut(run, mine)


def _as_lines(run: str, columns: dict[str, list[Any]]) -> list[bytes]:
    """Refused rows in the form in which they can be mended and sent again, if they have it."""
    try:
        return [record.line() for record in _records(run, columns)]
    except ValidationError:
        return [repr({"run": run, **columns}).encode()]


def _completed(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Rollouts numbered where they are not, in the order of their draw.

    Without a status, no number is no evidence.
    """
    filled = dict(columns)
    if "status" not in filled:
        filled["status"] = [_status(reward) for reward in filled["reward"]]
        filled["reward"] = [
            None if status == "error" else reward
            for status, reward in zip(filled["status"], filled["reward"], strict=True)
        ]

    if "rollout_index" not in filled:
        seen: Counter[Any] = Counter()
        filled["rollout_index"] = []
        for draw_id in map(str, filled["draw_id"]):
            filled["rollout_index"].append(seen[draw_id])
            seen[draw_id] += 1

    return filled


def _status(reward: object) -> Status:
    if reward is None:
        return "cancelled"
    return "error" if isinstance(reward, float) and not isfinite(reward) else "ok"


def _faults(run: str, columns: Mapping[str, Any]) -> dict[int, list[ProblemFault]]:
    """What the service would refuse, by row.

    Ids of local draws, which it does not know, are left out of that.

    Raises:
        InvalidRequest: The fault is of no row.
    """
    ids = ["local" if local_draw(draw_id) else draw_id for draw_id in columns["draw_id"]]
    columns = {**columns, "draw_id": ids}
    try:
        ReportOutcomes.model_validate({"run": run, **columns})
    except ValidationError as refused:
        whole = faults_of(refused)
    else:
        return {}

    lengths = {len(column) for column in columns.values() if isinstance(column, list)}
    if any(fault.row is None for fault in whole) or lengths != {len(ids)}:
        raise invalid_request("POST /outcomes", *whole)

    faults: dict[int, list[ProblemFault]] = {}
    for row in range(len(ids)):
        try:
            ReportOutcomes.model_validate({"run": run, **_row(columns, row)})
        except ValidationError as refused:
            faults[row] = faults_of(refused, row)

    return faults


def _row(columns: Mapping[str, Any], row: int) -> dict[str, Any]:
    return {
        name: column[row : row + 1] if isinstance(column, list) else column
        for name, column in columns.items()
    }


def _rows(columns: Columns, rows: Sequence[int]) -> dict[str, list[Any]]:
    return {name: [column[row] for row in rows] for name, column in columns.items()}


def _cut(run: str, columns: dict[str, list[Any]]) -> Iterator[Record]:
    """Columns as records of one request each."""
    for part in parts(columns):
        yield Record.of(run, {name: column[part] for name, column in columns.items()})


# ---- from the spool to the service ---------------------------------------------------------------


def mergeable(waiting: Sequence[Record]) -> int:
    """How many of the records, from the first on, can be one request.

    Only reports by draw can: each outcome has a name of its own, while a report by prompt is known
    by its id.
    """
    first = waiting[0]
    rows = len(waiting[0])
    names = first.columns.keys()
    for count, record in enumerate(waiting[1:] if first.draw_id else [], start=1):
        rows += len(record)
        if record.run != first.run or record.columns.keys() != names or rows > ROWS_IN_REQUEST:
            return count

    return len(waiting) if first.draw_id else 1


@dataclass(frozen=True)
class Request:
    """What goes out for one or more records.

    Attributes:
        columns: Of the request.
        origins: For each of its rows those of the records that it comes from, as (record, row).
    """

    columns: Columns
    origins: list[list[tuple[int, int]]]

    def faulty(self, refusal: BadAnswer) -> dict[tuple[int, int], str]:
        """Which rows of the records a refusal is about, and why; none where it is about the whole.

        The service names some rows only: those with the very value that it refuses go with them.
        """
        found: dict[tuple[int, int], str] = {}
        for fault in refusal.problem.errors:
            if fault.row is None or not 0 <= fault.row < len(self.origins):
                continue
            for row in self._alike(fault.field, fault.row):
                found.update(dict.fromkeys(self.origins[row], f"{fault.field}: {fault.detail}"))

        return found

    def _alike(self, field: str, row: int) -> list[int]:
        if field not in WHOLLY_AT_FAULT or field not in self.columns:
            return [row]

        names = [name for name in (field, *WHOLLY_AT_FAULT[field]) if name in self.columns]
        keys = list(zip(*(self.columns[name] for name in names), strict=True))
        return [other for other, key in enumerate(keys) if key == keys[row]]


# Where a row is refused for its value in a column, so is every row with the same one there (and in
# those named).
WHOLLY_AT_FAULT: Mapping[str, tuple[str, ...]] = {
    "draw_id": (),
    "prompt": ("pool",),
    "pool": (),
    "reward": ("status",),
    "policy_version": (),
}


def request_of(records: Sequence[Record], reward_of: Callable[[str], Reward]) -> Request:
    """One request of records that can be one.

    Args:
        records: One, or several by draw with the same columns.
        reward_of: The reward of a run, for rollouts of local draws.

    Raises:
        Refused: Rollouts whose reward the run does not take.
        PromptGPSError: The reward is not known, and cannot be asked for.
    """
    first = records[0]
    if first.local_id is not None and first.reward is not None:
        reward = reward_of(first.run)
        if refused := first.unrewarded(reward):
            raise Refused({(0, row): reason for row, reason in refused.items()})
        return _grouped(first.columns, reward)

    columns: dict[str, list[Any]] = {name: [] for name in first.columns}
    for record in records:
        for name, column in record.columns.items():
            columns[name].extend(column)

    origins = [
        [(number, row)] for number, record in enumerate(records) for row in range(len(record))
    ]
    return Request(columns if first.local_id is None else _by_prompt(columns), origins)


def send(client: PromptGPS, run: str, request: Request, idempotency_key: str) -> OutcomesStored:
    """Deliver a request. The key is for a report by prompt.

    Raises:
        PromptGPSError: As every call.
    """
    if "reward" in request.columns:
        return client.report_rollouts(run=run, **request.columns)
    return client.report_groups(run=run, idempotency_key=idempotency_key, **request.columns)


class Refused(Exception):
    """Rows of the first record that are refused before anything is sent, and why."""

    def __init__(self, rows: Mapping[tuple[int, int], str]) -> None:
        super().__init__(rows)
        self.rows = dict(rows)


def _by_prompt(columns: Columns) -> dict[str, list[Any]]:
    """Groups of local draws, by the prompt that each draw's id tells."""
    others = {name: column for name, column in columns.items() if name != "local_id"}
    draws = [draw for draw in map(local_draw, columns["local_id"]) if draw is not None]
    pools = [draw.pool for draw in draws]
    named = {} if None in pools else {"pool": pools}
    return {"prompt": [draw.key for draw in draws], **named, **others}


def _grouped(columns: Columns, reward: Reward) -> Request:
    """Single rollouts of local draws as groups by prompt, one for each draw."""
    groups: dict[str, dict[str, Any]] = {}
    origins: dict[str, list[tuple[int, int]]] = {}
    for row, draw_id in enumerate(columns["local_id"]):
        group = groups.setdefault(draw_id, {"local_id": draw_id, "successes": 0.0, "trials": 0})
        origins.setdefault(draw_id, []).append((0, row))
        if "policy_version" in columns:
            group["policy_version"] = columns["policy_version"][row]

        if columns["status"][row] in EVIDENCE:
            group["successes"] += reward.success(columns["reward"][row])
            group["trials"] += 1

    names = next(iter(groups.values()))
    grouped = {name: [group[name] for group in groups.values()] for name in names}
    return Request(_by_prompt(grouped), list(origins.values()))

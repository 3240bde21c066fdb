"""Reports on their way: checked, split by who drew, as records for the spool; and from there to the service.

Outcomes of local draws have no draw of the service. They travel by prompt, as groups, with the record's id as the
idempotency key. Their single rollouts become groups only when they are sent: the service knows the run's reward.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from math import isfinite
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from promptgps_client.client import PromptGPS
from promptgps_client.columns import ROWS_IN_REQUEST, parts, plain
from promptgps_client.errors import faults_of, invalid_request
from promptgps_client.selector.batch import local_draw
from promptgps_client.wire import OutcomesStored, ProblemFault, ReportOutcomes, Reward, Status

EVIDENCE = frozenset({"ok", "truncated"})  # the other statuses say nothing about difficulty
Columns = Mapping[str, list[Any]]


class Record(BaseModel):
    """One request to `/outcomes` to come. The id is a digest of its content: the same report again is a repetition."""

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

    @property
    def columns(self) -> dict[str, list[Any]]:
        """Those that are there."""
        return self.model_dump(exclude={"id", "run"}, exclude_none=True)

    @property
    def evidence(self) -> Iterator[tuple[str, float, int]]:
        """Draw, successes and trials of each row that says something; a raw reward in [0, 1] is taken for a success."""
        ids = self.draw_id or self.local_id or []
        if self.reward is None:
            yield from zip(ids, self.successes or [], self.trials or [], strict=True)
        for draw_id, reward in zip(ids, self.reward or [], strict=False):
            if reward is not None and 0 <= reward <= 1:
                yield draw_id, reward, 1

    def line(self) -> bytes:
        """As a line of JSON."""
        return self.model_dump_json(exclude_none=True).encode()


# ---- from the trainer to the spool ---------------------------------------------------------------------------


def records(run: str, report: Mapping[str, Any]) -> Iterator[Record]:
    """A report as records.

    Args:
        run: The run's name.
        report: `draw_id` with `successes` and `trials`, or with `reward` and perhaps `rollout_index` and `status`;
            perhaps `policy_version`. Columns of any kind.

    Raises:
        InvalidRequest: Naming field and row.
    """
    columns = {name: plain(value) for name, value in report.items() if value is not None}
    if "reward" in columns:
        columns = _completed(columns)
    _check(run, columns)
    if isinstance(columns.get("policy_version"), int):
        columns["policy_version"] = [columns["policy_version"]] * len(columns["draw_id"])
    told = [local_draw(draw_id) for draw_id in columns["draw_id"]]
    theirs = [row for row, draw in enumerate(told) if draw is None]
    ours = [row for row, draw in enumerate(told) if draw is not None]
    if theirs:
        yield from _cut(run, _rows(columns, theirs))
    if ours:
        mine = _rows(columns, ours)
        mine["local_id"] = mine.pop("draw_id")
        versions = [draw[1] for draw in told if draw is not None]
        if "policy_version" not in mine and None not in versions:
            mine["policy_version"] = versions
        yield from _cut(run, mine)


def _completed(columns: Columns) -> dict[str, Any]:
    """Rollouts numbered where they are not, in the order of their draw; without a status, no number is no evidence."""
    filled: dict[str, Any] = dict(columns)
    if not isinstance(filled["reward"], list) or not isinstance(filled.get("draw_id"), list):
        return filled
    filled["reward"] = [float(reward) if isinstance(reward, bool) else reward for reward in filled["reward"]]
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


def _check(run: str, columns: Columns) -> None:
    """Refuse what the service would; ids of local draws, which it does not know, are left out of that."""
    ids = columns["draw_id"]
    if isinstance(ids, list):
        columns = {**columns, "draw_id": ["local" if local_draw(draw_id) else draw_id for draw_id in ids]}
    try:
        ReportOutcomes.model_validate({"run": run, **columns})
    except ValidationError as refused:
        raise invalid_request("POST /outcomes", *faults_of(refused)) from refused


def _rows(columns: Columns, rows: Sequence[int]) -> dict[str, list[Any]]:
    return {name: [column[row] for row in rows] for name, column in columns.items()}


def _cut(run: str, columns: dict[str, list[Any]]) -> Iterator[Record]:
    """Columns as records of one request each."""
    for part in parts(columns):
        rows = {name: column[part] for name, column in columns.items()}
        digest = blake2b(repr((run, sorted(rows.items()))).encode(), digest_size=16).hexdigest()
        yield Record(id=digest, run=run, **rows)


# ---- from the spool to the service ---------------------------------------------------------------------------


def merged(waiting: Sequence[Record]) -> tuple[int, Record]:
    """How many of the records, from the first on, can be one request, and that request.

    Only reports by draw can: each outcome has a name of its own, while a report by prompt is known by its id.
    """
    first, count = waiting[0], 1
    columns = first.columns
    rows = len(next(iter(columns.values())))
    for record in waiting[1:] if first.draw_id else []:
        more = record.columns
        rows += len(next(iter(more.values())))
        if record.run != first.run or more.keys() != columns.keys() or rows > ROWS_IN_REQUEST:
            break
        columns = {name: column + more[name] for name, column in columns.items()}
        count += 1
    return count, Record(id=first.id, run=first.run, **columns)


def send(client: PromptGPS, record: Record, reward_of: Callable[[str], Reward]) -> OutcomesStored:
    """Deliver a record.

    Args:
        client: To the service.
        record: What is sent.
        reward_of: The reward of a run, for rollouts of local draws.

    Raises:
        PromptGPSError: As every call.
    """
    columns = record.columns
    if record.local_id is not None:
        columns = _by_prompt(columns) if record.reward is None else _grouped(columns, reward_of(record.run))
    if "reward" in columns:
        return client.report_rollouts(run=record.run, **columns)
    return client.report_groups(run=record.run, idempotency_key=record.id, **columns)


def _by_prompt(columns: Columns) -> dict[str, list[Any]]:
    """Groups of local draws, by the prompt that each draw's id tells."""
    others = {name: column for name, column in columns.items() if name != "local_id"}
    return {"prompt": [draw[0] for draw in map(local_draw, columns["local_id"]) if draw is not None], **others}


def _grouped(columns: Columns, reward: Reward) -> dict[str, list[Any]]:
    """Single rollouts of local draws as groups by prompt, one for each draw."""
    groups: dict[str, dict[str, Any]] = {}
    for row, draw_id in enumerate(columns["local_id"]):
        group = groups.setdefault(draw_id, {"local_id": draw_id, "successes": 0.0, "trials": 0})
        if "policy_version" in columns:
            group["policy_version"] = columns["policy_version"][row]
        if columns["status"][row] in EVIDENCE:
            group["successes"] += _success(reward, columns["reward"][row], row)
            group["trials"] += 1
    return _by_prompt({name: [group[name] for group in groups.values()] for name in next(iter(groups.values()))})


def _success(reward: Reward, raw: float, row: int) -> float:
    try:
        return reward.success(raw)
    except ValueError as fault:
        raise invalid_request("POST /outcomes", ProblemFault(field="reward", row=row, detail=str(fault))) from fault

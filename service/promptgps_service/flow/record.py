"""Outcomes in: whole groups and single rollouts, late and twice; acknowledged once they are durable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from promptgps_client.wire import OutcomesStored, ReportOutcomes, Reward

from promptgps_service.errors import Invalid
from promptgps_service.flow.context import Context
from promptgps_service.flow.digest import request_digest
from promptgps_service.flow.receipts import answered_before
from promptgps_service.flow.reported import Reported, reported_of
from promptgps_service.flow.run_state import RunState
from promptgps_service.flow.states import on_current_run, require_open
from promptgps_service.store.records import GROUP, OK, STATUS_CODES, TRUNCATED, LogSlice, OutcomeRecord
from promptgps_service.store.unit import Unit

# A rollout that was cut off still has a reward; one that failed for another reason says nothing about difficulty.
EVIDENCE = frozenset({OK, TRUNCATED})


@on_current_run
def record_outcomes(context: Context, request: ReportOutcomes, idempotency_key: str | None) -> OutcomesStored:
    """Append what is new of a report to the log.

    Raises:
        NotFound: no such run, draw or prompt; names the rows.
        NotOpen: the run is archived or faulty.
        Invalid: a reward or a count that the run does not allow; names the row.
        Conflict: the idempotency key has come with another report.
        Unavailable: the database does not answer; nothing was stored.
    """
    desk = context.desk(request.run)
    state = desk.state
    key = idempotency_key if request.prompt is not None else None  # a report by draw is known by its draws
    digest = "" if key is None else request_digest(request, frozenset())
    with state.lock:
        with context.store.write() as unit:
            head = unit.runs.lock(state.id)
            require_open(unit, head)
            context.catch_up_in(unit, state, head)
            before = answered_before(unit, state.id, key, digest, "report")
            if before is not None:
                return _repeated(OutcomesStored.model_validate(before))
            about = reported_of(unit, state, request)
            lines = _records(state, request, about)
            fresh, duplicates, conflicts = _sort_out(unit, state, lines, about.superseded_in)
            position = unit.log.append(state.id, head.log_position, fresh)
            unit.runs.advance(state.id, log_position=position)
            answer = OutcomesStored(
                stored=len(fresh), duplicates=duplicates, conflicts=conflicts,
                superseded=_keep_superseded(unit, state, lines, about.superseded_in), log_position=position,
            )  # fmt: skip
            if key is not None:
                unit.runs.keep_receipt(state.id, key, digest, answer.model_dump(), position)
        if fresh:
            state.apply_log(log_slice(position, fresh))
    if fresh:
        desk.trainer.wake()
    return answer


def _repeated(stored: OutcomesStored) -> OutcomesStored:
    """What a report by prompt is answered that was stored before."""
    return OutcomesStored(
        stored=0, duplicates=stored.stored + stored.duplicates, conflicts=stored.conflicts,
        log_position=stored.log_position,
    )  # fmt: skip


# ---- from columns to lines of the log ------------------------------------------------------------------------


def _records(state: RunState, request: ReportOutcomes, about: Reported) -> list[OutcomeRecord]:
    versions = request.policy_version
    of_row = versions if isinstance(versions, list) else [versions] * about.row.size
    if request.rollout_index is None:
        return _groups(state, request, about, of_row)
    return _rollouts(state, request, about, of_row)


def _groups(
    state: RunState, request: ReportOutcomes, about: Reported, versions: Sequence[int | None]
) -> list[OutcomeRecord]:
    successes, trials = request.successes or [], request.trials or []
    if state.settings.reward.kind != "affine":
        for row, value in enumerate(successes):
            if value != int(value):
                detail = f"{value:g} is not a whole number; only runs with an affine reward take fractions"
                raise Invalid.at("successes", detail, row)
    return [
        OutcomeRecord(
            None if about.draw is None else int(about.draw[index]), int(row), GROUP, float(successes[index]),
            trials[index], None, OK, versions[index],
        )
        for index, row in enumerate(about.row)
    ]  # fmt: skip


def _rollouts(
    state: RunState, request: ReportOutcomes, about: Reported, versions: Sequence[int | None]
) -> list[OutcomeRecord]:
    assert about.draw is not None
    draws, rows, of_draw = about.draw, about.row, about.rollouts
    rewards, indices = request.reward or [], request.rollout_index or []
    statuses = [STATUS_CODES[name] for name in request.status] if request.status else [OK] * len(indices)
    records = []
    for row, index in enumerate(indices):
        if index >= of_draw[row]:
            raise Invalid.at("rollout_index", f"{index} is not below the {of_draw[row]} rollouts of the draw", row)
        reward, counts = rewards[row], statuses[row] in EVIDENCE
        success = _success(state.settings.reward, reward, row) if counts and reward is not None else 0.0
        records.append(
            OutcomeRecord(
                int(draws[row]), int(rows[row]), index, success, int(counts), reward, statuses[row], versions[row]
            )
        )
    return records


def _success(mapping: Reward, reward: float, row: int) -> float:
    """A raw reward as a success in [0, 1]."""
    if mapping.kind == "threshold":
        assert mapping.threshold is not None
        return float(reward >= mapping.threshold)
    if mapping.kind == "affine":
        assert mapping.low is not None
        assert mapping.high is not None
        return min(max((reward - mapping.low) / (mapping.high - mapping.low), 0.0), 1.0)
    if reward not in (0.0, 1.0):
        detail = f"{reward:g} is not 0 or 1; open the run with a threshold or affine reward for other values"
        raise Invalid.at("reward", detail, row)
    return reward


# ---- what is new, what is a repetition, what contradicts -----------------------------------------------------


def _sort_out(
    unit: Unit, state: RunState, lines: list[OutcomeRecord], superseded_in: NDArray[np.int64]
) -> tuple[list[OutcomeRecord], int, list[int]]:
    """New records, the number of repetitions, and the rows that contradict the log or an earlier row."""
    standing = [(row, lines[row]) for row in np.flatnonzero(superseded_in == 0).tolist()]
    draws = sorted({record.draw for _, record in standing if record.draw is not None})
    known = {(record.draw, record.rollout): record for record in unit.log.of_draws(state.id, draws)}
    grouped = {draw for draw, rollout in known if rollout == GROUP}
    single = {draw for draw, rollout in known if rollout != GROUP}
    fresh: list[OutcomeRecord] = []
    duplicates, conflicts = 0, []
    for row, record in standing:
        if record.draw is None:
            fresh.append(record)
            continue
        earlier = known.get((record.draw, record.rollout))
        if earlier is not None and record.same_as(earlier):
            duplicates += 1
        elif earlier is not None or record.draw in (single if record.rollout == GROUP else grouped):
            conflicts.append(row)
        else:
            fresh.append(record)
            known[(record.draw, record.rollout)] = record
            (grouped if record.rollout == GROUP else single).add(record.draw)
    return fresh, duplicates, conflicts


def _keep_superseded(
    unit: Unit, state: RunState, lines: list[OutcomeRecord], superseded_in: NDArray[np.int64]
) -> int:
    """Keep outcomes of superseded draws apart from the log, where nobody learns from them; answers their number."""
    for epoch in np.unique(superseded_in[superseded_in > 0]):
        late = [lines[row] for row in np.flatnonzero(superseded_in == epoch)]
        unit.superseded.keep(state.id, int(epoch), late)
    return int((superseded_in > 0).sum())


def log_slice(head: int, records: Sequence[OutcomeRecord]) -> LogSlice:
    """Records as the slice of the log that they have become."""

    def integers(values: list[int | None]) -> NDArray[np.int64]:
        return np.array([-1 if value is None else value for value in values], np.int64)

    return LogSlice(
        head=head,
        draw=integers([record.draw for record in records]),
        row=integers([record.row for record in records]),
        rollout=integers([record.rollout for record in records]),
        successes=np.array([record.successes for record in records]),
        trials=np.array([record.trials for record in records], np.float64),
        status=integers([record.status for record in records]),
        policy_version=integers([record.policy_version for record in records]),
        part=integers([record.part for record in records]),
    )

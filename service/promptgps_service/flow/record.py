"""Outcomes in: whole groups and single rollouts, late and twice.

They are acknowledged once they are durable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from promptgps_client.wire import ROUNDING, OutcomesStored, ReportOutcomes, Reward

from promptgps_service.errors import Fault, Invalid
from promptgps_service.flow.catch_up import run_transaction
from promptgps_service.flow.context import Context
from promptgps_service.flow.digest import request_digest
from promptgps_service.flow.evidence import Line, Sorted, sort_out
from promptgps_service.flow.receipts import answered_before
from promptgps_service.flow.reported import Reported, reported_of
from promptgps_service.flow.rewards import decided, understand
from promptgps_service.flow.rows import Keys, rows_of
from promptgps_service.flow.run_settings import RunSettings
from promptgps_service.flow.states import on_current_run
from promptgps_service.store.records import (
    GROUP,
    OK,
    STATUS_CODES,
    TRUNCATED,
    LogSlice,
    OutcomeRecord,
    RunRecord,
)
from promptgps_service.store.unit import Unit

# A rollout that was cut off still has a reward; one that failed for another reason says nothing
# about difficulty.
EVIDENCE = frozenset({OK, TRUNCATED})
# Sums of many rewards are rounded as a whole; a bfloat16 of up to 8 is exact to a thirty-second.
WHOLE = 4 * ROUNDING


@on_current_run
def record_outcomes(
    context: Context, request: ReportOutcomes, idempotency_key: str | None
) -> OutcomesStored:
    """Append what is new of a report to the log.

    Raises:
        NotFound: no such run, draw or prompt; names the rows.
        NotOpen: the run is archived or faulty.
        Invalid: rewards or counts that the run does not allow, or prompts whose pool is not clear;
            names the rows.
        Conflict: the idempotency key has come with another report.
        Unavailable: the database does not answer; nothing was stored.
    """
    desk = context.desk(request.run)
    state = desk.state
    # A report by draw is known by its draws.
    key = idempotency_key if request.prompt is not None else None
    digest = "" if key is None else request_digest(request, frozenset())
    rows = None

    if request.prompt is not None:
        # The same answer again, whatever the pools have got since.
        with context.store.read() as unit:
            before = answered_before(unit, state.id, key, digest, "report")
        if before is not None:
            return _repeated(OutcomesStored.model_validate(before))
        # Looked up before the run is held against others: its rows are only ever added.
        (rows,) = rows_of(context, state, Keys(request.prompt, request.pool, "prompt"))

    with state.lock:
        with run_transaction(context.store, context.features, state) as (unit, head):
            before = answered_before(unit, state.id, key, digest, "report")
            if before is not None:
                return _repeated(OutcomesStored.model_validate(before))

            about = reported_of(unit, state, request, rows)
            reward = _reward_of_run(unit, head, request)
            lines, warnings = _lines(reward, request, about, stored=head.log_position > 0)
            found = _against_log(unit, state.id, lines, about)
            position = unit.log.append(state.id, head.log_position, found.fresh)
            unit.runs.advance(state.id, log_position=position)
            settings = _with_reward_shown(unit, head, decided(reward, found.fresh))

            answer = OutcomesStored(
                stored=len(found.fresh),
                duplicates=found.duplicates,
                conflicts=found.conflicts,
                superseded=_keep_superseded(unit, state.id, lines, about),
                log_position=position,
                warnings=warnings,
            )
            if key is not None:
                unit.runs.keep_receipt(state.id, key, digest, answer.model_dump(), position)

        state.settings = settings or state.settings
        if found.fresh:
            state.apply_log(log_slice(position, found.fresh))

    if found.fresh:
        desk.trainer.wake()

    return answer


def _repeated(stored: OutcomesStored) -> OutcomesStored:
    """What a report by prompt is answered that was stored before."""
    return OutcomesStored(
        stored=0,
        duplicates=stored.stored + stored.duplicates,
        conflicts=stored.conflicts,
        log_position=stored.log_position,
        warnings=stored.warnings,
    )


# ---- what rewards mean in the run ----------------------------------------------------------------


def _reward_of_run(unit: Unit, head: RunRecord, request: ReportOutcomes) -> Reward:
    """The run's reward, with the two values that its log has shown.

    The settings have them as soon as a failure is stored, except in logs of versions that took 0
    and 1 only.
    """
    reward = Reward.model_validate(head.settings["reward"])
    if reward.kind != "binary" or reward.values is not None or head.log_position == 0:
        return reward
    if not any(value is not None and value < 0 for value in request.reward or []):
        return reward
    if unit.log.has_reward(head.id, 0.0):
        return reward.model_copy(update={"values": [0.0, 1.0]})
    return reward


def _with_reward_shown(unit: Unit, head: RunRecord, reward: Reward) -> RunSettings | None:
    """Keep which two values the rewards have; None where that is no news.

    To a learner the settings stay the same, so their revision does, too: a fit that is under way is
    not dropped.
    """
    if Reward.model_validate(head.settings["reward"]) == reward:
        return None
    settings = replace(RunSettings.load(head.settings), reward=reward)
    unit.runs.amend_settings(head.id, settings.dump())
    return settings


# ---- from columns to lines of the log ------------------------------------------------------------


def _lines(
    reward: Reward, request: ReportOutcomes, about: Reported, *, stored: bool
) -> tuple[list[OutcomeRecord], list[str]]:
    """Lines of the log, one a row, and warnings.

    Raises:
        Invalid: naming every row that the run does not allow.
    """
    versions = request.policy_version
    of_row = versions if isinstance(versions, list) else [versions] * about.row.size
    if request.rollout_index is None:
        return _groups(reward, request, about, of_row), []
    return _rollouts(reward, request, about, of_row, stored=stored)


def _groups(
    reward: Reward, request: ReportOutcomes, about: Reported, versions: Sequence[int | None]
) -> list[OutcomeRecord]:
    given = request.successes or []
    trials = request.trials or []
    whole = reward.kind != "affine"
    successes = [
        min(max(float(round(value)) if whole else value, 0.0), float(of))
        for value, of in zip(given, trials, strict=True)
    ]

    if whole:
        faults = [
            Fault(
                "successes",
                f"{value!r} is not a whole number; only runs with an affine reward take fractions",
                row,
            )
            for row, value in enumerate(given)
            if abs(value - successes[row]) > min(ROUNDING * max(value, 1.0), WHOLE)
        ]
        if faults:
            _refuse(faults, len(given))

    draws = [None] * len(given) if about.draw is None else about.draw.tolist()
    rows = about.row.tolist()
    return [
        OutcomeRecord(draws[at], rows[at], GROUP, successes[at], trials[at], None, OK, versions[at])
        for at in range(len(given))
    ]


def _rollouts(
    reward: Reward,
    request: ReportOutcomes,
    about: Reported,
    versions: Sequence[int | None],
    *,
    stored: bool,
) -> tuple[list[OutcomeRecord], list[str]]:
    assert about.draw is not None
    raw = request.reward or []
    indices = request.rollout_index or []
    statuses = (
        [STATUS_CODES[name] for name in request.status] if request.status else [OK] * len(indices)
    )
    says = [
        value if status in EVIDENCE else None for value, status in zip(raw, statuses, strict=True)
    ]
    standing = (about.superseded_in == 0).tolist()
    understood = understand(reward, says, standing, stored=stored)
    faults = _beyond_the_draw(indices, about) + understood.faults
    if faults:
        _refuse(sorted(faults, key=lambda fault: fault.row or 0), len(indices))

    draws = about.draw.tolist()
    rows = about.row.tolist()
    records = [
        OutcomeRecord(
            draws[at],
            rows[at],
            index,
            understood.success[at],
            int(says[at] is not None),
            raw[at],
            statuses[at],
            versions[at],
        )
        for at, index in enumerate(indices)
    ]

    return records, understood.warnings


def _beyond_the_draw(indices: Sequence[int], about: Reported) -> list[Fault]:
    wrong = np.flatnonzero(np.array(indices, np.int64) >= about.rollouts).tolist()
    return [
        Fault(
            "rollout_index",
            f"{indices[row]} is not below the {about.rollouts[row]} rollouts of the draw",
            row,
        )
        for row in wrong
    ]


def _refuse(faults: list[Fault], rows: int) -> NoReturn:
    first = faults[0]
    wrong = len({fault.row for fault in faults})
    more = f" ({wrong} of {rows} rows are wrong)" if wrong > 1 else ""
    raise Invalid(f"{first.field}, row {first.row}: {first.detail}{more}", tuple(faults))


# ---- what is new, what is a repetition, what contradicts -----------------------------------------


def _against_log(
    unit: Unit, run_id: int, lines: Sequence[OutcomeRecord], about: Reported
) -> Sorted:
    """A report's lines about draws that stand, held against the log."""
    standing = _where(lines, about, 0)
    return sort_out(unit.log.of_draws(run_id, _draws_of(standing)), standing)


def _keep_superseded(
    unit: Unit, run_id: int, lines: Sequence[OutcomeRecord], about: Reported
) -> int:
    """Keep outcomes of superseded draws apart from the log; answers their rows.

    Nobody learns from them.
    """
    for epoch in np.unique(about.superseded_in[about.superseded_in > 0]).tolist():
        late = _where(lines, about, epoch)
        known = unit.superseded.of_draws(run_id, epoch, _draws_of(late))
        unit.superseded.append(run_id, epoch, sort_out(known, late).fresh)
    return int((about.superseded_in > 0).sum())


def _where(lines: Sequence[OutcomeRecord], about: Reported, superseded_in: int) -> list[Line]:
    rollouts = about.rollouts.tolist()
    rows = np.flatnonzero(about.superseded_in == superseded_in).tolist()
    return [(row, lines[row], rollouts[row]) for row in rows]


def _draws_of(lines: Sequence[Line]) -> list[int]:
    return sorted({record.draw for _, record, _ in lines if record.draw is not None})


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

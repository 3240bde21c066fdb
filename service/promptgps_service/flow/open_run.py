"""Runs: opened, re-tuned, described."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from promptgps_client.wire import (
    ChangeRun,
    CreateRun,
    PoolShare,
    Progress,
    Reward,
    Run,
    Runs,
    Selection,
    State,
)

from promptgps_service.errors import Conflict, Fault, Invalid
from promptgps_service.flow.context import Context, Desk
from promptgps_service.flow.events import differences
from promptgps_service.flow.run_differences import conflict_with, stored_request
from promptgps_service.flow.run_settings import RunSettings
from promptgps_service.flow.run_state import ScoreTable
from promptgps_service.flow.states import on_current_run, require_open, require_open_pool
from promptgps_service.flow.trial import require_buildable
from promptgps_service.flow.warm_start import pin, source_of
from promptgps_service.model.features import Features
from promptgps_service.model.registry import make_predictor
from promptgps_service.store.records import Detail, PoolRecord, RunRecord, Segment, VersionRecord
from promptgps_service.store.states import ARCHIVED, FAULTY
from promptgps_service.store.unit import Unit


def create_run(context: Context, request: CreateRun, by: str | None = None) -> tuple[Run, bool]:
    """Open a run; answers it and whether it is new.

    Raises:
        NotFound: a pool or the run to start from is not there.
        Conflict: the name is taken by a run with other settings.
        NotOpen: the run is there, and archived or faulty.
        PoolNotOpen: a pool is archived.
        Invalid: a setting does not fit the pools, or the run to start from does not fit this one.
    """
    settings = RunSettings.of(request)
    with context.store.read() as unit:
        found = unit.runs.find(request.name)
        plan = None if found is not None else _plan(unit, settings, keep=False)

    if plan is not None:
        require_buildable(context, settings, plan.segments, plan.source)

    made = None
    with context.store.write() as unit:
        found = unit.runs.find(request.name)
        if found is None:
            made = _make(unit, request, settings, by)
            found = unit.runs.get(request.name)
        if made is None:
            require_open(unit, found)
            refusal = conflict_with(found, request)
            if refusal is not None:
                raise refusal

    context.desk(request.name)
    return describe_run(context, request.name), made is not None


@dataclass(frozen=True)
class _Plan:
    """What a run is to be made of.

    Attributes:
        pools: that it draws from.
        segments: that its rows will be.
        source: the state that it starts from, if another run has learned it.
    """

    pools: list[PoolRecord]
    segments: list[Segment]
    source: VersionRecord | None


def _plan(unit: Unit, settings: RunSettings, *, keep: bool) -> _Plan:
    pools = _pools(unit, settings, keep=keep)
    for pool in pools:
        require_open_pool(pool)

    _check(unit, settings, pools)

    segments = []
    offset = 0

    for pool in pools:
        segments.append(Segment(offset, pool.id, 0, pool.prompts))
        offset += pool.prompts

    return _Plan(pools, segments, source_of(unit, settings, pools))


def _make(
    unit: Unit, request: CreateRun, settings: RunSettings, by: str | None
) -> RunRecord | None:
    """Make the run as the pools are now; None where another process has made it just now."""
    plan = _plan(unit, settings, keep=True)
    record = unit.runs.create(request.name, stored_request(request), settings.dump())
    if record is None:
        return None

    for pool, segment in zip(plan.pools, plan.segments, strict=True):
        unit.runs.add_segment(record.id, segment)
        if pool.frame_rows == 0:
            unit.pools.set_frame(pool.id, pool.prompts)

    if plan.source is not None:
        pin(unit, record, plan.source)

    unit.events.add("run-created", run=record.name, key=by, detail=_origin(settings))
    return record


def _pools(unit: Unit, settings: RunSettings, *, keep: bool) -> list[PoolRecord]:
    """The pools of a run; with ``keep`` nobody can delete them before the unit of work ends."""
    pools = []
    for row, share in enumerate(settings.pools):
        pool = unit.pools.get(share.pool, keep=keep)
        if pool.prompts == 0:
            raise Invalid.at("pools", f"pool {pool.name!r} is empty: add prompts first", row)
        pools.append(pool)

    return pools


def _check(unit: Unit, settings: RunSettings, pools: list[PoolRecord]) -> None:
    if len({(str(pool.embedding), pool.dimension) for pool in pools}) > 1:
        raise Invalid.at(
            "pools",
            "pools of one run must have the same embedding: one model learns from all of them",
        )

    check_alone(settings)
    quotas = settings.selection.domain_quotas
    if quotas is not None:
        known = {
            domain for pool in pools for domain in unit.pools.domains(pool.id, 0, pool.prompts)
        }
        for domain in quotas:
            if domain not in known:
                raise Invalid.at("selection.domain_quotas", f"no prompt has the domain {domain!r}")


def check_alone(settings: RunSettings) -> None:
    """Check what settings say by themselves, whatever the pools have.

    Raises:
        Invalid: shares or quotas that exclude each other or don't sum up, or a predictor with wrong
            parameters.
    """
    if any(share.weight is not None or share.quota is not None for share in settings.pools):
        _check_shares(settings)
    _check_predictor(settings)


def _check_predictor(settings: RunSettings) -> None:
    name, parameters = settings.predictor()
    try:
        make_predictor(name, Features(torch.zeros(1, 0), (), 1), torch.device("cpu"), **parameters)
    except ValueError as error:
        raise Invalid.at("selection.predictor_parameters", str(error)) from error


def _check_shares(settings: RunSettings) -> None:
    if settings.selection.domain_quotas is not None:
        raise Invalid.at("pools", "shares of pools and domain_quotas exclude each other")

    quotas = [share.quota for share in settings.pools if share.quota is not None]
    if sum(quotas) > 1 + 1e-9:
        raise Invalid.at("pools", f"quotas sum to {sum(quotas):g}, more than 1")
    if len(quotas) == len(settings.pools) and sum(quotas) < 1 - 1e-6:
        raise Invalid.at("pools", f"quotas of all pools sum to {sum(quotas):g}, not to 1")

    for row, share in enumerate(settings.pools):
        if share.quota is not None and share.weight is not None:
            raise Invalid.at("pools", "a pool has a weight or a quota, not both", row)


def _origin(settings: RunSettings) -> dict[str, Detail]:
    return {
        "pools": ", ".join(share.pool for share in settings.pools),
        "strategy": settings.selection.strategy,
        "warm_start_from": settings.warm_start_from,
    }


@on_current_run
def change_run(context: Context, name: str, request: ChangeRun, by: str | None = None) -> Run:
    """Re-tune a run; what it has learned stays, unless the predictor is another.

    Another predictor learns the log anew.

    Raises:
        NotFound: there is no such run.
        NotOpen: it is archived. A faulty one is changed, which may be what mends it, and stays
            faulty until it is opened again.
        Invalid: a setting does not fit the pools.
        Conflict: another reward, and outcomes are stored that were read by the one that there is.
    """
    with context.store.read() as unit:
        record = unit.runs.get(name)
        settings = _changed(unit, record, request, keep=False)
        segments = unit.runs.segments(record.id)

    if settings.predictor() != RunSettings.load(record.settings).predictor():
        require_buildable(context, settings, segments, None)

    with context.store.write() as unit:
        record = unit.runs.lock(record.id)
        present = RunSettings.load(record.settings)
        settings = _changed(unit, record, request, keep=True)
        if settings != present:  # a revision for nothing would have what is being learned dropped
            unit.runs.set_settings(record.id, settings.dump())
            told = differences(record.settings, settings.dump())
            unit.events.add("run-changed", run=name, key=by, detail=told)

    if record.state == FAULTY:
        return describe_run(context, name)

    desk = context.desk(name)
    desk.trainer.update()
    _tell_what_is_learned(context, desk)
    desk.trainer.ask(desk.state.log_position)

    return describe_run(context, name)


def _changed(unit: Unit, record: RunRecord, request: ChangeRun, *, keep: bool) -> RunSettings:
    """The settings that a run would have, checked."""
    require_open(unit, record, or_faulty=True)
    present = RunSettings.load(record.settings)
    _check_reward(request, present, record)
    settings = present.changed(request, record.draws)
    _check(unit, settings, _pools(unit, settings, keep=keep))
    return settings


def _check_reward(request: ChangeRun, present: RunSettings, record: RunRecord) -> None:
    if request.reward is None or present.takes(request.reward) or record.log_position == 0:
        return
    detail = (
        f"{record.log_position} outcomes of run {record.name!r} are stored, "
        "read by the reward that it has: "
        "it cannot be changed any more; open another run"
    )
    raise Conflict(detail, (Fault("reward", detail),))


def _tell_what_is_learned(context: Context, desk: Desk) -> None:
    """Another predictor has learned nothing of the log: the run is behind, which a worker sees."""
    with context.store.write() as unit:
        record = unit.runs.lock(desk.state.id)
        table = desk.state.table
        if table is not None and table.made_of[:3] == (
            record.epoch,
            record.revision,
            record.model_version,
        ):
            unit.runs.advance(record.id, trained_through=table.trained_through)


def describe_run(context: Context, name: str) -> Run:
    """A run by name."""
    with context.store.read() as unit:
        record = unit.runs.get(name)
        return _run(context, unit, record).model_copy(update={"progress": _progress(unit, record)})


def _progress(unit: Unit, record: RunRecord) -> Progress:
    """How far a run has come."""
    last = unit.selections.last(record.id)
    reported = unit.log.reported(record.id)

    return Progress(
        next_sequence=0 if last is None else last[0] + 1,
        policy_version=None if last is None else last[1],
        reported_draws=0 if reported is None else reported[0] + 1,
        reporting_for=None if reported is None else reported[1],
    )


def list_runs(context: Context) -> Runs:
    """Every run."""
    with context.store.read() as unit:
        return Runs(runs=[_run(context, unit, record) for record in unit.runs.all()])


def _run(context: Context, unit: Unit, record: RunRecord) -> Run:
    """What is told of a run; of the model, what this process serves."""
    desk = context.opened(record.name)
    if desk is None or desk.state.table is None or desk.state.id != record.id:
        return run_of(unit, record)
    table = desk.state.table
    # An earlier epoch: a restore that this process has not followed yet.
    return run_of(unit, record, table if table.epoch == record.epoch else None)


def run_of(unit: Unit, record: RunRecord, table: ScoreTable | None = None) -> Run:
    """What is told of a run.

    Of the model: what the table says that a process serves, or else what is published.
    """
    served = record if table is None else table
    try:
        settings = RunSettings.load(record.settings)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return _unreadable(unit, record, error)

    return Run(
        name=record.name,
        pools=list(settings.pools),
        rollouts_per_prompt=settings.rollouts_per_prompt,
        reward=settings.reward,
        seed=settings.seed,
        warm_start_from=settings.warm_start_from,
        selection=settings.selection,
        prompts=sum(segment.count for segment in unit.runs.segments(record.id)),
        selections=record.selections,
        draws=record.draws,
        log_position=record.log_position,
        model_version=served.model_version,
        trained_through=served.trained_through,
        epoch=record.epoch,
        state=_state(record),
        fault=record.fault,
        created_at=record.created_at,
    )


def _state(record: RunRecord) -> State:
    return (
        "faulty" if record.state == FAULTY else "archived" if record.state == ARCHIVED else "open"
    )


def _unreadable(unit: Unit, record: RunRecord, error: Exception) -> Run:
    """A run whose settings make no sense: all that can be said of it, and why it is no more."""
    reason = " ".join(str(error).split())[:500] or type(error).__name__
    segments = unit.runs.segments(record.id)
    names = sorted({unit.pools.by_id(segment.pool_id).name for segment in segments})

    return Run(
        name=record.name,
        pools=[PoolShare(pool=name) for name in names],
        rollouts_per_prompt=1,
        reward=Reward(),
        seed=0,
        warm_start_from=None,
        selection=Selection(),
        prompts=sum(segment.count for segment in segments),
        selections=record.selections,
        draws=record.draws,
        log_position=record.log_position,
        model_version=record.model_version,
        trained_through=record.trained_through,
        epoch=record.epoch,
        state="faulty",
        fault=record.fault or f"its settings cannot be read ({type(error).__name__}): {reason}",
        created_at=record.created_at,
    )

"""The next batch: idempotent by (run, sequence), chosen from the served score table.

It is written before it is answered.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from promptgps_client.wire import Batch, Draws, SelectBatch
from torch import Tensor

from promptgps_service.acquisition.choose import Choice, Field, TooFew, choose
from promptgps_service.acquisition.randomness import derive
from promptgps_service.acquisition.reuse import tiers
from promptgps_service.acquisition.utility import mixed_probability
from promptgps_service.errors import Busy, Fault, Invalid, NotFound
from promptgps_service.flow.catch_up import run_transaction
from promptgps_service.flow.context import Context, Desk
from promptgps_service.flow.draw_ids import draw_ids
from promptgps_service.flow.growth import take_up_new_prompts
from promptgps_service.flow.masks import Mask
from promptgps_service.flow.quota_groups import quota_groups
from promptgps_service.flow.rows import Keys, pools_at, prompts_at, rows_of
from promptgps_service.flow.run_state import RunState
from promptgps_service.flow.same_question import question_of, require_same, warnings_of
from promptgps_service.flow.states import on_current_run, require_open
from promptgps_service.store.records import RunRecord, SelectionRecord
from promptgps_service.store.unit import Unit

# Below this expected share of mixed groups the caller is warned that the pool gives little signal.
LOW_SIGNAL = 0.2
# Draws that a step of history has at least: for a trainer that draws one at a time it is not the
# one before.
LEAST_HISTORY = 32


@dataclass(frozen=True)
class Restriction:
    """What a request restricts its draws to.

    Attributes:
        candidates: int64[M], rows; None where the request names none.
        exclude: int64[M], rows; empty for none.
        subset: None where the request names none.
    """

    candidates: NDArray[np.int64] | None
    exclude: NDArray[np.int64]
    subset: Mask | None


_UNRESTRICTED = Restriction(None, np.zeros(0, np.int64), None)


@on_current_run
def select_batch(context: Context, request: SelectBatch) -> Batch:
    """Answer a request for draws.

    Raises:
        NotFound: no such run, unknown keys among candidates or exclusions, or an unknown subset.
        NotOpen: the run is archived or faulty.
        Conflict: the sequence has answered another request; names what differs.
        Invalid: fewer prompts than the batch wants, or a key whose pool is not clear.
        Busy: too many draws of the run are without an outcome.
        Unavailable: the database does not answer; nothing was drawn.
    """
    desk = context.desk(request.run)
    question = question_of(request)
    replay = _replay(context, desk.state, request, question)
    if replay is not None:
        return replay

    warnings = _wait(context, desk, request)
    restriction = _restriction(context, desk.state, request)
    while (batch := _draw(context, desk.state, request, question, warnings, restriction)) is None:
        _bring_up_to_date(context, desk)

    return batch


def _replay(context: Context, state: RunState, request: SelectBatch, question: str) -> Batch | None:
    """What a sequence was answered before.

    Many ranks may ask for it at once, so it holds the run against nobody. None where this process
    knows of no such answer. Another may have given one: it is found before anything is drawn.

    Raises:
        Conflict: the sequence has answered another request; names what differs.
        NotOpen: the run is archived or faulty.
        RunGone: it was deleted.
    """
    if request.sequence not in state.sequences:
        return None

    with context.store.read() as unit:
        # It may have been put away by another process.
        require_open(unit, unit.runs.by_id(state.id))
        found = unit.selections.find(state.id, request.sequence)
        if found is None or int(found.rows.max(initial=-1)) >= state.rows:
            return None
        require_same(found, request, question)
        return _render(unit, state, found, request, replayed=True)


def _wait(context: Context, desk: Desk, request: SelectBatch) -> list[str]:
    """Wait for the model to learn from everything reported, to whatever process.

    Answers a warning where time ran out.
    """
    if request.wait_seconds == 0:
        return []

    state = desk.state
    position = context.catch_up(desk.state).log_position
    if state.has_learned(position):
        return []

    desk.trainer.ask(position)
    if not context.waiting.acquire(blocking=False):
        return ["the batch did not wait for the model: too many requests do already"]

    try:
        learned = state.wait_learned(position, request.wait_seconds)
    finally:
        context.waiting.release()

    if learned:
        return []

    return [f"the model had not learned from everything reported after {request.wait_seconds:g} s"]


def _bring_up_to_date(context: Context, desk: Desk) -> None:
    """Let prompts added to the pools since take part, and after a restore the snapshot's model."""
    take_up_new_prompts(context, desk.state)
    desk.trainer.update()


def _restriction(context: Context, state: RunState, request: SelectBatch) -> Restriction:
    """What a request restricts its draws to, looked up before the run is held against others.

    It holds as long as the run does: rows are only ever added, and a subset is what it is.
    """
    if request.candidates is None and not request.exclude and request.subset is None:
        return _UNRESTRICTED

    subset = None if request.subset is None else _subset(context, state, request.subset)
    asked = [
        Keys(request.candidates or [], request.candidates_pool, "candidates", "candidates_pool"),
        Keys(request.exclude or [], request.exclude_pool, "exclude", "exclude_pool"),
    ]
    candidates, exclude = rows_of(context, state, *asked)

    return Restriction(candidates if request.candidates is not None else None, exclude, subset)


def _subset(context: Context, state: RunState, subset: str) -> Mask:
    known = state.subsets.find(subset)
    if known is not None:
        return known

    with context.store.read() as unit:
        rows = unit.subsets.find(state.id, subset)

    if rows is None:
        detail = f"run {state.name!r} has no subset {subset!r}: send its prompts (again)"
        raise NotFound(detail, (Fault("subset", detail),))

    return state.subsets.keep(subset, rows)


def _draw(
    context: Context,
    state: RunState,
    request: SelectBatch,
    question: str,
    warnings: list[str],
    restriction: Restriction,
) -> Batch | None:
    """Choose and write a selection, holding the run against every other writer.

    None where the score table is not the run's: its pools have grown, or it was put back to a
    snapshot.
    """
    with state.lock:
        with run_transaction(context.store, context.features, state) as (unit, record):
            if request.sequence is not None:
                found = unit.selections.find(state.id, request.sequence)
                if found is not None:
                    require_same(found, request, question)
                    return _render(unit, state, found, request, replayed=True)

            _check_open(state, request.batch_size, context.limits.open_draws)
            grown = unit.pools.total([share.pool for share in state.settings.pools]) > state.rows
            table = state.table
            if grown or table is None or table.rows < state.rows or table.epoch != record.epoch:
                return None

            selection = _choose(
                context, unit, state, record, request, question, warnings, restriction
            )
            unit.selections.add(state.id, selection)
            unit.runs.advance(
                state.id, draws=record.draws + selection.size, selections=record.selections + 1
            )
            batch = _render(unit, state, selection, request, replayed=False)

        state.apply_selection(selection)

    return batch


def _check_open(state: RunState, asked: int, limit: int) -> None:
    """Stop a trainer that draws and never reports, before the log is full of its draws."""
    if state.draws + asked <= limit:
        return

    unreported = int(np.count_nonzero(state.issued.reported.view == 0))
    if unreported + asked > limit:
        detail = (
            f"{unreported} draws of run {state.name!r} have no outcome, "
            f"and at most {limit} may be without one: "
        )
        raise Busy(
            f"{detail}report them, with status `cancelled` where nothing will come",
            retry_after=10.0,
        )


def _choose(
    context: Context,
    unit: Unit,
    state: RunState,
    record: RunRecord,
    request: SelectBatch,
    question: str,
    warnings: list[str],
    restriction: Restriction,
) -> SelectionRecord:
    table = state.served
    settings = state.settings
    sequence = (
        unit.selections.next_sequence(state.id) if request.sequence is None else request.sequence
    )
    clock = record.selections if request.policy_version is None else request.policy_version
    rollouts = request.rollouts or settings.rollouts_per_prompt
    seed = derive(settings.seed, sequence)
    field = Field(
        identity=state.identity,
        tier=tiers(
            state.traffic,
            settings.reuse(),
            clock=clock,
            draws=record.draws,
            retired=table.retired,
            allowed=_allowed(state, restriction),
            prompts=None if restriction.subset is None else restriction.subset.prompts,
        ),
        last_draw=state.traffic.last_draw,
        posterior=table.posterior,
        groups=quota_groups(unit, state),
        softness=state.softness() if settings.selection.utility == "variance" else None,
        **_spread(context, unit, state),
    )
    rules = settings.rules(rollouts)
    if not table.informed:  # the prior would send everybody to the same extreme texts
        rules = replace(rules, uniform_share=1.0)

    try:
        choice = choose(field, rules, request.batch_size, seed)
    except TooFew as error:
        detail = (
            f"batch_size {request.batch_size} is more than the {error.available} prompts "
            f"there are {error.where}"
        )
        raise Invalid.at("batch_size", detail + _restricted_to(request)) from error

    chosen = table.posterior.take(choice.rows)
    return SelectionRecord(
        sequence=sequence,
        ordinal=record.selections,
        request=question,
        seed=seed,
        clock=clock,
        policy_version=request.policy_version,
        model_version=table.model_version,
        trained_through=table.trained_through,
        strategy=settings.selection.strategy,
        rollouts=rollouts,
        first_draw=record.draws,
        rows=choice.rows.cpu().numpy().astype(np.int32),
        predicted=chosen.mean.cpu().numpy().astype(np.float32),
        uncertainty=chosen.std.cpu().numpy().astype(np.float32),
        uniform=choice.uniform.cpu().numpy().astype(np.uint8),
        warnings=warnings
        + choice.warnings
        + _low_signal(choice, chosen.mean, rollouts, settings.selection.strategy),
        epoch=record.epoch,
        waited=request.wait_seconds > 0,
    )


def _restricted_to(request: SelectBatch) -> str:
    """What a batch was to be drawn from, where that is not the whole run."""
    parts = []
    if request.subset is not None:
        parts.append(f"in the subset {request.subset}")
    if request.candidates is not None:
        parts.append("among the candidates")
    if request.exclude:
        parts.append("without what is excluded")
    return f" ({', '.join(parts)})" if parts else ""


def _allowed(state: RunState, restriction: Restriction) -> Tensor | None:
    """bool[N]: the caller's candidates in its subset, less exclusions; None if it named none."""
    allowed = None
    if restriction.candidates is not None:
        allowed = torch.zeros(state.rows, dtype=torch.bool)
        allowed[torch.from_numpy(restriction.candidates)] = True
        allowed = allowed.to(state.device)

    if restriction.exclude.size:
        allowed = (
            torch.ones(state.rows, dtype=torch.bool, device=state.device)
            if allowed is None
            else allowed
        )
        allowed[torch.from_numpy(restriction.exclude).to(state.device)] = False

    if restriction.subset is not None:
        own = state.subsets.over(restriction.subset, state.rows).rows
        allowed = own if allowed is None else allowed & own

    return allowed


def _spread(context: Context, unit: Unit, state: RunState) -> dict[str, Tensor]:
    """Embeddings and anchors, where the run wants diversity."""
    selection = state.settings.selection
    if not selection.diversity:
        return {}

    steps = selection.history_steps or 0
    firsts = state.issued.first_draw.view[-steps:]
    start = int(firsts[0]) if steps and firsts.size else state.draws
    start = min(start, max(state.draws - LEAST_HISTORY * steps, 0))
    anchors = torch.from_numpy(state.issued.row.view[start:].astype(np.int64)).to(state.device)

    return {"embedding": context.features.embedding(unit, state.segments), "anchors": anchors}


def _low_signal(choice: Choice, mean: Tensor, rollouts: int, strategy: str) -> list[str]:
    meant = mean[~choice.uniform]
    if strategy == "uniform" or meant.numel() == 0:
        return []
    share = float(mixed_probability(meant, rollouts).mean())
    if share >= LOW_SIGNAL:
        return []
    side = "hard" if float(meant.mean()) < 0.5 else "easy"
    return [f"the pool looks too {side}: about {share:.0%} of the chosen groups will be mixed"]


def _render(
    unit: Unit, state: RunState, selection: SelectionRecord, request: SelectBatch, *, replayed: bool
) -> Batch:
    prompts = prompts_at(
        unit, state.segments, selection.rows.astype(np.int64), text=request.include_text
    )
    return Batch(
        run=state.name,
        sequence=selection.sequence,
        replayed=replayed,
        model_version=selection.model_version,
        trained_through=selection.trained_through,
        strategy=selection.strategy,
        draws=Draws(
            draw_id=draw_ids(state.id, selection.epoch, selection.first_draw, selection.size),
            prompt=[key for key, _ in prompts],
            pool=pools_at(unit, state, selection.rows.astype(np.int64)),
            predicted_success=selection.predicted.astype(np.float64).round(6).tolist(),
            uncertainty=selection.uncertainty.astype(np.float64).round(6).tolist(),
            rollouts=[selection.rollouts] * selection.size,
            text=[text for _, text in prompts] if request.include_text else None,
        ),
        warnings=selection.warnings + (warnings_of(selection, request) if replayed else []),
    )

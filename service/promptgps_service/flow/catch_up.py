"""A run's state brought up to the database, and the one way to change a run.

A change takes the run's lock first, then a transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from promptgps_service.flow.feature_space import FeatureSpace
from promptgps_service.flow.run_state import RunState
from promptgps_service.flow.states import require_open
from promptgps_service.store.records import RunRecord, Segment
from promptgps_service.store.unit import Store, Unit


@contextmanager
def run_transaction(
    store: Store, features: FeatureSpace, state: RunState
) -> Iterator[tuple[Unit, RunRecord]]:
    """Hold a run against every other writer, here and elsewhere, with its state up to date.

    Other writers are those in this process and in others.

    Args:
        store: the database.
        features: of the pools.
        state: of the run.

    Yields:
        The unit of work, which commits at the end of the block, and the run's heads.

    Raises:
        RunGone: the run was deleted.
        NotOpen: it is archived, or broken.
        Unavailable: the database does not answer; nothing of the block is stored.
    """
    with state.lock, store.write() as unit:
        record = unit.runs.lock(state.id)
        require_open(unit, record)
        catch_up_in(unit, features, state, record)
        yield unit, record


def catch_up(store: Store, features: FeatureSpace, state: RunState) -> RunRecord:
    """Bring a run's state up to the database; answers the heads that it has come to.

    Raises:
        RunGone: the run was deleted.
        Unavailable: the database does not answer.
    """
    with state.lock, store.read() as unit:
        record = unit.runs.by_id(state.id)
        catch_up_in(unit, features, state, record)
        return record


def catch_up_in(unit: Unit, features: FeatureSpace, state: RunState, record: RunRecord) -> None:
    """The same, with the run's lock held and its heads read; costs nothing when up to date."""
    if record.epoch < state.epoch:
        return  # read before a restore that the state has seen
    if record.epoch > state.epoch:
        state.rewind(record.epoch)
    if record.revision > state.revision:
        state.retune(record)

    segments = unit.runs.segments(state.id, after=state.rows)
    if segments:
        state.add_rows(segments, features.identity(unit, segments))

    if record.selections > state.ordinal:
        for selection in unit.selections.since(state.id, state.ordinal):
            state.apply_selection(selection)

    if record.log_position > state.log_position:
        state.apply_log(unit.log.after(state.id, state.log_position))

    _require_whole(state, record)


def _require_whole(state: RunState, record: RunRecord) -> None:
    """Check that all that the heads tell of was there to be read.

    Raises:
        ValueError: selections or outcomes are missing, or there are more than were acknowledged.
    """
    read = {"selections": state.ordinal, "draws": state.draws, "log_position": state.log_position}
    for name, count in read.items():
        if count != getattr(record, name):
            raise ValueError(f"{name} should be {getattr(record, name)}, {count} were read")


def add_grown_rows(unit: Unit, state: RunState) -> bool:
    """Give a run the prompts that its pools have got since; inside ``run_transaction``.

    Returns:
        Whether there were any.
    """
    taken: dict[int, int] = {}
    for segment in state.segments:
        taken[segment.pool_id] = segment.start + segment.count

    offset = state.rows
    added = []

    for share in state.settings.pools:
        pool = unit.pools.get(share.pool)
        start = taken.get(pool.id, 0)
        if pool.prompts > start:
            added.append(Segment(offset, pool.id, start, pool.prompts - start))
            offset += pool.prompts - start

    for segment in added:
        unit.runs.add_segment(state.id, segment)

    return bool(added)

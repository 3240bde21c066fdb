"""A run that is stored already, built on trial as a process that opens it would build it.

What cannot be built stays hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from promptgps_service.errors import Invalid, PromptGPSError
from promptgps_service.flow.catch_up import catch_up
from promptgps_service.flow.feature_space import FeatureSpace, Matrix
from promptgps_service.flow.loaded_model import new_panel, require_finite, start_from, stored_panel
from promptgps_service.flow.run_state import RunState
from promptgps_service.flow.warm_start import PINNED
from promptgps_service.store.records import Segment, VersionRecord
from promptgps_service.store.unit import Store


def build_on_trial(
    store: Store, run_id: int, source: Sequence[Segment] | None, framed_by: Sequence[Segment] | None
) -> None:
    """Read a run and build its model, on the CPU.

    Args:
        store: the database.
        run_id: of the run, which may be a hidden one.
        source: segments of the run that it started from, if there is one.
        framed_by: segments of the run in whose frame its features are; None for its own.

    Raises:
        Invalid: it cannot be built; says why.
        Unavailable: the database does not answer.
    """
    device = torch.device("cpu")
    features = FeatureSpace(store, device, None)

    try:
        with store.read() as unit:
            state = RunState(unit.runs.by_id(run_id), device)
        catch_up(store, features, state)
        matrix = features.matrix(state.segments, framed_by)
        there = None if source is None else features.matrix(source)
        require_finite(new_panel(state.settings, matrix.features, device))
        for stored in _versions(store, run_id):
            _build(state, stored, matrix, there)
    except PromptGPSError:
        raise
    except Exception as error:  # whatever it is, a process that opened the run would meet it, too
        raise Invalid(f"the run cannot be built: {type(error).__name__}: {error}") from error


def _versions(store: Store, run_id: int) -> Iterator[VersionRecord]:
    """Every version of a run, one at a time, the newest first."""
    below = None
    while True:
        with store.read() as unit:
            stored = unit.versions.latest(run_id, below=below)
        if stored is None:
            return
        yield stored
        below = stored.version


def _build(state: RunState, stored: VersionRecord, matrix: Matrix, there: Matrix | None) -> None:
    """Build the model of a version.

    Raises:
        ValueError: it cannot be.
    """
    if stored.version == PINNED:
        if there is None:
            raise ValueError("version 0 is there, and no run that it comes from")
        panel = new_panel(state.settings, matrix.features, state.device)
        start_from(panel, stored, there.identity, matrix.identity)
    elif stored.state:  # else it was damaged where it came from; the log makes up for it
        stored_panel(
            stored, str(state.settings.predictor()), state.settings, matrix.features, state.device
        )

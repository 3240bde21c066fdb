"""What cannot be built is refused before it is committed.

A run is built, over some of its rows, before it is made.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from promptgps_service.errors import Busy, Invalid
from promptgps_service.flow.context import Context
from promptgps_service.flow.device_queue import Steps
from promptgps_service.flow.faults import PASSING, is_short_of_memory
from promptgps_service.flow.feature_space import Matrix
from promptgps_service.flow.loaded_model import new_panel, require_finite, start_from
from promptgps_service.flow.run_settings import RunSettings
from promptgps_service.flow.warm_start import framing, source_segments
from promptgps_service.model.predictor import Visits
from promptgps_service.store.records import Segment, VersionRecord

TRIAL_ROWS = 512  # the model is the same over more


def require_buildable(
    context: Context,
    settings: RunSettings,
    segments: Sequence[Segment],
    pinned: VersionRecord | None,
) -> None:
    """Check that a run can be built, draw and learn.

    It takes turns on the device, so it is not called in a unit of work.

    Args:
        context: of this process.
        settings: of the run.
        segments: that its rows are to be.
        pinned: the state that it is to start from; None for the prior.

    Raises:
        Invalid: it cannot; says which setting is at fault, as far as that is known.
        Busy: too many wait for the device, or there is not enough memory now.
        Unavailable: the database does not answer.
    """
    context.queue.call(object(), lambda: _build(context, settings, segments, pinned))


def _build(
    context: Context,
    settings: RunSettings,
    segments: Sequence[Segment],
    pinned: VersionRecord | None,
) -> Steps[None]:
    at_fault = "pools"
    try:
        matrix = yield from context.queue.aside(lambda: _matrix(context, settings, segments))
        if not bool(torch.isfinite(matrix.features.x).all()):
            raise ValueError("features of its prompts are not finite")

        at_fault = "selection.predictor"
        features = matrix.features.head(min(matrix.features.rows, TRIAL_ROWS))
        panel = new_panel(settings, features, context.device)
        yield None

        if pinned is not None:
            at_fault = "warm_start_from"
            there = yield from context.queue.aside(lambda: _source(context, settings))
            start_from(panel, pinned, there.identity, matrix.identity[: features.rows])
            at_fault = "selection.predictor"
            yield None

        rows_visited = torch.arange(min(features.rows, 2))
        half = torch.ones(len(rows_visited), dtype=torch.float64)
        panel.observe(Visits(rows_visited, half, 2 * half))  # a fit that diverges is not served
        require_finite(panel)
    except PASSING:
        raise
    except Exception as error:
        if is_short_of_memory(error):
            raise Busy("there is not enough memory to build this run now", 10.0) from error
        detail = f"a run with these settings cannot be built: {type(error).__name__}: {error}"
        raise Invalid.at(at_fault, detail) from error


def _matrix(context: Context, settings: RunSettings, segments: Sequence[Segment]) -> Matrix:
    with context.store.read() as unit:
        framed_by = framing(unit, settings, segments)
    return context.features.matrix(segments, framed_by)


def _source(context: Context, settings: RunSettings) -> Matrix:
    with context.store.read() as unit:
        segments = source_segments(unit, settings)
    return context.features.matrix(segments)

"""A run that starts from what another has learned.

It is in that run's frame, with its state pinned as version 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from promptgps_service.errors import Fault, Invalid, NotFound
from promptgps_service.flow.run_settings import RunSettings
from promptgps_service.model.features import Features
from promptgps_service.model.predictor import Continuing
from promptgps_service.model.registry import make_predictor
from promptgps_service.store.records import PoolRecord, RunRecord, Segment, VersionRecord
from promptgps_service.store.unit import Unit

FIELD = "warm_start_from"
PINNED = 0  # the version that holds the other run's state


def source_of(
    unit: Unit, settings: RunSettings, pools: Sequence[PoolRecord]
) -> VersionRecord | None:
    """The newest version of the run to start from, if there is to be one.

    Raises:
        NotFound: there is no such run.
        Invalid: its pools have another embedding, it has another predictor, or nothing was learned
            there.
    """
    if settings.warm_start_from is None:
        return None

    source = unit.runs.find(settings.warm_start_from, keep=True)
    if source is None:
        raise NotFound(
            f"there is no run {settings.warm_start_from!r}", (Fault(FIELD, "no such run"),)
        )

    other = RunSettings.load(source.settings)
    theirs = unit.pools.get(other.pools[0].pool)
    if (theirs.embedding, theirs.dimension) != (pools[0].embedding, pools[0].dimension):
        raise Invalid.at(FIELD, "the pools of that run have another embedding")

    name, parameters = settings.predictor()
    if other.predictor() != (name, parameters):
        raise Invalid.at(FIELD, "that run has another predictor")

    nothing = Features(torch.zeros(1, 0), (), 1)
    if not isinstance(make_predictor(name, nothing, torch.device("cpu"), **parameters), Continuing):
        raise Invalid.at(
            FIELD, f"the predictor {name!r} cannot start from what another run has learned"
        )

    newest = unit.versions.latest(source.id)
    if newest is None:
        raise Invalid.at(FIELD, "that run has learned nothing yet")

    return newest


def pin(unit: Unit, record: RunRecord, source: VersionRecord) -> None:
    """Keep the state that a new run starts from, whatever becomes of its run."""
    unit.versions.add(record.id, VersionRecord(PINNED, 0, source.predictor, source.state))


def framing(unit: Unit, settings: RunSettings, segments: Sequence[Segment]) -> Sequence[Segment]:
    """Segments in whose frame a run's features are.

    They are its own, or those of the run that the first warm start was from.
    """
    chain = list(sources(unit, settings))
    return unit.runs.segments(chain[-1].id) if chain else segments


def sources(unit: Unit, settings: RunSettings) -> Iterator[RunRecord]:
    """The run that another started from, the one that that started from, and so on."""
    while settings.warm_start_from is not None:
        source = unit.runs.get(settings.warm_start_from)
        yield source
        settings = RunSettings.load(source.settings)


def source_segments(unit: Unit, settings: RunSettings) -> Sequence[Segment]:
    """Segments of the run that another starts from."""
    return unit.runs.segments(unit.runs.get(settings.warm_start_from or "").id)


def places(there: Tensor, here: Tensor) -> Tensor:
    """For the prompts int64[N'] of another run, by identity: their rows among int64[N] here.

    A row is −1 where there is none.
    """
    order = here.argsort(stable=True)
    at = torch.searchsorted(here[order], there).clamp_max(len(here) - 1)
    rows = order[at]
    return torch.where(here[rows] == there, rows, -1)

"""A run's model in this process: a predictor over the run's rows, and what it was loaded from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from promptgps_service.flow.feature_space import Matrix
from promptgps_service.flow.run_settings import RunSettings
from promptgps_service.flow.run_state import ScoreTable
from promptgps_service.flow.timeline import Timeline
from promptgps_service.flow.warm_start import places
from promptgps_service.model.checkpoint import pack, unpack
from promptgps_service.model.features import Features
from promptgps_service.model.panel import Panel
from promptgps_service.model.registry import make_predictor
from promptgps_service.store.records import VersionRecord

BASELINES = ("beta", "ridge", "constant")


@dataclass(frozen=True)
class LoadedModel:
    """A predictor that is at work, and where it stands.

    The predictor learns in place; all else is replaced whole.

    Attributes:
        predictor: the run's predictor beside its baselines.
        matrix: features of the run's rows.
        identity: name and parameters of the predictor, as text.
        epoch: of the run.
        revision: of the run's settings.
        version: the published version that it is, or goes on from; 0 before there is one.
        through: position of the log up to which it has learned.
        timeline: of the steps learned.
        informed: whether it knows one prompt from another.
    """

    predictor: Panel
    matrix: Matrix
    identity: str
    epoch: int
    revision: int
    version: int
    through: int
    timeline: Timeline
    informed: bool

    @property
    def rows(self) -> int:
        """N, rows of the run that it predicts for."""
        return self.matrix.features.rows

    @property
    def made_of(self) -> tuple[int, int, int, int]:
        """What it would have to be loaded anew for, as of a score table."""
        return self.epoch, self.revision, self.version, self.rows

    def packed(self, version: int, through: int) -> VersionRecord:
        """The state as a version to be stored.

        Args:
            version: its number.
            through: position of the log that it has come to.
        """
        metadata = {
            "identity": self.identity,
            "rows": str(self.rows),
            "timeline": self.timeline.dump(),
        }
        state = pack(self.predictor.state_dict(), metadata)
        return VersionRecord(version, through, self.predictor.served, state)

    def table(self, version: int, through: int, retired: Tensor | None) -> ScoreTable:
        """The whole pool scored.

        Args:
            version: number of the version that scores it.
            through: position of the log that it has come to.
            retired: bool[N] or None.
        """
        return ScoreTable(
            epoch=self.epoch,
            revision=self.revision,
            model_version=version,
            trained_through=through,
            posterior=self.predictor.predict(),
            rows=self.rows,
            retired=retired,
            informed=self.informed or through > 0,
        )


def new_panel(settings: RunSettings, features: Features, device: torch.device) -> Panel:
    """The predictor that a run asks for, beside its baselines, before it has learned anything.

    Raises:
        ValueError: the predictor does not take its parameters.
    """
    main, parameters = settings.predictor()
    members = [make_predictor(main, features, device, **parameters)]
    members += [make_predictor(name, features, device) for name in BASELINES if name != main]
    return Panel(members, replaceable=bool(settings.selection.fallback))


def stored_panel(
    stored: VersionRecord,
    identity: str,
    settings: RunSettings,
    features: Features,
    device: torch.device,
) -> tuple[Panel, Timeline] | None:
    """The predictor of a stored version; None where it is one of another predictor.

    Raises:
        ValueError: the version is damaged, or what it says of itself cannot be.
    """
    tensors, metadata = unpack(stored.state)
    if _text(metadata, "identity") != identity:
        return None

    rows = int(_text(metadata, "rows"))
    if not 0 < rows <= features.rows:
        raise ValueError(f"it is about {rows} rows, the run has {features.rows}")

    panel = new_panel(settings, features.head(rows), device)
    panel.load_state_dict(tensors)
    timeline = Timeline.load(_text(metadata, "timeline"))

    if rows < features.rows:  # the pools have grown since
        panel.grow(features)

    require_finite(panel)
    return panel, timeline


def start_from(panel: Panel, pinned: VersionRecord, there: Tensor, here: Tensor) -> None:
    """Let a predictor that has learned nothing start from what that of another run had learned.

    Args:
        panel: over the prompts here.
        pinned: state of the other run's predictor.
        there: int64[N'], identity of the other run's prompts, in its order.
        here: int64[N], identity of the prompts that the panel is about.

    Raises:
        ValueError: the state is damaged, or of no use here.
    """
    tensors, metadata = unpack(pinned.state)
    rows = int(_text(metadata, "rows"))
    if not 0 < rows <= len(there):
        raise ValueError(f"it is about {rows} rows, its run has {len(there)}")
    panel.begin(tensors, places(there[:rows], here))
    require_finite(panel)


def require_finite(panel: Panel) -> None:
    """Check that what is predicted are numbers.

    Raises:
        ValueError: some of it is not.
    """
    for name in panel.members:
        posterior = panel.posterior(name)
        if not bool((torch.isfinite(posterior.mean) & torch.isfinite(posterior.std)).all()):
            raise ValueError(f"what its predictor {name!r} predicts is not finite")


def _text(metadata: Mapping[str, Any], name: str) -> str:
    value = metadata.get(name)
    if not isinstance(value, str):
        raise ValueError(f"it does not say its {name}")
    return value

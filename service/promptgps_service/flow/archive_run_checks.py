"""What must be so between the rows of a run of an archive, so that it can be built.

It is told line by line. Each check takes the rows of one table in their order and raises a
ValueError at the first that cannot be. Memory is bounded by some bytes a draw and an outcome.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from promptgps_client.wire import CreateRun, OutcomesStored, Restored
from pydantic import ValidationError

from promptgps_service.errors import Invalid
from promptgps_service.flow.archive_folder import Folder
from promptgps_service.flow.archive_pool_checks import PoolCheck
from promptgps_service.flow.archive_rows import RunHead
from promptgps_service.flow.open_run import check_alone
from promptgps_service.flow.run_differences import GIVEN
from promptgps_service.flow.run_settings import NULLABLE, RunSettings
from promptgps_service.flow.timeline import Timeline
from promptgps_service.flow.warm_start import PINNED
from promptgps_service.model.checkpoint import from_safetensors, unpack
from promptgps_service.store.subsets import subset_id

Row = dict[str, Any]


def settings_of(stored: Mapping[str, Any], draws: int) -> RunSettings:
    """Settings of a run, as strict as if somebody asked for such a run now.

    Args:
        stored: as JSON has them.
        draws: of the run: shares of domains hold from one of these on.

    Raises:
        ValueError: they cannot be; says which.
    """
    own = dict(stored)
    quotas_from = own.pop("quotas_from", 0)
    if type(quotas_from) is not int or not 0 <= quotas_from <= draws:
        raise ValueError(
            f"settings.quotas_from is {quotas_from!r}, not a number up to the {draws} draws"
        )

    try:
        CreateRun.model_validate_json(json.dumps({"name": "archived", **own}))
        settings = RunSettings.load(dict(stored))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"settings.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"settings cannot be read: {error!r}") from error

    gaps = [
        name
        for name, value in settings.selection.model_dump().items()
        if value is None and name not in NULLABLE | {"predictor_parameters"}
    ]
    if gaps:
        raise ValueError(f"settings.selection.{gaps[0]} is missing")

    try:
        check_alone(settings)
    except Invalid as error:
        raise ValueError(f"settings.{error.faults[0].field}: {error.detail}") from error

    return settings


@dataclass
class RunCheck:
    """Rows of one run; tables must come in the order of the methods.

    Attributes:
        head: the run's own row.
        place: where its files are.
        folder: the archive.
        pools: those of the archive, by the id that they have there.
    """

    head: RunHead
    place: str
    folder: Folder
    pools: Mapping[int, PoolCheck]

    def __post_init__(self) -> None:
        self.rows = 0
        self.settings = settings_of(self.head.settings, self.head.draws)
        self._taken: dict[int, int] = {}
        self._snapshots: list[Row] = []
        self._tags: set[tuple[str, int]] = set()
        self._restores = 0
        self._sequence = -1
        self._issued: dict[str, array[int]] = {
            name: array("q") for name in ("ordinal", "first_draw", "size", "rollouts", "epoch")
        }
        self._rows: list[NDArray[np.int32]] = []
        self._row_of_draw = np.zeros(0, np.int32)
        self._rollouts_of_draw = np.zeros(0, np.int16)
        self._position = 0
        self._lines = array("q")
        self._parts = array("h")
        self._farthest = -1
        self._farthest_at: dict[int, int] = {}
        self._subsets: set[str] = set()
        self._receipts: set[str] = set()
        self._versions: dict[int, int] = {}
        self._step = 0
        self._late: dict[str, set[tuple[int, ...]]] = {}

    def head_fits(self) -> None:
        """Check the run's own row, and what it was opened with."""
        head = self.head
        opened = {name: value for name, value in head.request.items() if name != GIVEN}
        settings_of(opened, head.draws)

        given = head.request.get(GIVEN, [])
        if not isinstance(given, list) or not all(
            isinstance(name, str) and len(name) < 200 for name in given
        ):
            raise ValueError(f"request.{GIVEN} is not a list of names")

        self._settings_fit(self.settings)
        if head.trained_through > head.log_position:
            raise ValueError(
                f"trained_through {head.trained_through} is past the log, {head.log_position}"
            )
        if (head.state == "faulty") != (head.fault is not None):
            raise ValueError("fault is there where the state is `faulty`, and only there")

    def _settings_fit(self, settings: RunSettings) -> None:
        by_name = {pool.head.name: pool for pool in self.pools.values()}
        for share in settings.pools:
            if share.pool not in by_name:
                raise ValueError(f"settings.pools: the archive has no pool {share.pool!r}")

        own = [by_name[share.pool] for share in settings.pools]
        if len({(pool.head.embedding.model_dump_json(), pool.head.dimension) for pool in own}) > 1:
            raise ValueError("settings.pools: they have different embeddings")

        for domain in settings.selection.domain_quotas or ():
            if not any(domain in pool.domains for pool in own):
                raise ValueError(
                    f"settings.selection.domain_quotas: no prompt has the domain {domain!r}"
                )

        same = ("pools", "seed", "warm_start_from")
        if any(getattr(settings, name) != getattr(self.settings, name) for name in same):
            raise ValueError(
                "settings have other pools, another seed or another source than the run's"
            )

    def run_segments(self, row: Row) -> None:
        """Check a stretch of a pool."""
        pool = self.pools.get(row["pool_id"])
        names = [share.pool for share in self.settings.pools]
        if pool is None or pool.head.name not in names:
            raise ValueError(f"pool_id {row['pool_id']} is none of the run's pools")
        if row["offset"] != self.rows:
            raise ValueError(f"offset {row['offset']} does not follow the rows before, {self.rows}")
        if row["start"] != self._taken.get(row["pool_id"], 0):
            raise ValueError(f"start {row['start']} does not follow what the run has of the pool")
        if row["start"] + row["size"] > pool.head.prompts:
            raise ValueError(f"it ends past the {pool.head.prompts} prompts of the pool")

        self._taken[row["pool_id"]] = row["start"] + row["size"]
        self.rows += row["size"]

    def segments_are_whole(self) -> None:
        """Check, once all of them were read, that every pool takes part."""
        if len(self._taken) != len(self.settings.pools):
            raise ValueError("run_segments.jsonl: some pool of the run has no rows")

    def snapshots(self, row: Row) -> None:
        """Check a snapshot; what it says of other tables is checked with these."""
        head = self.head
        identity = row["tag"], row["superseded_in"]
        if identity in self._tags:
            raise ValueError(f"tag {row['tag']!r} is there already")

        self._tags.add(identity)
        if row["epoch"] > head.epoch or row["superseded_in"] > head.epoch:
            raise ValueError(
                f"epoch {row['epoch']} or {row['superseded_in']} is past the run's, {head.epoch}"
            )

        self._settings_fit(settings_of(row["settings"], row["draws"]))
        if row["superseded_in"]:
            return

        heads = ("log_position", "draws", "selections", "model_version")
        before = self._snapshots[-1] if self._snapshots else dict.fromkeys((*heads, "epoch"), 0)

        for name in heads:
            if not before[name] <= row[name] <= getattr(head, name):
                raise ValueError(
                    f"{name} {row[name]} is not between the snapshot before and the run's"
                )

        if row["trained_through"] > row["log_position"]:
            raise ValueError(
                f"trained_through {row['trained_through']} is past the log, {row['log_position']}"
            )

        self._snapshots.append(row)

    def restores(self, row: Row) -> None:
        """Check a restore."""
        self._restores += 1
        if row["epoch"] != self._restores:
            raise ValueError(f"epoch {row['epoch']} does not follow the one before")

    def restores_are_whole(self) -> None:
        """Check, once all of them were read, that there are as many as the run tells of."""
        if self._restores != self.head.epoch:
            raise ValueError(
                f"restores.jsonl: {self._restores} of them, the run has epoch {self.head.epoch}"
            )

    def selections(self, row: Row) -> None:
        """Check a selection; they come by sequence, which is not the order of issue."""
        if row["sequence"] <= self._sequence:
            raise ValueError(f"sequence {row['sequence']} does not follow the one before")

        self._sequence = row["sequence"]
        self._selection(row)

        if (
            row["model_version"] > self.head.model_version
            or row["trained_through"] > self.head.log_position
        ):
            raise ValueError("model_version or trained_through is past the run's")

        for name, column in self._issued.items():
            column.append(row[name])

        self._rows.append(np.array(row["rows"], np.int32))

    def _selection(self, row: Row) -> None:
        for name in ("rows", "predicted", "uncertainty", "uniform"):
            if len(row[name]) != row["size"]:
                raise ValueError(f"{name} has {len(row[name])} entries, size is {row['size']}")

        if max(row["rows"]) >= self.rows:
            raise ValueError(f"row {max(row['rows'])} is not one of the run's {self.rows}")
        if len(set(row["rows"])) != row["size"]:
            raise ValueError("a prompt is drawn twice")
        if row["epoch"] > self.head.epoch:
            raise ValueError(f"epoch {row['epoch']} is past the run's, {self.head.epoch}")

    def selections_are_whole(self) -> None:
        """Check, once all of them were read, that draws and selections have no gaps."""
        head = self.head
        columns = {name: np.frombuffer(column, np.int64) for name, column in self._issued.items()}
        order = np.argsort(columns["ordinal"], kind="stable")
        columns = {name: column[order] for name, column in columns.items()}
        count = order.size
        if count != head.selections or not np.array_equal(columns["ordinal"], np.arange(count)):
            raise ValueError(
                f"selections.jsonl: the ordinals are not 0 to {head.selections - 1}, each once"
            )

        ends = np.cumsum(columns["size"])
        if not np.array_equal(columns["first_draw"], ends - columns["size"]):
            raise ValueError("selections.jsonl: first_draw does not follow the draws before it")
        if (ends[-1] if count else 0) != head.draws:
            raise ValueError(
                f"selections.jsonl: {ends[-1] if count else 0} draws, the run has {head.draws}"
            )
        if (np.diff(columns["epoch"]) < 0).any():
            raise ValueError("selections.jsonl: an epoch goes back")

        for snapshot in self._snapshots:
            at = snapshot["selections"]
            if (ends[at - 1] if at else 0) != snapshot["draws"]:
                raise ValueError(
                    f"snapshots.jsonl: {snapshot['tag']!r} has other draws than selections"
                )

        rows = [self._rows[number] for number in order.tolist()]
        self._row_of_draw = np.concatenate(rows) if rows else np.zeros(0, np.int32)
        self._rollouts_of_draw = np.repeat(columns["rollouts"], columns["size"]).astype(np.int16)
        self._rows = []

    def outcomes(self, row: Row) -> None:
        """Check a line of the log."""
        self._position += 1
        if row["position"] != self._position:
            raise ValueError(f"position {row['position']} does not follow the one before")

        draw = row["draw"]
        self._outcome(row)

        if draw is None:
            if row["row"] >= self.rows:
                raise ValueError(f"row {row['row']} is not one of the run's {self.rows}")
        else:
            if draw >= self.head.draws:
                raise ValueError(f"draw {draw} is not one of the run's {self.head.draws}")
            if row["row"] != self._row_of_draw[draw]:
                raise ValueError(
                    f"row {row['row']} is not that of draw {draw}, {self._row_of_draw[draw]}"
                )
            if row["rollout"] >= self._rollouts_of_draw[draw]:
                raise ValueError(
                    f"rollout {row['rollout']} is not one of the draw's "
                    f"{self._rollouts_of_draw[draw]}"
                )

            self._lines.append(draw * 4_097 + row["rollout"] + 1)
            self._parts.append(row["part"])
            self._farthest = max(self._farthest, draw)

        for snapshot in self._snapshots:
            if snapshot["log_position"] == self._position:
                self._farthest_at[self._position] = self._farthest

    def _outcome(self, row: Row) -> None:
        most = row["trials"] if row["rollout"] < 0 else min(row["trials"], 1)
        if row["successes"] > most or row["trials"] > (4_096 if row["rollout"] < 0 else 1):
            raise ValueError(f"successes {row['successes']:g} of {row['trials']} trials")
        if row["draw"] is None and (row["part"] or row["rollout"] >= 0):
            raise ValueError("an outcome by prompt is one of a whole group")

    def log_is_whole(self) -> None:
        """Check, once all was read: nothing is told twice, and snapshots go back to whole logs."""
        head = self.head
        if self._position != head.log_position:
            raise ValueError(
                f"outcomes.jsonl: {self._position} lines, the log is at {head.log_position}"
            )

        lines = np.frombuffer(self._lines, np.int64)
        parts = np.frombuffer(self._parts, np.int16)
        order = np.lexsort((np.arange(lines.size), lines))  # of one rollout in the order of the log
        new = np.diff(lines[order], prepend=-1) != 0
        start = np.maximum.accumulate(np.where(new, np.arange(order.size), 0))
        if not np.array_equal(parts[order], np.arange(order.size) - start):
            raise ValueError(
                "outcomes.jsonl: the parts of a rollout or group are not 0, 1, … "
                "in the order of the log"
            )

        for snapshot in self._snapshots:
            if self._farthest_at.get(snapshot["log_position"], -1) >= snapshot["draws"]:
                raise ValueError(
                    f"snapshots.jsonl: the log of {snapshot['tag']!r} "
                    "tells of draws that came after it"
                )

    def run_subsets(self, row: Row) -> None:
        """Check a subset."""
        rows = np.array(row["rows"], np.int64)
        if rows.size != row["size"]:
            raise ValueError(f"rows has {rows.size} entries, size is {row['size']}")
        if rows[-1] >= self.rows or (np.diff(rows) <= 0).any():
            raise ValueError(f"rows are not ascending below the run's {self.rows}")
        if row["id"] != subset_id(rows) or row["id"] in self._subsets:
            raise ValueError("id is not that of the rows, or is there already")
        self._subsets.add(row["id"])

    def receipts(self, row: Row) -> None:
        """Check an answer that was given."""
        if row["idempotency_key"] in self._receipts:
            raise ValueError("idempotency_key is there already")

        self._receipts.add(row["idempotency_key"])
        if row["log_position"] > self.head.log_position:
            raise ValueError(
                f"log_position {row['log_position']} is past the log, {self.head.log_position}"
            )

        kind = Restored if "tag" in row["answer"] else OutcomesStored
        kind.model_validate_json(json.dumps(row["answer"]))

    def model_versions(self, row: Row) -> None:
        """Check a model version, and put its state into the row; a damaged one already has none."""
        version = row["version"]
        if version <= max(self._versions, default=-1):
            raise ValueError(f"version {version} does not follow the one before")
        if version > self.head.model_version:
            raise ValueError(f"version {version} is past the run's, {self.head.model_version}")
        if row["trained_through"] > self.head.log_position:
            raise ValueError(
                f"trained_through {row['trained_through']} is past the log, "
                f"{self.head.log_position}"
            )

        warm = self.settings.warm_start_from is not None
        damaged = row.pop("damaged", False)
        if version == PINNED and (not warm or damaged):
            raise ValueError(
                "version 0 is what a run starts from: "
                "this one starts from nothing, or it is damaged"
            )

        self._versions[version] = row["trained_through"]
        row["state"] = b"" if damaged else self._state(version)

    def _state(self, version: int) -> bytes:
        state = from_safetensors(self.folder.body(f"{self.place}/{version}"))
        try:
            tensors, metadata = unpack(state)
            rows = int(metadata["rows"])
            timeline = Timeline.load(metadata["timeline"])
            if not isinstance(metadata["identity"], str):
                raise ValueError("it does not say its predictor")
            timeline.ages(np.zeros(1, np.int64))
        except (
            ValueError,
            KeyError,
            TypeError,
            IndexError,
            OverflowError,
            RecursionError,
        ) as error:
            raise ValueError(f"{version}.safetensors cannot be read: {error}") from error

        if rows < 1 or (version != PINNED and rows > self.rows):
            raise ValueError(f"{version}.safetensors is about {rows} rows, the run has {self.rows}")

        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{version}.safetensors: {name} is not finite")

        return state

    def versions_are_whole(self) -> None:
        """Check, once all were read, that the published one is there, and the snapshots' ones."""
        head = self.head
        heads = [(head.model_version, head.trained_through, "the run")]
        heads += [
            (row["model_version"], row["trained_through"], repr(row["tag"]))
            for row in self._snapshots
        ]

        for version, through, whose in heads:
            if version and version not in self._versions:
                raise ValueError(
                    f"model_versions.jsonl: version {version}, that of {whose}, is missing"
                )
            if through > self._versions.get(version, 0):
                raise ValueError(
                    f"trained_through {through} of {whose} is past that of its version"
                )

        if self.settings.warm_start_from is not None and PINNED not in self._versions:
            raise ValueError(
                "model_versions.jsonl: version 0, which the run started from, is missing"
            )

    def steps(self, row: Row) -> None:
        """Check the metrics of a step."""
        if not self._step < row["version"] <= self.head.model_version:
            raise ValueError(
                f"version {row['version']} does not follow the one before, up to the run's"
            )
        if row["trained_through"] > self.head.log_position:
            raise ValueError(f"trained_through {row['trained_through']} is past the log")
        self._step = row["version"]

    def superseded_selections(self, row: Row) -> None:
        """Check a selection that a restore has superseded."""
        self._late_row("selections", row, row["ordinal"])
        self._selection(row)

    def superseded_outcomes(self, row: Row) -> None:
        """Check an outcome that a restore has superseded, or that came later."""
        self._late_row("outcomes", row, row["position"])
        self._outcome(row)
        if row["row"] >= self.rows:
            raise ValueError(f"row {row['row']} is not one of the run's {self.rows}")
        if row["draw"] is not None:
            self._late_row("draws", row, row["draw"], row["rollout"], row["part"])

    def superseded_steps(self, row: Row) -> None:
        """Check the metrics of a step that a restore has superseded."""
        self._late_row("steps", row, row["version"])

    def _late_row(self, kind: str, row: Row, *key: int) -> None:
        if row["superseded_in"] > self.head.epoch:
            raise ValueError(
                f"superseded_in {row['superseded_in']} is past the run's epoch, {self.head.epoch}"
            )

        seen = self._late.setdefault(kind, set())
        identity = (row["superseded_in"], *key)
        if identity in seen:
            raise ValueError("it is there already")

        seen.add(identity)

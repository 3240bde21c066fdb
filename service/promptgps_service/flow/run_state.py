"""One run as this process knows it: readers of the selections and of the log, each with its cursor.

Everything here can be thrown away and read again from the database; nothing here is the truth.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from promptgps_service.acquisition.randomness import distinct
from promptgps_service.acquisition.reuse import Traffic
from promptgps_service.flow.masks import Masks
from promptgps_service.flow.reward_sums import RewardSums
from promptgps_service.flow.run_lock import RunLock
from promptgps_service.flow.run_settings import RunSettings
from promptgps_service.model.predictor import Posterior
from promptgps_service.store.records import GROUP, LogSlice, RunRecord, Segment, SelectionRecord

NEVER = -(2**60)


@dataclass(frozen=True)
class NewPrompts:
    """Prompts outside the pool.

    Attributes:
        embedding: float32[L, d].
        texts: L; None where the pool has vectors of the caller.
    """

    embedding: NDArray[np.float32]
    texts: list[str] | None

    def parts(self, size: int) -> list[NewPrompts]:
        """At most ``size`` of them at a time, in their order."""
        slices = [slice(start, start + size) for start in range(0, len(self.embedding), size)]
        return [
            NewPrompts(self.embedding[part], None if self.texts is None else self.texts[part])
            for part in slices
        ]


@dataclass(frozen=True)
class ScoreTable:
    """The whole pool scored by one model version; swapped in one go.

    Attributes:
        epoch: of the run; a table of an earlier one scores what a restore has superseded.
        revision: of the settings that it was made with.
        model_version: 0 before anything was learned.
        trained_through: position of the log up to which the model has learned.
        posterior: of all rows.
        retired: bool[N] or None.
        informed: false as long as the posterior is the prior's: it then knows no prompt from
            another.
        made_at: monotonic time of this process, seconds.
    """

    epoch: int
    revision: int
    model_version: int
    trained_through: int
    posterior: Posterior
    rows: int
    retired: Tensor | None
    informed: bool
    made_at: float = field(default_factory=time.monotonic, compare=False)

    @property
    def made_of(self) -> tuple[int, int, int, int]:
        """What it would have to be made anew for."""
        return self.epoch, self.revision, self.model_version, self.rows


class Column:
    """An array that grows at its end."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self._data = np.zeros(1024, dtype)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def extend(self, values: NDArray[np.generic]) -> None:
        """Append values."""
        need = self._length + values.size
        if need > self._data.size:
            grown = np.zeros(max(need, 2 * self._data.size), self._data.dtype)
            grown[: self._length] = self._data[: self._length]
            self._data = grown

        self._data[self._length : need] = values
        self._length = need

    @property
    def view(self) -> NDArray[np.int64]:
        """What there is, writable."""
        return self._data[: self._length]


@dataclass
class Issued:
    """Every draw of the run: columns by draw, and columns by selection."""

    row: Column = field(default_factory=lambda: Column(np.int32))
    reported: Column = field(default_factory=lambda: Column(np.int32))
    uniform: Column = field(default_factory=lambda: Column(np.uint8))
    first_draw: Column = field(default_factory=lambda: Column(np.int64))
    size: Column = field(default_factory=lambda: Column(np.int64))
    rollouts: Column = field(default_factory=lambda: Column(np.int64))
    clock: Column = field(default_factory=lambda: Column(np.int64))
    epoch: Column = field(default_factory=lambda: Column(np.int64))
    waited: Column = field(default_factory=lambda: Column(np.uint8))

    def add(self, selection: SelectionRecord) -> None:
        """Append a selection's draws."""
        self.row.extend(selection.rows)
        self.uniform.extend(selection.uniform)
        self.reported.extend(np.zeros(selection.size, np.int32))

        for column, value in (
            (self.first_draw, selection.first_draw),
            (self.size, selection.size),
            (self.rollouts, selection.rollouts),
            (self.clock, selection.clock),
            (self.epoch, selection.epoch),
            (self.waited, selection.waited),
        ):
            column.extend(np.array([value], np.int64))

    def selection_of(self, draws: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ordinal of the selection that each draw belongs to."""
        return np.searchsorted(self.first_draw.view, draws, side="right") - 1

    def report(
        self, draws: NDArray[np.int64], rollout: NDArray[np.int64], part: NDArray[np.int64]
    ) -> None:
        """Count rollouts as reported: a group's all at once, each one once.

        It makes no difference how many lines tell of one.

        Args:
            draws: of each line of the log, int64[L].
            rollout: index in its draw, or ``GROUP``, int64[L].
            part: which line of that rollout or group it is, int64[L]; only the first counts.
        """
        most = self.rollouts.view[self.selection_of(draws)]
        counted = np.where(rollout == GROUP, most, 1) * (part == 0)
        np.add.at(self.reported.view, draws, counted.astype(np.int32))
        self.reported.view[draws] = np.minimum(self.reported.view[draws], most)

    def complete(self, ordinals: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether every draw of each of those selections has all its rollouts reported."""
        answer = np.zeros(ordinals.size, np.bool_)
        for index, ordinal in enumerate(ordinals):
            first = int(self.first_draw.view[ordinal])
            size = int(self.size.view[ordinal])
            answer[index] = bool(
                (self.reported.view[first : first + size] >= self.rollouts.view[ordinal]).all()
            )

        return answer


@dataclass
class Groups:
    """Groups with a share of the draws.

    Rows bool[N] of each, and the draws each has had up to draw ``counted``.
    """

    rows: dict[str, Tensor]
    issued: dict[str, int]
    counted: int

    def count(self, issued: NDArray[np.int64]) -> None:
        """Count what has been issued since; ``issued`` has the row of every draw of the run."""
        for name, rows in self.rows.items():
            self.issued[name] += int(
                rows[torch.from_numpy(issued[self.counted :].astype(np.int64))].sum()
            )
        self.counted = issued.size


class RunState:
    """A run's rows, its traffic, its counts and the served score table.

    ``lock`` guards all but ``table``, which is replaced whole. Who needs a connection to the
    database as well takes the lock first; it sees to that itself.
    """

    def __init__(self, record: RunRecord, device: torch.device) -> None:
        self.id = record.id
        self.name = record.name
        self.settings = _whole(RunSettings.load(record.settings))
        self.revision = record.revision
        self.device = device
        self.lock = RunLock()
        self.learned = threading.Condition()
        # The run was archived or deleted, or broke: nobody is to work on this state any more.
        self.over = False
        self.segments: list[Segment] = []
        self.identity = torch.zeros(0, dtype=torch.int64, device=device)
        self.groups: Groups | None = None
        self.subsets = Masks(device)
        self.table: ScoreTable | None = None
        self.rewind(record.epoch)

    def rewind(self, epoch: int) -> None:
        """Begin an epoch: everything read of the selections and of the log is to be read anew."""
        self.epoch = epoch
        self.issued = Issued()
        self.sequences: set[int] = set()  # of the selections that were read
        self.ordinal = 0
        self.log_position = 0
        self.wanted = 0
        self.groups = None
        self.traffic = _empty_traffic(self.rows, self.device)
        self.successes = torch.zeros(self.rows, dtype=torch.float64)
        self.trials = torch.zeros(self.rows, dtype=torch.float64)
        self.reward_sums: RewardSums | None = None
        self._begin_reward_sums()

    def retune(self, record: RunRecord) -> None:
        """Take over settings that have changed."""
        self.settings = _whole(RunSettings.load(record.settings))
        self.revision = record.revision
        self.groups = None
        if (self.reward_sums is not None) != (self.settings.reward.kind == "affine"):
            self._begin_reward_sums()  # the reward changes only while the log is empty

    def _begin_reward_sums(self) -> None:
        self.reward_sums = RewardSums() if self.settings.reward.kind == "affine" else None

    @property
    def rows(self) -> int:
        """N."""
        return int(self.identity.numel())

    @property
    def draws(self) -> int:
        """Draws issued."""
        return len(self.issued.row)

    def add_rows(self, segments: list[Segment], identity: Tensor) -> None:
        """Append the rows of new segments."""
        added = int(identity.numel())
        fresh = _empty_traffic(added, self.device)
        self.segments = self.segments + segments
        self.identity = torch.cat([self.identity, identity.to(self.device)])
        if len(self.settings.pools) > 1:  # two pools may have the same content
            self.identity = distinct(self.identity)

        self.traffic = Traffic(
            torch.cat([self.traffic.last_clock, fresh.last_clock]),
            torch.cat([self.traffic.last_draw, fresh.last_draw]),
            torch.cat([self.traffic.open, fresh.open]),
        )
        self.successes = torch.cat([self.successes, torch.zeros(added, dtype=torch.float64)])
        self.trials = torch.cat([self.trials, torch.zeros(added, dtype=torch.float64)])
        self.groups = None

    def apply_selection(self, selection: SelectionRecord) -> None:
        """Count a selection's draws as issued and pending.

        Raises:
            ValueError: it does not follow the one before, or draws what the run does not have.
        """
        if (selection.ordinal, selection.first_draw) != (self.ordinal, self.draws):
            raise ValueError(f"selection {selection.sequence} does not follow the one before it")

        _require_below(selection.rows, self.rows, f"a row of selection {selection.sequence}")
        rows = torch.from_numpy(selection.rows.astype(np.int64)).to(self.device)
        self.traffic.last_clock[rows] = selection.clock
        self.traffic.last_draw[rows] = (
            torch.arange(selection.size, device=self.device) + selection.first_draw
        )
        self.traffic.open[rows] += 1
        self.issued.add(selection)
        self.sequences.add(selection.sequence)
        self.ordinal = selection.ordinal + 1

    def apply_log(self, part: LogSlice) -> None:
        """Take in outcomes: counts at once, draws no longer pending.

        Raises:
            ValueError: they do not follow those before, or are of draws or prompts that the run
                does not have.
        """
        if part.start != self.log_position:
            raise ValueError(f"the log has a gap after position {self.log_position}")

        _require_below(part.draw[part.draw >= 0], self.draws, "a draw in the log")
        _require_below(part.row, self.rows, "a row in the log")
        drawn = part.draw >= 0
        draws = part.draw[drawn]
        first_seen = np.unique(draws[self.issued.reported.view[draws] == 0])
        self.issued.report(draws, part.rollout[drawn], part.part[drawn])
        rows = torch.from_numpy(self.issued.row.view[first_seen].astype(np.int64)).to(self.device)
        self.traffic.open.index_add_(0, rows, -torch.ones_like(rows, dtype=torch.int32))
        every = torch.from_numpy(part.row)
        self.successes.index_add_(0, every, torch.from_numpy(part.successes))
        self.trials.index_add_(0, every, torch.from_numpy(part.trials))
        if self.reward_sums is not None:
            self.reward_sums.add(part)

        self.log_position = part.head

    def want(self, position: int) -> None:
        """Somebody waits for the model to learn up to a position of the log."""
        if position > self.wanted:
            with self.lock:
                self.wanted = max(self.wanted, position)

    def visited(self, rows: int) -> Tensor:
        """Which of the first ``rows`` rows something is known of, bool[N] on the device."""
        with self.lock:
            return (self.trials[:rows] > 0).to(self.device)

    def softness(self) -> Tensor | None:
        """ρ of every row, float64[N], see ``acquisition.softness``; None for binary rewards."""
        if self.reward_sums is None:
            return None
        return self.reward_sums.softness(self.issued.row.view, self.rows, self.log_position).to(
            self.device
        )

    # ---- waiting for the model -------------------------------------------------------------------

    def publish(self, table: ScoreTable) -> None:
        """Swap the served table and wake whoever waits for it."""
        with self.learned:
            self.table = table
            self.learned.notify_all()

    @property
    def served(self) -> ScoreTable:
        """The table that answers; an opened run has one."""
        if self.table is None:
            raise RuntimeError(f"run {self.name!r} is not loaded")
        return self.table

    def has_learned(self, position: int) -> bool:
        """Whether the served model has learned up to a position of the log."""
        return (
            self.table is not None
            and self.table.epoch == self.epoch
            and self.table.trained_through >= position
        )

    def wait_learned(self, position: int, seconds: float) -> bool:
        """Wait for that; false when time ran out.

        It also ends with a restore or the run's end, after which nobody needs it.
        """
        epoch = self.epoch

        def done() -> bool:
            return self.over or self.epoch != epoch or self.has_learned(position)

        with self.learned:
            return self.learned.wait_for(done, seconds)

    def end(self) -> None:
        """Say that nobody is to work on this state any more; let go whoever waits for its model."""
        with self.learned:
            self.over = True
            self.learned.notify_all()


def _whole(settings: RunSettings) -> RunSettings:
    """Settings that have no gaps.

    Raises:
        ValueError: they have.
    """
    settings.rules(settings.rollouts_per_prompt)
    settings.reuse()
    return settings


def _require_below(values: NDArray[Any], limit: int, what: str) -> None:
    """Check that indices are inside what they index.

    Elsewhere a negative one counts from the end.
    """
    if values.size and not (int(values.min()) >= 0 and int(values.max()) < limit):
        raise ValueError(f"{what} is not in 0..{limit - 1}")


def _empty_traffic(rows: int, device: torch.device) -> Traffic:
    return Traffic(
        last_clock=torch.full((rows,), NEVER, dtype=torch.int64, device=device),
        last_draw=torch.full((rows,), -1, dtype=torch.int64, device=device),
        open=torch.zeros(rows, dtype=torch.int32, device=device),
    )

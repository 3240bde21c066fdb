"""What a training finds as it starts: a run of its own, or one that a training before it has left.

A training is a relaunch where outcomes of the run's draws were stored before its selector was made,
or where the spool still held some; and no state is loaded. Outcomes by prompt, as offline pass
rates are, do not count, nor do draws that nobody has reported.

The ranks of one launch are none of that to each other: each makes its selector before the first of
them has reported. A rank whose selector is made later than that is told to resume, which it can by
the state, or `course`, of another. Where the service is away at first, the age of the first outcome
decides, and not the moment of asking.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Literal

from promptgps_client.client import PromptGPS
from promptgps_client.errors import BadAnswer, Conflict, ExistingRun, NotFound
from promptgps_client.selector.asking import Asker, Silence
from promptgps_client.wire import Progress, Run, Snapshots

_log = logging.getLogger(__name__)

OnExisting = Literal["fail", "resume", "new"]
ON_EXISTING: tuple[OnExisting, ...] = ("fail", "resume", "new")
NAMES_TRIED = 1000
_MARK = re.compile(r"resumed-(\d+)-(\d*)-(\d+)")


@dataclass(frozen=True)
class Course:
    """Where a training's own numbers are in its run; the same on all of its ranks.

    Attributes:
        run: Name of the run, which may be another than was asked for.
        offset: Added to the training's sequences.
        latest_version: Policy version that the run had come to when this training began with its
            own counter; None where it had none.
        shift: Added to the training's policy versions; None as long as the first one is not known.
    """

    run: str
    offset: int = 0
    latest_version: int | None = None
    shift: int | None = 0

    def begun(self, policy_version: int | None) -> Course:
        """Settle the shift by the training's first policy version.

        One that counts anew counts on from the run's.
        """
        if self.shift is not None:
            return self

        behind = self.latest_version is not None and policy_version is not None
        shift = max(0, (self.latest_version or 0) + 1 - (policy_version or 0)) if behind else 0
        return replace(self, shift=shift)

    def shifted(self, policy_version: int | None) -> int | None:
        """A policy version of the training, as the run counts."""
        return None if policy_version is None else policy_version + (self.shift or 0)


class Launch:
    """Finds out whether a training is a relaunch, and what becomes of it then.

    Args:
        asker: To the service.
        run: The name that was asked for.
        on_existing: What to do.
        batch_size: Of the training; one of another size needs another mark in the run.
        left_behind: Whether the spool held reports to this run that an earlier process has left.
    """

    def __init__(
        self, asker: Asker, run: str, on_existing: OnExisting, batch_size: int, left_behind: bool
    ) -> None:
        self._asker = asker
        self._run = run
        self._on_existing = on_existing
        self._batch_size = batch_size
        self._began = monotonic()
        self._found: Run | None = None
        self._existing = left_behind
        self.settled = False

    @property
    def found(self) -> Run | None:
        """The run as it was at the first contact."""
        return self._found

    def look(self, *, at_once: bool = False) -> Run:
        """The run as it was at the first contact, which may be this.

        With `at_once` the training is just starting.

        Raises:
            Silence: No answer in time.
            BadAnswer: The service refuses.
        """
        if self._found is None:
            elapsed = 0.0 if at_once else monotonic() - self._began
            self._found = self._asker.within(lambda client: client.run(self._run))
            self._existing |= _reported_before(self._found, elapsed)
        return self._found

    def settle(self) -> Course | None:
        """Decide on the course of a training without a state.

        The answer is None where a batch must show first whether it is one.

        Raises:
            Silence: No answer in time.
            BadAnswer: The service refuses.
        """
        found = self.look()
        if self._existing and self._on_existing == "fail":
            return None

        if not self._existing:
            course = Course(found.name)
        elif self._on_existing == "resume":
            course = self._resumed(found)
        else:
            course = Course(self._opened(found))

        self.settled = True
        return course

    def check(self, sequence: int, cause: Exception | None = None) -> None:
        """A batch was answered before, or another one was, under its number.

        In the second case the service refuses this one.

        Raises:
            ExistingRun: It was answered to a training before this one.
        """
        found = self._found
        if self.settled or found is None:
            return

        progress = found.progress
        if progress is not None and sequence >= progress.next_sequence:
            return  # a sibling has asked for it since

        draws = found.draws if progress is None else progress.reported_draws
        raise ExistingRun(
            found.name, sequence, draws, self._snapshots(), self._free_name()
        ) from cause

    # ---- the three ways --------------------------------------------------------------------------

    def _resumed(self, found: Run) -> Course:
        """Go on after the last sequence.

        Where that was when this launch began must not depend on which rank asks first, and ranks
        draw as soon as they know. So the first one marks the run by a snapshot, whose tag has the
        numbers, and the others find it: it is this launch's as long as no draw after it is
        reported. Its tag is the same for two that find none.
        """
        progress = found.progress or Progress(
            next_sequence=found.selections,
            policy_version=None,
            reported_draws=found.draws,
            reporting_for=None,
        )

        snapshots: Snapshots = self._asker.within(lambda client: client.snapshots(found.name))
        marks = [
            (mark, _MARK.fullmatch(mark.tag)) for mark in snapshots.snapshots if not mark.superseded
        ]
        own = [
            (mark, told)
            for mark, told in marks
            if told is not None and int(told[3]) == self._batch_size
        ]
        if own and progress.reported_draws <= own[-1][0].draws:
            told = own[-1][1]
            offset = int(told[1])
            version = int(told[2]) if told[2] else None
        else:
            offset = progress.next_sequence
            version = progress.policy_version
            tag = f"resumed-{offset}-{'' if version is None else version}-{self._batch_size}"
            self._asker.within(lambda client: client.snapshot(found.name, tag))

        _log.warning(
            "run %s goes on as it is: this training's batches are those from %d on",
            found.name,
            offset,
        )

        return Course(found.name, offset, version, None)

    def _opened(self, found: Run) -> str:
        """Name of a new run with the settings of this one; siblings come to the same name."""
        for number in range(2, NAMES_TRIED):
            name = f"{self._run}-{number}"
            elapsed = monotonic() - self._began
            there = self._there(name)
            if there is not None and _reported_before(there, elapsed):
                continue

            try:
                self._asker.within(_opener(name, found))
            except Conflict:
                continue  # a run of other settings

            _log.warning(
                "run %s has been trained on before: this training is run %s", self._run, name
            )
            return name

        raise ValueError(
            f"runs {self._run}-2 to {self._run}-{NAMES_TRIED - 1} are all there; give another name"
        )

    def _there(self, name: str) -> Run | None:
        try:
            return self._asker.within(lambda client: client.run(name))
        except NotFound:
            return None

    # ---- for the message -------------------------------------------------------------------------

    def _snapshots(self) -> list[str]:
        try:
            told = self._asker.within(lambda client: client.snapshots(self._run))
        except (Silence, BadAnswer):
            return []
        return [mark.tag for mark in told.snapshots if not mark.superseded]

    def _free_name(self) -> str:
        try:
            return next(
                name
                for number in range(2, NAMES_TRIED)
                if self._there(name := f"{self._run}-{number}") is None
            )
        except (Silence, BadAnswer, StopIteration):
            return f"{self._run}-2"


def _reported_before(run: Run, elapsed: float) -> bool:
    """Whether an outcome of a draw was stored so many seconds ago or earlier.

    With 0 it is told without any clock.
    """
    if run.progress is None:  # a service of before
        return run.log_position > 0 and run.selections > 0
    return run.progress.reporting_for is not None and run.progress.reporting_for >= elapsed


def _opener(name: str, like: Run) -> Callable[[PromptGPS], Run]:
    """Opens a run with another's settings, as they were before its outcomes decided anything."""
    reward: dict[str, Any] = like.reward.model_dump(exclude={"values"}, exclude_none=True)
    return lambda client: client.create_run(
        name=name,
        pools=like.pools,
        rollouts_per_prompt=like.rollouts_per_prompt,
        reward=reward,
        seed=like.seed,
        selection=like.selection,
    )

"""What adapters share.

It is a selector in each process that draws or reports, and a run that goes back with the trainer.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from promptgps_client.client import PromptGPS
from promptgps_client.errors import PromptGPSError
from promptgps_client.selector import Course, Selector, SpoolInUse

_log = logging.getLogger(__name__)

DRAW_ID = "promptgps_draw_id"  # column of a drawn row; what came of its rollouts is reported by it
PATIENCE = 5.0  # seconds that a checkpoint waits for a service that is away
ANSWER = 30.0  # and for one that has been asked


class Seam:
    """Settings of a `Selector`, of which each process makes its own when it first needs it.

    It may be pickled and forked: outcomes are reported by whichever process has them, to the run
    that the one which has drawn is in. A process takes the first free numbered folder below
    `spool`, so that a restarted trainer delivers what its killed processes have left.

    Args:
        service: Address of the service; default: the environment's PROMPTGPS_URL. The key is
            PROMPTGPS_API_KEY.
        run: The run's name.
        spool: Folder for the reports of all processes on their way.
        settings: All others of `Selector`.
    """

    def __init__(
        self, service: str | None = None, *, run: str, spool: str | Path, **settings: Any
    ) -> None:
        self._service = service
        self._run = run
        self._spool = Path(spool)
        self._settings = settings
        self._course: Course | None = None
        self._made: tuple[int, PromptGPS, Selector] | None = None

    @property
    def selector(self) -> Selector:
        """This process's. Errors are those of `Selector`."""
        return self._mine()[1]

    @property
    def course(self) -> Course:
        """The run that this training is in, and where: for other ranks, and for checkpoints."""
        return self.selector.course

    def follow(self, course: Course) -> None:
        """Take the course of the rank that draws, or of a checkpoint."""
        self._course = course
        self.selector.follow(course)

    def flush(self) -> None:
        """Deliver this process's reports before a snapshot."""
        if not self.selector.flush(PATIENCE):
            _log.warning(
                "run %s: some outcomes will only be reported after the snapshot", self.course.run
            )

    def snapshot(self, tag: str) -> None:
        """Mark the run, beside a checkpoint, from one process; failures are only logged."""
        name = self._named(tag)
        self._patiently(
            lambda client: client.snapshot(self.course.run, name), f"there is no snapshot {name}"
        )

    def restore(self, tag: str) -> None:
        """Put the run back to a snapshot, from one process.

        This comes before training goes on from its checkpoint.

        Where that fails, which the log tells, the run stays as it is: what the trainer draws again
        is the same, what it reports again changes nothing. The settings were good when training
        began, so that from here on a refusal of the service (of a batch that had another size
        before, say) only makes draws local.
        """
        name = self._named(tag)
        self._patiently(
            lambda client: client.restore(self.course.run, name),
            f"the run is not put back to {name}",
        )
        self.selector.load_state_dict(self.selector.state_dict() | {"answered": True})

    def _named(self, tag: str) -> str:
        """A tag of this training.

        One that goes on in the run of another must not come to that one's snapshots.
        """
        return f"from-{self.course.offset}-{tag}" if self.course.offset else tag

    def close(self) -> None:
        """Deliver what can be delivered; the rest waits on disk for the next process."""
        if self._made is not None and self._made[0] == os.getpid():
            _, client, selector = self._made
            selector.close()
            client.close()
            self._made = None

    def _mine(self) -> tuple[PromptGPS, Selector]:
        if self._made is None or self._made[0] != os.getpid():
            if self._made is not None:  # a fork of the process that has drawn
                self._course = self._made[2].settled_course or self._course

            client = PromptGPS(self._service)
            try:
                selector = self._select(client)
            except BaseException:
                client.close()
                raise

            if self._course is not None:
                selector.follow(self._course)
            self._made = os.getpid(), client, selector

        return self._made[1:]

    def _select(self, client: PromptGPS, number: int = 0) -> Selector:
        try:
            return Selector(
                client, run=self._run, spool=self._spool / str(number), **self._settings
            )
        except SpoolInUse:
            return self._select(client, number + 1)

    def _patiently(self, call: Callable[[PromptGPS], object], otherwise: str) -> None:
        client, _ = self._mine()
        try:
            call(
                client.with_options(
                    timeout=ANSWER, connect_timeout=PATIENCE, retry_seconds=PATIENCE
                )
            )
        except PromptGPSError as fault:
            _log.warning("run %s: %s: %s", self.course.run, otherwise, fault)

    def __getstate__(self) -> dict[str, Any]:
        course = None if self._made is None else self._made[2].settled_course
        return self.__dict__ | {"_made": None, "_course": course or self._course}

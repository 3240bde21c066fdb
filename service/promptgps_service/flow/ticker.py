"""A thread that does one small thing again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from promptgps_service.errors import PromptGPSError

_log = structlog.get_logger(__name__)
RETRY_SECONDS = 5.0  # what has failed is not left for the length of a long period


class Ticker:
    """Does a job every so many seconds, whatever became of the last time.

    Attributes:
        seconds: from one job to the next.
        trouble: why the last job failed; None where it was done.
    """

    def __init__(self, name: str, seconds: float, job: Callable[[], None]) -> None:
        self.seconds = seconds
        self.trouble: str | None = None
        self._name = name
        self._job = job
        self._done = time.monotonic()
        self._begun: float | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def silence(self) -> float:
        """Seconds since the job was last done."""
        return time.monotonic() - self._done

    @property
    def busy(self) -> float:
        """Seconds that the job at hand has taken until now; 0 between two jobs."""
        begun = self._begun
        return 0.0 if begun is None else time.monotonic() - begun

    @property
    def alive(self) -> bool:
        """Whether the thread still works."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Finish the job at hand and end the thread."""
        self._stopping.set()
        self._thread.join()

    def _work(self) -> None:
        pause = self.seconds
        while not self._stopping.wait(pause):
            self._begun = time.monotonic()
            try:
                self._job()
            except PromptGPSError as error:  # the database is away, or somebody is busy: both pass
                if self.trouble is None:
                    _log.warning("waits", job=self._name, cause=error.detail)
                self.trouble = error.detail
            # A process that stops to follow the others is worse.
            except Exception as error:  # noqa: BLE001
                _log.exception("failed", job=self._name)
                self.trouble = f"{type(error).__name__}; the service's log has it"
            else:
                self.trouble = None
                self._done = time.monotonic()

            self._begun = None
            pause = self.seconds if self.trouble is None else min(self.seconds, RETRY_SECONDS)

"""A thread that does one small thing again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from promptgps_service.errors import PromptGPSError

_log = structlog.get_logger(__name__)


class Ticker:
    """Does a job every so many seconds, whatever became of the last time."""

    def __init__(self, name: str, seconds: float, job: Callable[[], None]) -> None:
        self._name = name
        self._seconds = seconds
        self._job = job
        self._done = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def silence(self) -> float:
        """Seconds since the job was last done."""
        return time.monotonic() - self._done

    @property
    def alive(self) -> bool:
        """Whether the thread still works."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Finish the job at hand and end the thread."""
        self._stopping.set()
        self._thread.join()

    def _work(self) -> None:
        troubled = False
        while not self._stopping.wait(self._seconds):
            try:
                self._job()
            except PromptGPSError as error:  # the database is away, or somebody is busy: both pass
                if not troubled:
                    _log.warning("waits", job=self._name, cause=error.detail)
                troubled = True
            except Exception:  # noqa: BLE001  a process that stops to follow the others is worse than a traceback
                _log.exception("failed", job=self._name)
            else:
                troubled, self._done = False, time.monotonic()

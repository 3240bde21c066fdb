"""A folder for one process."""

from __future__ import annotations

import os
import socket
import weakref
from contextlib import suppress
from pathlib import Path


class SpoolInUse(RuntimeError):
    """Another process writes to this folder, or another selector of this one."""


class FolderLock:
    """Holds a folder until it is released, or the process is gone, however it went.

    Raises:
        SpoolInUse: Somebody else holds it.
        OSError: The folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        import fcntl  # not on Windows, where the rest of the client works

        self._file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as fault:
            holder = os.read(self._file, 256).decode(errors="replace")
            os.close(self._file)

            if not isinstance(fault, BlockingIOError):
                raise

            raise SpoolInUse(
                f"{folder} is in use by {holder}; give each process a spool folder of its own"
            ) from None

        with suppress(OSError):  # the name is for people; a full disk keeps it out, not the lock
            os.ftruncate(self._file, 0)
            os.write(self._file, f"process {os.getpid()} on {socket.gethostname()}".encode())
        _HELD.add(self)

    def release(self) -> None:
        """Let go of the folder."""
        _HELD.discard(self)
        os.close(self._file)

    @staticmethod
    def let_go_in_child() -> None:
        """A forked child shares its parent's locks; it must not keep them when the parent dies."""
        for lock in _HELD:
            os.close(lock._file)


_HELD: weakref.WeakSet[FolderLock] = weakref.WeakSet()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=FolderLock.let_go_in_child)

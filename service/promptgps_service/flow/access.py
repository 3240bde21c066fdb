"""What the bearer of a key may do: see and touch runs by name pattern, and their pools.

A limited key owns the names that match its patterns, of runs and of pools alike: these it may make,
fill and change. Of other pools it sees those that a run of its own draws from, and it may open more
runs over them.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from promptgps_client.wire import CreateRun

from promptgps_service.errors import Forbidden
from promptgps_service.store.unit import Store


@dataclass(frozen=True)
class Access:
    """Rights of one caller.

    Attributes:
        key: name of the key; None where nobody was asked for one.
        patterns: of names (`*`, `?`, `[…]`); none means all.
        read_only: whether nothing may be changed.
    """

    key: str | None
    patterns: tuple[str, ...] = ()
    read_only: bool = False

    def owns(self, name: str) -> bool:
        """Whether a run or a pool of that name is the key's own, whether it exists or not.

        It is told by the name alone.
        """
        return not self.patterns or any(fnmatchcase(name, pattern) for pattern in self.patterns)

    def may_read(self, name: str) -> None:
        """Let pass who owns the name.

        Raises:
            Forbidden: it is another's.
        """
        if not self.owns(name):
            raise Forbidden(
                f"this API key is limited to the names {', '.join(self.patterns)}, not {name!r}"
            )

    def may_change(self, name: str) -> None:
        """Let pass who owns the name and may change things.

        Raises:
            Forbidden: it is another's, or the key is for reading only.
        """
        if self.read_only:
            raise Forbidden("this API key is for reading only")
        self.may_read(name)


def pools_seen(store: Store, access: Access) -> set[str]:
    """Pools that runs of the key's own draw from."""
    with store.read() as unit:
        return {pool for run, pool in unit.runs.pools() if access.owns(run)}


def may_see_pool(store: Store, access: Access, name: str) -> None:
    """Let pass who owns the pool or a run that draws from it.

    Raises:
        Forbidden: neither, whether there is such a pool or not.
    """
    if not access.owns(name) and name not in pools_seen(store, access):
        access.may_read(name)


def may_open(store: Store, access: Access, request: CreateRun) -> None:
    """Let pass who owns the name of the new run and sees what it is made from.

    Raises:
        Forbidden: the name, a pool or the run to start from is another's.
    """
    access.may_change(request.name)
    if request.warm_start_from is not None:
        access.may_read(request.warm_start_from)

    for pool in (
        [request.pool]
        if request.pool is not None
        else [share.pool for share in request.pools or []]
    ):
        may_see_pool(store, access, pool)

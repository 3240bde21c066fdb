"""How many requests of one run are under way at a time.

Each of them holds a thread, and other runs need some as well.

A request that has to wait for its turn waits here, on the event loop, where it holds nothing. Many
ranks that ask for the same sequence at once are one question: the first asks it, and the others
wait for what it gets.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from promptgps_service.errors import Busy

# Of one run. More would answer no sooner, as they share one interpreter, and each slows down all
# other runs.
AT_WORK = 4
WAITING_FOR_THE_MODEL = 16  # of one run: these hold their thread for as long as they wait
IN_LINE = 4_096  # of one run; each costs its body's memory
LINE_SECONDS = 60.0


@dataclass
class _Line:
    """Requests of one kind of one run: so many at work, the others in line."""

    most: int
    turns: asyncio.Semaphore = field(init=False)
    there: int = 0

    def __post_init__(self) -> None:
        self.turns = asyncio.Semaphore(self.most)


class RunTurns:
    """Turns for the requests of runs; belongs to one event loop."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, bool], _Line] = {}
        self._asked: dict[tuple[str, int], asyncio.Event] = {}

    @asynccontextmanager
    async def turn(
        self, run: str, *, sequence: int | None = None, waits: bool = False
    ) -> AsyncIterator[None]:
        """Wait until a request may begin, and hold its place while it is under way.

        Args:
            run: whose request it is.
            sequence: of the batch that it asks for, if it does and has one.
            waits: whether it asks to wait for the model.

        Raises:
            Busy: too many requests of this run are in line, or it was not this one's turn in time.
        """
        async with AsyncExitStack() as stack:
            if sequence is not None:
                await stack.enter_async_context(self._first_of(run, sequence))
            await stack.enter_async_context(self._in_line(run, waits))
            yield

    @asynccontextmanager
    async def _first_of(self, run: str, sequence: int) -> AsyncIterator[None]:
        """Let the first that asks for a sequence go ahead, and the others once it is through."""
        ahead = self._asked.get((run, sequence))
        if ahead is not None:
            try:
                await asyncio.wait_for(ahead.wait(), LINE_SECONDS)
            except TimeoutError:
                raise _too_long(run) from None
            yield
            return

        through = self._asked[run, sequence] = asyncio.Event()
        try:
            yield
        finally:
            del self._asked[run, sequence]
            through.set()

    @asynccontextmanager
    async def _in_line(self, run: str, waits: bool) -> AsyncIterator[None]:
        key = (run, waits)
        most = WAITING_FOR_THE_MODEL if waits else AT_WORK
        line = self._lines.setdefault(key, _Line(most))
        if line.there >= IN_LINE:
            raise Busy(f"{line.there} requests of run {run!r} are in line already", 1.0)

        line.there += 1
        try:
            try:
                await asyncio.wait_for(line.turns.acquire(), LINE_SECONDS)
            except TimeoutError:
                raise _too_long(run) from None

            try:
                yield
            finally:
                line.turns.release()
        finally:
            line.there -= 1
            if line.there == 0:
                self._lines.pop(key, None)


def _too_long(run: str) -> Busy:
    return Busy(f"requests of run {run!r} take long; this one did not get its turn", 5.0)

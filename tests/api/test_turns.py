"""Turns of one run's requests: so many at work, the others in line, and one question asked once."""

from __future__ import annotations

import asyncio

import pytest
from promptgps_service.api import turns as turns_module
from promptgps_service.api.turns import RunTurns
from promptgps_service.errors import Busy


async def settled() -> None:
    """Let everything run that can."""
    for _ in range(50):
        await asyncio.sleep(0)


class Crowd:
    """Requests that stay at work until they are let go."""

    def __init__(self, turns: RunTurns) -> None:
        self.turns = turns
        self.at_work: list[str] = []
        self.most = 0
        self.go = asyncio.Event()

    async def ask(
        self, name: str, run: str, sequence: int | None = None, waits: bool = False
    ) -> None:
        async with self.turns.turn(run, sequence=sequence, waits=waits):
            self.at_work.append(name)
            self.most = max(self.most, len(self.at_work))
            await self.go.wait()
            self.at_work.remove(name)


def test_one_run_holds_only_so_many_threads_and_others_are_not_kept_waiting() -> None:
    async def scenario() -> None:
        crowd = Crowd(RunTurns())
        flood = [asyncio.create_task(crowd.ask(f"flood-{n}", "flood")) for n in range(300)]
        await settled()
        assert len(crowd.at_work) == turns_module.AT_WORK

        calm = asyncio.create_task(crowd.ask("calm", "calm"))
        await settled()
        assert "calm" in crowd.at_work
        crowd.go.set()
        await asyncio.gather(*flood, calm)
        assert crowd.most == turns_module.AT_WORK + 1
        assert not crowd.turns._lines

    asyncio.run(scenario())


def test_requests_that_wait_for_the_model_leave_room_for_the_reports_that_it_waits_for() -> None:
    async def scenario() -> None:
        crowd = Crowd(RunTurns())
        waiting = [
            asyncio.create_task(crowd.ask(f"waits-{n}", "run", waits=True)) for n in range(100)
        ]
        await settled()
        report = asyncio.create_task(crowd.ask("report", "run"))
        await settled()
        assert "report" in crowd.at_work
        crowd.go.set()
        await asyncio.gather(*waiting, report)

    asyncio.run(scenario())


def test_ranks_that_ask_for_one_sequence_wait_for_the_first_of_them() -> None:
    async def scenario() -> None:
        crowd = Crowd(RunTurns())
        ranks = [asyncio.create_task(crowd.ask(f"rank-{n}", "run", sequence=7)) for n in range(256)]
        other = asyncio.create_task(crowd.ask("other", "run", sequence=8))
        await settled()
        assert sorted(crowd.at_work) == ["other", "rank-0"]
        crowd.go.set()
        await asyncio.gather(*ranks, other)
        assert not crowd.turns._asked

    asyncio.run(scenario())


@pytest.mark.parametrize("ending", ["fails", "hangs up"])
def test_where_the_first_comes_to_nothing_the_others_go_on(ending: str) -> None:
    async def scenario() -> None:
        turns = RunTurns()
        begun = asyncio.Event()
        done = []

        async def first() -> None:
            async with turns.turn("run", sequence=1):
                begun.set()
                if ending == "fails":
                    await settled()
                    raise ValueError("of the first")
                await asyncio.sleep(3_600)

        async def second() -> None:
            async with turns.turn("run", sequence=1):
                done.append(True)

        ahead = asyncio.create_task(first())
        await begun.wait()
        follower = asyncio.create_task(second())
        await settled()
        if ending == "hangs up":
            assert not done
            ahead.cancel()
        await follower
        with pytest.raises((ValueError, asyncio.CancelledError)):
            await ahead
        assert done

    asyncio.run(scenario())


def test_a_line_that_is_too_long_takes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "IN_LINE", 5)
    monkeypatch.setattr(turns_module, "AT_WORK", 2)

    async def scenario() -> None:
        crowd = Crowd(RunTurns())
        there = [asyncio.create_task(crowd.ask(str(n), "run")) for n in range(5)]
        await settled()
        with pytest.raises(Busy):
            await crowd.ask("one too many", "run")
        crowd.go.set()
        await asyncio.gather(*there)
        await crowd.ask("room again", "run")

    asyncio.run(scenario())


def test_who_waits_in_line_for_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "LINE_SECONDS", 0.05)
    monkeypatch.setattr(turns_module, "AT_WORK", 1)

    async def scenario() -> None:
        crowd = Crowd(RunTurns())
        holder = asyncio.create_task(crowd.ask("holder", "run", sequence=1))
        await settled()
        for sequence in (1, 2):
            with pytest.raises(Busy) as refused:
                await crowd.ask("late", "run", sequence=sequence)
            assert refused.value.retry_after > 0
        crowd.go.set()
        await holder
        assert not crowd.turns._lines
        assert not crowd.turns._asked

    asyncio.run(scenario())

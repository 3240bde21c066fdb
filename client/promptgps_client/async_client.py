"""`AsyncPromptGPS`, the client for asyncio: the same methods as `PromptGPS`, awaited."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from copy import copy
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack, cast

from promptgps_client import answers, calls
from promptgps_client.call import Call, Paged
from promptgps_client.client import as_method
from promptgps_client.errors import BadAnswer, NoAnswer, ServerFault
from promptgps_client.transport import AsyncTransport, OptionFields, Options
from promptgps_client.wire import PromptsAdded, Ready

P = ParamSpec("P")
A = TypeVar("A")


def _asks(
    build: Callable[P, Call[A]],
) -> Callable[Concatenate[AsyncPromptGPS, P], Coroutine[Any, Any, A]]:
    async def method(self: AsyncPromptGPS, /, *args: P.args, **kwargs: P.kwargs) -> A:
        return await self._transport.ask(build(*args, **kwargs))

    return as_method(method, build)


def _adds(
    build: Callable[P, Iterator[Call[PromptsAdded]]],
) -> Callable[Concatenate[AsyncPromptGPS, P], Coroutine[Any, Any, PromptsAdded]]:
    async def method(self: AsyncPromptGPS, /, *args: P.args, **kwargs: P.kwargs) -> PromptsAdded:
        return answers.summed([await self._transport.ask(call) for call in build(*args, **kwargs)])

    return as_method(method, build)


def _pages(
    build: Callable[P, Paged[A]],
) -> Callable[Concatenate[AsyncPromptGPS, P], Coroutine[Any, Any, A]]:
    async def method(self: AsyncPromptGPS, /, *args: P.args, **kwargs: P.kwargs) -> A:
        pages = build(*args, **kwargs)
        call = next(pages)
        while True:
            answer = await self._transport.ask(call)
            try:
                call = pages.send(answer)
            except StopIteration as end:
                return cast(A, end.value)

    return as_method(method, build)


class AsyncPromptGPS:
    """As `PromptGPS`, for one event loop. Close it, or use it in an `async with`."""

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        **options: Unpack[OptionFields],
    ) -> None:
        self._transport = AsyncTransport(base_url, api_key, Options(**options))

    def with_options(self, **options: Unpack[OptionFields]) -> Self:
        """A client with other patience on the same connections.

        They stay this client's to close.
        """
        sibling = copy(self)
        sibling._transport = self._transport.with_options(**options)
        return sibling

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    create_pool = _asks(calls.create_pool)
    pools = _asks(calls.pools)
    pool = _asks(calls.pool)
    add_prompts = _adds(calls.add_prompts)
    add_prompts_file = _asks(calls.add_prompts_file)
    create_run = _asks(calls.create_run)
    runs = _asks(calls.runs)
    run = _asks(calls.run)
    change_run = _asks(calls.change_run)
    archive_run = _asks(calls.archive_run)
    reopen_run = _asks(calls.reopen_run)
    delete_run = _asks(calls.delete_run)
    archive_pool = _asks(calls.archive_pool)
    reopen_pool = _asks(calls.reopen_pool)
    delete_pool = _asks(calls.delete_pool)
    events = _asks(calls.events)
    select_batch = _asks(calls.select_batch)
    send_subset = _asks(calls.send_subset)
    report_groups = _asks(calls.report_groups)
    report_rollouts = _asks(calls.report_rollouts)
    predict_difficulty = _asks(calls.predict_difficulty)
    allocate_budget = _asks(calls.allocate_budget)
    metrics = _pages(calls.metrics)
    snapshot = _asks(calls.snapshot)
    snapshots = _asks(calls.snapshots)
    restore = _asks(calls.restore)

    async def ready(self) -> Ready:
        """As `PromptGPS.ready`."""
        try:
            return await self._transport.ask(calls.ready())
        except ServerFault as fault:
            return answers.not_ready(fault)

    async def healthy(self) -> bool:
        """As `PromptGPS.healthy`."""
        try:
            return await self._transport.ask(calls.healthy())
        except (NoAnswer, BadAnswer):
            return False

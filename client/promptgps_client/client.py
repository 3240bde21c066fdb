"""`PromptGPS`, the client for threads.

Its methods are the functions of `calls.py`, asked and waited for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from copy import copy
from functools import update_wrapper
from inspect import Parameter, signature
from typing import Concatenate, ParamSpec, Self, TypeVar, Unpack, cast

from promptgps_client import answers, calls
from promptgps_client.call import Call, Paged
from promptgps_client.errors import BadAnswer, NoAnswer, ServerFault
from promptgps_client.transport import OptionFields, Options, Transport
from promptgps_client.wire import PromptsAdded, Ready

P = ParamSpec("P")
A = TypeVar("A")
Method = TypeVar("Method", bound=Callable[..., object])


def as_method(method: Method, build: Callable[..., object]) -> Method:
    """Give a method the name, docstring and signature of its function in `calls.py`."""
    update_wrapper(method, build)
    told = signature(build)
    itself = Parameter("self", Parameter.POSITIONAL_ONLY)
    answer = re.split(r"(?:Call|Paged)\[", told.return_annotation)[-1].rstrip("]")
    whole = told.replace(parameters=[itself, *told.parameters.values()], return_annotation=answer)
    vars(method)["__signature__"] = whole
    return method


def _asks(build: Callable[P, Call[A]]) -> Callable[Concatenate[PromptGPS, P], A]:
    def method(self: PromptGPS, /, *args: P.args, **kwargs: P.kwargs) -> A:
        return self._transport.ask(build(*args, **kwargs))

    return as_method(method, build)


def _adds(
    build: Callable[P, Iterator[Call[PromptsAdded]]],
) -> Callable[Concatenate[PromptGPS, P], PromptsAdded]:
    def method(self: PromptGPS, /, *args: P.args, **kwargs: P.kwargs) -> PromptsAdded:
        return answers.summed([self._transport.ask(call) for call in build(*args, **kwargs)])

    return as_method(method, build)


def _pages(build: Callable[P, Paged[A]]) -> Callable[Concatenate[PromptGPS, P], A]:
    def method(self: PromptGPS, /, *args: P.args, **kwargs: P.kwargs) -> A:
        pages = build(*args, **kwargs)
        call = next(pages)
        while True:
            answer = self._transport.ask(call)
            try:
                call = pages.send(answer)
            except StopIteration as end:
                return cast(A, end.value)

    return as_method(method, build)


class PromptGPS:
    """A promptgps service, for any number of threads. Close it, or use it in a `with`.

    Args:
        base_url: Where the service is; default: the environment's PROMPTGPS_URL.
        api_key: Default: the environment's PROMPTGPS_API_KEY; without either none is sent.
        options: Timeouts and retries by name, as in `Options`.

    Raises:
        ValueError: The address or the key cannot be one.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        **options: Unpack[OptionFields],
    ) -> None:
        self._transport = Transport(base_url, api_key, Options(**options))

    def with_options(self, **options: Unpack[OptionFields]) -> Self:
        """A client with other patience on the same connections.

        They stay this client's to close.
        """
        sibling = copy(self)
        sibling._transport = self._transport.with_options(**options)
        return sibling

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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

    def ready(self) -> Ready:
        """Readiness part by part, not retried.

        A service that is not ready is an answer, not an error.
        """
        try:
            return self._transport.ask(calls.ready())
        except ServerFault as fault:
            return answers.not_ready(fault)

    def healthy(self) -> bool:
        """Whether the service is alive: it answers, and with success.

        It is not retried, and raises nothing.
        """
        try:
            return self._transport.ask(calls.healthy())
        except (NoAnswer, BadAnswer):
            return False

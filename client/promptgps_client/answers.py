"""What both clients make of answers."""

from __future__ import annotations

from collections.abc import Sequence

from promptgps_client import wire
from promptgps_client.errors import ServerFault


def not_ready(fault: ServerFault) -> wire.Ready:
    """A 503 without the service's own body (a load balancer without a backend) as readiness.

    Raises:
        ServerFault: It is another fault.
    """
    if fault.status != 503:
        raise fault
    return wire.Ready(ready=False, checks={"service": fault.problem.detail})


def joined(pages: Sequence[wire.RunMetrics]) -> wire.RunMetrics:
    """One course out of its parts; a series that some of them do not have is None there."""
    names = dict.fromkeys(name for page in pages for name in page.series)
    series = {
        name: [value for page in pages for value in page.series.get(name, [None] * page.steps)]
        for name in names
    }
    steps = sum(page.steps for page in pages)
    return pages[-1].model_copy(update={"steps": steps, "series": series})


def summed(answers: Sequence[wire.PromptsAdded]) -> wire.PromptsAdded:
    """The answer to an `add_prompts` that went out in several requests."""
    return wire.PromptsAdded(
        added=sum(answer.added for answer in answers),
        duplicates=sum(answer.duplicates for answer in answers),
        aliases=sum(answer.aliases for answer in answers),
        total=answers[-1].total,
    )

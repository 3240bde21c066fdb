"""Series of a run, some steps at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from promptgps_client.wire import MAX_METRICS_STEPS, RunMetrics

from promptgps_service.errors import Fault, Invalid
from promptgps_service.flow.context import Context
from promptgps_service.flow.run_settings import RunSettings
from promptgps_service.store.records import StepRecord

OWN = ("model_version", "trained_through")  # of each step, always answered
NEAR = 5  # names that are offered for an unknown one


def run_metrics(
    context: Context,
    name: str,
    *,
    since: int | None = None,
    series: str | None = None,
    every: int | None = None,
) -> RunMetrics:
    """Series of a run, one entry for each step that was learned.

    Args:
        context: of the process.
        name: of the run.
        since: first model version that is wanted. Without it and ``every``: the newest steps, as
            many as one answer holds.
        series: names of series or beginnings of names, with commas between; None for all.
        every: of the steps from there on, the first and every k-th after it.

    Raises:
        NotFound: there is no such run.
        Invalid: no series has such a name.
    """
    with context.store.read() as unit:
        record = unit.runs.get(name)
        newest = unit.versions.newest_metrics(record.id, 1)
        if since is None and every is None:
            steps = unit.versions.newest_metrics(record.id, MAX_METRICS_STEPS)
        else:
            steps = unit.versions.metrics(
                record.id, since=since or 0, every=every or 1, limit=MAX_METRICS_STEPS + 1
            )
        served = unit.versions.served(record.id)

    following = steps[MAX_METRICS_STEPS].version if len(steps) > MAX_METRICS_STEPS else None
    steps = steps[:MAX_METRICS_STEPS]
    names = _chosen(_names([*newest, *steps]), series) if newest else []
    predictor = RunSettings.load(record.settings).predictor()[0]

    return RunMetrics(
        run=name,
        predictor=predictor,
        served=served or predictor,
        steps=len(steps),
        next=following,
        series=_columns(steps, names),
    )


def _names(steps: Sequence[StepRecord]) -> list[str]:
    return [*OWN, *dict.fromkeys(name for step in steps for name in step.metrics)]


def _chosen(known: Sequence[str], series: str | None) -> list[str]:
    """The names that are asked for, in the order of all."""
    if series is None:
        return list(known)

    wanted = [word for part in series.split(",") if (word := part.strip())]
    found: set[str] = set()
    faults = []

    for word in wanted:
        matching = {word} if word in known else {name for name in known if name.startswith(word)}
        if not matching:
            faults.append(Fault("series", _unknown(word, known)))
        found |= matching

    if faults:
        raise Invalid(f"series: {faults[0].detail}", tuple(faults))

    return [name for name in known if name in found]


def _unknown(word: str, known: Sequence[str]) -> str:
    near = get_close_matches(word, known, NEAR, 0.5)
    near += [name for name in known if word.lower() in name and name not in near][
        : NEAR - len(near)
    ]
    offered = f"; near it: {', '.join(near)}" if near else f"; there are {', '.join(known)}"
    return f"no series has the name {word!r}, or begins so{offered}"


def _columns(steps: Sequence[StepRecord], names: Iterable[str]) -> dict[str, list[float | None]]:
    columns: dict[str, list[float | None]] = {
        "model_version": [float(step.version) for step in steps],
        "trained_through": [float(step.trained_through) for step in steps],
    }
    columns |= {
        name: [step.metrics.get(name) for step in steps] for name in names if name not in OWN
    }
    return columns

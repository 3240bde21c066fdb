"""How many samples to spend on each prompt at test time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from promptgps_client.wire import AllocateBudget, Budget, Calibration, OutcomesSoFar

from promptgps_service.allocation.belief import log_odds
from promptgps_service.allocation.curves import rival_share
from promptgps_service.allocation.plan import Tried, plan
from promptgps_service.errors import Fault, Invalid, NotFound
from promptgps_service.flow.context import Context
from promptgps_service.flow.predict import asked_of, predicted
from promptgps_service.flow.states import on_current_run
from promptgps_service.model.predictor import Posterior


@on_current_run
def allocate_budget(context: Context, request: AllocateBudget) -> Budget:
    """Answer a request for a budget.

    Raises:
        NotFound: no such run, or keys that its pools do not have.
        NotOpen: the run is faulty.
        Invalid: texts for a pool of given vectors, or vectors of another dimension.
        Busy: too many wait for the device (texts and vectors only).
    """
    desk = context.desk_to_read(request.run)
    given = request.calibration
    asked = [asked_of(context, desk, request)]

    if given is not None:
        with _faults_within("calibration"):
            asked.append(asked_of(context, desk, given))

    (posteriors, *others), table = predicted(desk, *asked)
    calibration = None if given is None else _tried(others[0], given)
    answer = plan(
        request.objective,
        _tried(posteriors, request.outcomes_so_far),
        total=request.samples,
        minimum=request.minimum,
        maximum=request.maximum,
        calibration=calibration,
        rival=rival_share((given and given.wrong_answers) or []),
    )

    return Budget(
        model_version=table.model_version,
        trained_through=table.trained_through,
        samples=answer.samples.tolist(),
        expected_value=answer.value,
        expected_value_uniform=answer.uniform,
        next_gain=answer.next_gain,
    )


def _tried(posteriors: Sequence[Posterior], outcomes: OutcomesSoFar | Calibration | None) -> Tried:
    nodes = [
        [column.double().cpu().numpy() for column in posterior.nodes()] for posterior in posteriors
    ]
    mu, sd = (
        np.concatenate(part) for part in zip(*(log_odds(*column) for column in nodes), strict=True)
    )
    none = [0] * mu.size
    counts = (none, none) if outcomes is None else (outcomes.successes, outcomes.trials)

    return Tried(mu, sd, *(np.array(column, np.int64) for column in counts))


@contextmanager
def _faults_within(field: str) -> Iterator[None]:
    """Tell faults of prompts as faults of the field that they stand in."""
    try:
        yield
    except (Invalid, NotFound) as error:
        faults = tuple(
            Fault(f"{field}.{fault.field}", fault.detail, fault.row) for fault in error.faults
        )
        raise type(error)(error.detail, faults) from error

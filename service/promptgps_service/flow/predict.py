"""Success rates with their uncertainty, for prompts of the pool and for new ones."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from promptgps_client.wire import (
    MAX_PREDICTIONS,
    AllocateBudget,
    Calibration,
    Difficulty,
    PredictDifficulty,
)

from promptgps_service.embedding.given import unit_vectors
from promptgps_service.errors import Fault, Invalid
from promptgps_service.flow.context import Context, Desk
from promptgps_service.flow.rows import Keys, known_places, rows_at
from promptgps_service.flow.run_state import NewPrompts, ScoreTable
from promptgps_service.flow.states import on_current_run, require_readable
from promptgps_service.model.predictor import Posterior

Prompts: TypeAlias = PredictDifficulty | AllocateBudget | Calibration  # by keys, texts or vectors
# Rows of the run, or prompts outside of its pools.
Asked: TypeAlias = NDArray[np.int64] | NewPrompts


@on_current_run
def predict_difficulty(context: Context, request: PredictDifficulty) -> Difficulty:
    """Answer a request for predictions; an archived run predicts as it did when it was put away.

    Raises:
        NotFound: no such run, or keys that its pools do not have.
        NotOpen: the run is faulty.
        Invalid: texts for a pool of given vectors, vectors of another dimension, or keys whose pool
            is not clear.
        Busy: too many wait for the device (texts and vectors only; keys are read from the served
            table).
    """
    desk = context.desk_to_read(request.run)
    ((posterior,),), table = predicted(desk, asked_of(context, desk, request))
    ends = [
        posterior.quantile(torch.tensor(end))
        for end in ((1 - request.level) / 2, (1 + request.level) / 2)
    ]
    mean = posterior.mean

    return Difficulty(
        model_version=table.model_version,
        trained_through=table.trained_through,
        success_mean=mean.tolist(),
        success_std=posterior.std.tolist(),
        lower=ends[0].tolist(),
        upper=ends[1].tolist(),
        difficulty=(1.0 - mean).tolist(),
    )


def asked_of(context: Context, desk: Desk, prompts: Prompts) -> Asked:
    """Which prompts a request is about.

    Raises:
        NotFound: keys that the run's pools do not have.
        Invalid: texts for a pool of given vectors, vectors of another dimension, or keys whose pool
            is not clear.
        Busy: too many wait for the device.
    """
    if prompts.keys is not None:
        return _known(context, desk, Keys(prompts.keys, prompts.pool))
    return _new(context, desk, prompts)


def predicted(desk: Desk, *asked: Asked) -> tuple[list[list[Posterior]], ScoreTable]:
    """Posteriors of prompts, in parts and in their order, for each of ``asked``.

    All are of one version, which comes too. New prompts come in parts of at most
    ``MAX_PREDICTIONS``, so that no request holds the device for long.

    Raises:
        Busy: too many wait for the device (new prompts only).
    """
    parts = [each.parts(MAX_PREDICTIONS) if isinstance(each, NewPrompts) else [] for each in asked]
    every = [part for own in parts for part in own]
    if every:
        posteriors, table = desk.trainer.predict_new(every)
    else:
        posteriors = []
        table = desk.state.served

    following = iter(posteriors)
    answers = [
        [next(following) for _ in own]
        if isinstance(each, NewPrompts)
        else [table.posterior.take(torch.from_numpy(each).to(desk.state.device))]
        for each, own in zip(asked, parts, strict=True)
    ]
    return answers, table


def _known(context: Context, desk: Desk, keys: Keys) -> NDArray[np.int64]:
    """Rows of keys; the served table has them."""
    with context.store.read() as unit:
        require_readable(unit, desk.state.id)
        places = known_places(unit, desk.state, keys)

    (rows,) = rows_at(context, desk.state, places)
    if rows.size and int(rows.max()) >= desk.state.served.rows:
        desk.trainer.update()
    return rows


def _new(context: Context, desk: Desk, prompts: Prompts) -> NewPrompts:
    with context.store.read() as unit:
        require_readable(unit, desk.state.id)
        pool = unit.pools.by_id(desk.state.segments[0].pool_id)

    if prompts.texts is not None:
        return NewPrompts(context.features.embedder(pool).embed(prompts.texts), prompts.texts)

    if pool.embedding["kind"] != "given":
        raise Invalid.at("vectors", f"pool {pool.name!r} embeds texts itself: send texts")

    vectors = prompts.vectors or []
    wrong = {
        row: f"has {len(vector)} numbers; this pool's vectors have dimension {pool.dimension}"
        for row, vector in enumerate(vectors)
        if len(vector) != pool.dimension
    }
    if wrong:
        faults = tuple(Fault("vectors", detail, row) for row, detail in wrong.items())
        raise Invalid(f"{len(wrong)} of {len(vectors)} vectors have another dimension", faults)

    return NewPrompts(unit_vectors(np.array(vectors, np.float64), pool.dimension), None)

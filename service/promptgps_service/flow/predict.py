"""Success rates with their uncertainty, for prompts of the pool and for new ones."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from promptgps_client.wire import MAX_PREDICTIONS, AllocateBudget, Calibration, Difficulty, PredictDifficulty

from promptgps_service.embedding.given import unit_vectors
from promptgps_service.errors import Invalid
from promptgps_service.flow.context import Context, Desk
from promptgps_service.flow.rows import rows_of
from promptgps_service.flow.run_state import ScoreTable
from promptgps_service.flow.states import on_current_run, require_readable
from promptgps_service.model.predictor import Posterior

Prompts: TypeAlias = PredictDifficulty | AllocateBudget | Calibration  # by keys, texts or vectors


@on_current_run
def predict_difficulty(context: Context, request: PredictDifficulty) -> Difficulty:
    """Answer a request for predictions; an archived run predicts as it did when it was put away.

    Raises:
        NotFound: no such run, or keys that its pools do not have.
        NotOpen: the run is faulty.
        Invalid: texts for a pool of given vectors, or vectors of another dimension.
        Busy: the lane is full (texts and vectors only; keys are read from the served table).
    """
    (posterior,), table = predicted(context, context.desk_to_read(request.run), request)
    ends = [posterior.quantile(torch.tensor(end)) for end in ((1 - request.level) / 2, (1 + request.level) / 2)]
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


def predicted(context: Context, desk: Desk, prompts: Prompts) -> tuple[list[Posterior], ScoreTable]:
    """Posteriors of prompts in their order, and the version they come from.

    New prompts come in parts of at most ``MAX_PREDICTIONS``, so that no request holds the lane for long.

    Raises:
        NotFound: keys that the run's pools do not have.
        Invalid: texts for a pool of given vectors, or vectors of another dimension.
        Busy: the lane is full (texts and vectors only).
    """
    if prompts.keys is not None:
        return _known(context, desk, prompts.keys)
    return _new(context, desk, prompts)


def _known(context: Context, desk: Desk, keys: list[str]) -> tuple[list[Posterior], ScoreTable]:
    with context.store.read() as unit:
        require_readable(unit, desk.state.id)
        rows = rows_of(unit, desk.state.segments, keys, "keys")
    if desk.state.table is None or (rows.size and int(rows.max()) >= desk.state.table.rows):
        desk.trainer.update()
    table = desk.state.table
    assert table is not None
    return [table.posterior.take(torch.from_numpy(rows).to(desk.state.device))], table


def _new(context: Context, desk: Desk, prompts: Prompts) -> tuple[list[Posterior], ScoreTable]:
    with context.store.read() as unit:
        require_readable(unit, desk.state.id)
        pool = unit.pools.by_id(desk.state.segments[0].pool_id)
    if prompts.texts is not None:
        embedding = context.features.embedder(pool).embed(prompts.texts)
    else:
        if pool.embedding["kind"] != "given":
            raise Invalid.at("vectors", f"pool {pool.name!r} embeds texts itself: send texts")
        lengths = {len(vector) for vector in prompts.vectors or []}
        if lengths != {pool.dimension}:
            row = next(i for i, vector in enumerate(prompts.vectors or []) if len(vector) != pool.dimension)
            raise Invalid.at("vectors", f"this pool's vectors have dimension {pool.dimension}", row)
        embedding = unit_vectors(np.array(prompts.vectors, np.float64), pool.dimension)
    parts = [slice(start, start + MAX_PREDICTIONS) for start in range(0, len(embedding), MAX_PREDICTIONS)]
    answers = [desk.trainer.predict_new(embedding[part], prompts.texts and prompts.texts[part]) for part in parts]
    return [posterior for posterior, _ in answers], answers[0][1]

"""Success rates with their uncertainty, for prompts of the pool and for new ones."""

from __future__ import annotations

import numpy as np
import torch
from promptgps_client.wire import Difficulty, PredictDifficulty

from promptgps_service.embedding.given import unit_vectors
from promptgps_service.errors import Invalid
from promptgps_service.flow.context import Context, Desk
from promptgps_service.flow.rows import rows_of
from promptgps_service.flow.run_state import ScoreTable
from promptgps_service.model.predictor import Posterior


def predict_difficulty(context: Context, request: PredictDifficulty) -> Difficulty:
    """Answer a request for predictions.

    Raises:
        NotFound: no such run, or keys that its pools do not have.
        Invalid: texts for a pool of given vectors, or vectors of another dimension.
        Busy: the lane is full (texts and vectors only; keys are read from the served table).
    """
    desk = context.desk(request.run)
    if request.keys is not None:
        posterior, table = _known(context, desk, request.keys)
    else:
        posterior, table = _new(context, desk, request)
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


def _known(context: Context, desk: Desk, keys: list[str]) -> tuple[Posterior, ScoreTable]:
    with context.store.read() as unit:
        rows = rows_of(unit, desk.state.segments, keys, "keys")
    if desk.state.table is None or (rows.size and int(rows.max()) >= desk.state.table.rows):
        desk.trainer.update()
    table = desk.state.table
    assert table is not None
    return table.posterior.take(torch.from_numpy(rows).to(desk.state.device)), table


def _new(context: Context, desk: Desk, request: PredictDifficulty) -> tuple[Posterior, ScoreTable]:
    with context.store.read() as unit:
        pool = unit.pools.by_id(desk.state.segments[0].pool_id)
    if request.texts is not None:
        embedding = context.features.embedder(pool).embed(request.texts)
    else:
        if pool.embedding["kind"] != "given":
            raise Invalid.at("vectors", f"pool {pool.name!r} embeds texts itself: send texts")
        lengths = {len(vector) for vector in request.vectors or []}
        if lengths != {pool.dimension}:
            row = next(i for i, vector in enumerate(request.vectors or []) if len(vector) != pool.dimension)
            raise Invalid.at("vectors", f"this pool's vectors have dimension {pool.dimension}", row)
        embedding = unit_vectors(np.array(request.vectors, np.float64), pool.dimension)
    return desk.trainer.predict_new(embedding, request.texts)

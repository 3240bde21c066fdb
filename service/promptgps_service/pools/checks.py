"""Columns of prompts, checked by the types that the wire itself has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from promptgps_client.wire.base import MAX_DIMENSION, MAX_KEY, MAX_TEXT, Domain, Evidence, Key, Text
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from promptgps_service.errors import Invalid
from promptgps_service.flow.prompt_columns import PromptChunk
from promptgps_service.pools.raw import Bounds
from promptgps_service.reading.shown import shown

# The types say the rest.
BOUNDS = Bounds(key=MAX_KEY, text=MAX_TEXT, domain=MAX_KEY, dimension=MAX_DIMENSION)

PRIORS = ("prior_successes", "prior_trials")
ROW_FIELDS = {"keys": "key", "texts": "text", "vectors": "vector", "domains": "domain"} | {
    name: name for name in PRIORS
}
COLUMN_FIELDS = {column: column for column in ROW_FIELDS}

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_COLUMNS: dict[str, TypeAdapter[Any]] = {
    "keys": TypeAdapter(Annotated[list[Key], Field(fail_fast=True)], config=_STRICT),
    "texts": TypeAdapter(Annotated[list[Text], Field(fail_fast=True)], config=_STRICT),
    "domains": TypeAdapter(Annotated[list[Domain | None], Field(fail_fast=True)], config=_STRICT),
    "prior_successes": TypeAdapter(
        Annotated[list[Evidence | None], Field(fail_fast=True)], config=_STRICT
    ),
    "prior_trials": TypeAdapter(
        Annotated[list[Evidence | None], Field(fail_fast=True)], config=_STRICT
    ),
}


def check_columns(chunk: PromptChunk, names: Mapping[str, str] = COLUMN_FIELDS) -> None:
    """Check a chunk of any format.

    Args:
        chunk: the columns; types inside the lists are checked, not trusted.
        names: what the caller calls each column, for the error.

    Raises:
        Invalid: names the field and the first row where it is wrong.
    """
    columns = chunk.columns
    if chunk.texts is None and chunk.vectors is None:
        raise Invalid.at(names["texts"], "a prompt needs a text or a vector", chunk.first_row)
    for name, column in columns.items():
        if len(column) != chunk.rows:
            first = names[next(iter(columns))]
            raise Invalid.at(names[name], f"{len(column)} rows here, but {chunk.rows} in {first}")
        if name in _COLUMNS:
            _check_values(name, column, names[name], chunk.first_row)

    if chunk.vectors is not None:
        _check_vectors(chunk.vectors, names["vectors"], chunk.first_row)
    _check_priors(chunk, names)


def _check_values(name: str, column: Any, field: str, first_row: int) -> None:
    try:
        _COLUMNS[name].validate_python(column)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        row = int(fault["loc"][0])
        value = fault["input"]
        raise Invalid.at(field, f"{fault['msg']}, not {shown(value)}", first_row + row) from None


def _check_vectors(vectors: np.ndarray, field: str, first_row: int) -> None:
    """Real numbers of one dimension within the limit, all finite."""
    if vectors.dtype.kind not in "fiu" or vectors.ndim != 2:
        raise Invalid.at(field, "must be lists of numbers, all of one length", first_row)
    if not 1 <= vectors.shape[1] <= MAX_DIMENSION:
        raise Invalid.at(
            field, f"must have from 1 to {MAX_DIMENSION} numbers, not {vectors.shape[1]}", first_row
        )

    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise Invalid.at(
            field, "must not hold NaN or an infinity (as float32)", first_row + int(finite.argmin())
        )


def _check_priors(chunk: PromptChunk, names: Mapping[str, str]) -> None:
    """Both or neither in a row, successes not over trials."""
    if chunk.prior_successes is None and chunk.prior_trials is None:
        return

    nothing: Sequence[float | None] = [None] * chunk.rows
    successes = chunk.prior_successes or nothing
    trials = chunk.prior_trials or nothing
    for row, (won, tried) in enumerate(zip(successes, trials, strict=True), chunk.first_row):
        if won is None or tried is None:
            if won is not tried:
                here, there = PRIORS if tried is None else PRIORS[::-1]
                raise Invalid.at(names[there], f"must be given where {names[here]} is", row)
        elif won > tried:
            detail = f"must not be over {names['prior_trials']} ({shown(won)} of {shown(tried)})"
            raise Invalid.at(names["prior_successes"], detail, row)

"""Predictors by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from promptgps_service.model.beta import DiscountedBeta
from promptgps_service.model.constant import Constant
from promptgps_service.model.features import Features
from promptgps_service.model.hierarchical import Hierarchical
from promptgps_service.model.neural import Neural
from promptgps_service.model.predictor import Predictor
from promptgps_service.model.ridge import Ridge

PREDICTORS: Mapping[str, Callable[..., Predictor]] = MappingProxyType(
    {predictor.name: predictor for predictor in (Hierarchical, Neural, DiscountedBeta, Ridge, Constant)}
)


def make_predictor(name: str, features: Features, device: torch.device, **parameters: Any) -> Predictor:
    """A new predictor over the rows of ``features``.

    Raises:
        ValueError: no predictor has that name, or it does not take these parameters.
    """
    if name not in PREDICTORS:
        raise ValueError(f"no predictor {name!r}; there are {', '.join(PREDICTORS)}")
    try:
        return PREDICTORS[name](features, device=device, **parameters)
    except TypeError as error:
        raise ValueError(f"predictor {name!r}: {error}") from error

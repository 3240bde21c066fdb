"""Predictors by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from promptgps_service.model.beta import DiscountedBeta
from promptgps_service.model.bots import Bots
from promptgps_service.model.constant import Constant
from promptgps_service.model.features import Features
from promptgps_service.model.hierarchical import Hierarchical
from promptgps_service.model.neural import Neural
from promptgps_service.model.predictor import Predictor
from promptgps_service.model.ridge import Ridge
from promptgps_service.model.stack import Stack

_MEMBERS: dict[str, Callable[..., Predictor]] = {
    predictor.name: predictor
    for predictor in (Hierarchical, Neural, DiscountedBeta, Bots, Ridge, Constant)
}


def _stack(
    features: Features,
    *,
    device: torch.device,
    members: str = "hierarchical,neural",
    **of_neural: Any,
) -> Stack:
    """A stack of predictors named with commas between; all else given goes to ``neural``."""
    names = members.split(",")
    made = []

    if of_neural and Neural.name not in names:
        raise ValueError(
            f"parameters {', '.join(of_neural)} are those of neural, which is no member"
        )

    for name in names:
        if name not in _MEMBERS:
            raise ValueError(f"no predictor {name!r} to stack; there are {', '.join(_MEMBERS)}")
        made.append(
            _MEMBERS[name](features, device=device, **(of_neural if name == Neural.name else {}))
        )

    return Stack(made, device=device)


PREDICTORS: Mapping[str, Callable[..., Predictor]] = MappingProxyType(
    _MEMBERS | {Stack.name: _stack}
)


def make_predictor(
    name: str, features: Features, device: torch.device, **parameters: Any
) -> Predictor:
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

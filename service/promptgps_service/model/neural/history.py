"""The replay window: recent steps, each with what the prompts' own records said before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

MOST_VISITS = 8192  # of the window; at least two steps stay
PER_ITERATION = 512  # visits of the pairs that one gradient is taken over


@dataclass(frozen=True)
class Step:
    """One step's visits, H_t, beside the record of each prompt before it.

    Padded, with a leading [J], it is J steps.

    Attributes:
        rows: long[M].
        s: float64[M], successes.
        n: float64[M], trials; 0 where padded.
        y: float64[M], mean of the record's site on theta − a − G.
        v: float64[M], its variance when it was last visited; infinite without one.
        age: float64[M], steps since.
        gain: float64[M], G without the last lift.
        lifted: float64[M], one where the visit before this one was informative.
    """

    rows: Tensor
    s: Tensor
    n: Tensor
    y: Tensor
    v: Tensor
    age: Tensor
    gain: Tensor
    lifted: Tensor

    def __len__(self) -> int:
        return int(self.rows.numel())

    def select(self, place: Tensor | slice) -> Step:
        """Part of it."""
        return Step(*(getattr(self, field.name)[place] for field in fields(Step)))


NAMES = tuple(field.name for field in fields(Step))


def nothing(device: torch.device) -> Step:
    """The step before the first: the empty set."""
    empty = torch.zeros(0, dtype=torch.float64, device=device)
    return Step(empty.long(), *[empty] * (len(NAMES) - 1))


def pad(steps: list[Step]) -> Step:
    """J steps in one: [J, B], B the longest; what is padded has no trials and no record."""

    def one(name: str) -> Tensor:
        fill = torch.inf if name == "v" else 0.0
        return torch.nn.utils.rnn.pad_sequence([getattr(step, name) for step in steps], True, fill)

    return Step(*(one(name) for name in NAMES))


class Window:
    """The last steps, oldest first, the first of them only as the past of the second."""

    def __init__(self, device: torch.device) -> None:
        self.steps: list[Step] = [nothing(device)]

    @property
    def pairs(self) -> int:
        """How many (H_{t-1}, H_t) there are."""
        return len(self.steps) - 1

    @property
    def last(self) -> Step:
        """H_{t-1}, to be predicted from."""
        return self.steps[-1]

    def push(self, step: Step) -> None:
        """Add the newest step; the oldest go where there are too many visits."""
        self.steps = [*self.steps, step]
        while len(self.steps) > 3 and sum(len(kept) for kept in self.steps) > MOST_VISITS:
            self.steps = self.steps[1:]

    def visits_of(self, count: int) -> Tensor:
        """How often each of ``count`` prompts was visited in the window, long[count]."""
        return torch.bincount(torch.cat([step.rows for step in self.steps]), minlength=count)

    def draw(self, random: torch.Generator) -> tuple[list[int], list[float]]:
        """Pairs to learn from, as places of H_t, and their weights.

        The newest pair is always drawn, older ones at random.

        Weighted, they stand for all pairs: the sum over them has the expectation of the sum over
        the window.
        """
        newest = self.pairs
        older = self.pairs - 1
        visits = sum(len(step) for step in self.steps)
        count = min(older, max(1, PER_ITERATION * newest // max(visits, 1) - 1))
        places = (torch.randperm(older, generator=random)[:count] + 1).tolist()
        return [*places, newest], [older / max(count, 1)] * count + [1.0]

    def state_dict(self) -> dict[str, Tensor]:
        """The steps end to end, and their lengths."""
        joined = {name: torch.cat([getattr(step, name) for step in self.steps]) for name in NAMES}
        return {"lengths": torch.tensor([len(step) for step in self.steps]), **joined}

    def load_state_dict(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Restore what ``state_dict`` gave."""
        joined = Step(*(state[name].to(device) for name in NAMES))
        stops = state["lengths"].cumsum(0).tolist()
        starts = [0, *stops[:-1]]
        self.steps = [
            joined.select(slice(start, stop)) for start, stop in zip(starts, stops, strict=True)
        ]

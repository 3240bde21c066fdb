"""Gradient steps on the bound, and their undoing where they diverge."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from promptgps_service.model.neural.history import Step, Window, pad
from promptgps_service.model.neural.objective import Model, Past, draw_noise

SAMPLES = 2  # of z and theta a gradient
CLIP = 100.0  # norm of the gradient


class FitDiverged(ValueError):
    """The loss or a parameter is not finite; the model is as it was before the fit."""


class Fit:
    """Adam on a model's parameters."""

    def __init__(self, model: Model, rate: float) -> None:
        self.model = model
        self.rate = rate
        self.count = 0
        self.moments = {
            name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in model.named_parameters()
        }

    def run(
        self, window: Window, x: Tensor, share: Tensor, iterations: int, random: torch.Generator
    ) -> None:
        """Take ``iterations`` steps over the window's pairs.

        Args:
            window: what to learn from.
            x: float32[N, D].
            share: float64[N], how much a visit of each prompt counts.
            iterations: gradient steps.
            random: of pairs and noise.

        Raises:
            FitDiverged: see there.
        """
        good = self.state_dict()

        try:
            for _ in range(iterations):
                self._descend(self._loss(window, x, share, random))
            if not all(bool(value.isfinite().all()) for value in self.model.parameters()):
                raise FitDiverged("a parameter is not finite")
        except FitDiverged:
            self.load_state_dict(good)
            raise

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of parameters and moments."""
        state = {
            f"net.{name}": value.detach().clone() for name, value in self.model.named_parameters()
        }

        for name, (first, second) in self.moments.items():
            state[f"first.{name}"] = first.clone()
            state[f"second.{name}"] = second.clone()

        return state | {"count": torch.tensor(self.count)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` gave."""
        self.count = int(state["count"])

        with torch.no_grad():
            for name, value in self.model.named_parameters():
                value.copy_(state[f"net.{name}"])
                for moment, kind in zip(self.moments[name], ("first", "second"), strict=True):
                    moment.copy_(state[f"{kind}.{name}"])

    def _loss(self, window: Window, x: Tensor, share: Tensor, random: torch.Generator) -> Tensor:
        places, weight = window.draw(random)
        past = _gather([window.steps[place - 1] for place in places], x, share)
        now = _gather([window.steps[place] for place in places], x, share)
        pairs, visits = now.step.rows.shape
        noise = draw_noise(SAMPLES, pairs, visits, self.model.latent, random, x.device)
        return self.model.loss(past, now, torch.tensor(weight, device=x.device), noise)

    def _descend(self, loss: Tensor) -> None:
        named = dict(self.model.named_parameters())
        grads = torch.autograd.grad(
            loss, list(named.values()), allow_unused=True, materialize_grads=True
        )
        norm = torch.stack([grad.square().sum() for grad in grads]).sum().sqrt()
        if not math.isfinite(float(loss.detach())) or not math.isfinite(float(norm)):
            raise FitDiverged("the loss is not finite")

        self.count += 1
        shrink = float((CLIP / norm).clamp_max(1.0))

        for (name, value), grad in zip(named.items(), grads, strict=True):
            _adam(value, grad * shrink, self.moments[name], self.count, self.rate)


def _gather(steps: list[Step], x: Tensor, share: Tensor) -> Past:
    step = pad(steps)
    return Past(step, x[step.rows], share[step.rows])


def _adam(
    value: Tensor, grad: Tensor, moments: tuple[Tensor, Tensor], count: int, rate: float
) -> None:
    """One step of Adam (Kingma & Ba 2015), in place."""
    first, second = moments
    first.lerp_(grad, 0.1)
    second.lerp_(grad.square(), 0.01)
    size = rate * math.sqrt(1.0 - 0.99**count) / (1.0 - 0.9**count)

    with torch.no_grad():
        value.addcdiv_(first, second.sqrt() + 1e-8, value=-size)

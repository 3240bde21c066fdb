"""The generative model as a whole, and the bound it is trained by.

    L_t = E_{z ~ q_phi(z | H_t)} [Σ_i log p_psi(s_i | tau_i, z)]
          − KL(q_phi(z | H_t) || p_eta(z | H_{t-1}))

(GPS, arXiv 2602.01970, Eq. 8), summed over pairs of steps. The likelihood is binomial and summed
over prompts, so that it and the divergences are nats of one scale: the bound is one on the
evidence, and no weight on the KL is needed.

Beyond Eq. 8, p_psi(s | tau, z) = ∫ Binomial(s; n, sigmoid(theta)) p(theta) dtheta, with theta
spread by su2 around what the decoder says (what text does not explain: without it, eight attempts
on one prompt count as eight prompts, and the decoder memorises), and multiplied by the prompt's own
record before the step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from promptgps_service.model.features import Block
from promptgps_service.model.neural.decoder import Decoder, Told
from promptgps_service.model.neural.encoder import Encoder, Tokens, Transition
from promptgps_service.model.neural.history import Step
from promptgps_service.model.neural.latent import Normal, antithetic, divergence
from promptgps_service.model.neural.likelihood import derivatives, log_evidence
from promptgps_service.model.record import combine

Prior = Literal["learned", "previous", "none"]
SPREAD_START = 2.0  # of su2
AGEING_START = 0.02  # of qu
LOG_SD = 2.0  # the standard deviation of their logs
GAIN_SD = 0.1
# su2 where theta is to be what text and z say: the integral over it needs some width.
LEAST_SPREAD = 1e-3
ANCHOR_SD = 0.55  # of the weights of nets around their start
WEIGHTS = ("psi.mean", "psi.log_variance")  # of q(w), which has a prior of its own
LEAST_VARIANCE = 1e-9  # the root has no gradient at 0, which is where prompts without features are
FARTHEST = 4.0  # logits, of one of Newton's steps
LEVEL_STEPS = 3
LEVEL_PRECISION = 0.1  # of the level a set is looked at from, before the set


@dataclass(frozen=True)
class Past:
    """J steps, padded to [J, B].

    Beside them the features float32[J, B, D] of their prompts, and what each visit counts, [J, B].
    """

    step: Step
    x: Tensor
    share: Tensor


@dataclass(frozen=True)
class Forecast:
    """theta of L prompts by the text, float64.

    Attributes:
        level: [], b + E z_1.
        mean: [L], of theta − level.
        variance: [L], of that; su2 and the doubt on w.
        shared: [L], what the doubt on z adds; common to the prompts, so that no visit of one alone
            settles it.
    """

    level: Tensor
    mean: Tensor
    variance: Tensor
    shared: Tensor


class Model(nn.Module):
    """q_phi, p_eta and p_psi, with the scalars of what a prompt's own record is worth."""

    def __init__(
        self,
        blocks: tuple[Block, ...],
        *,
        prior: Prior,
        residual: bool,
        latent: int,
        width: int,
        layers: int,
        random: torch.Generator,
        device: torch.device,
    ) -> None:
        super().__init__()
        dimension = blocks[-1].stop if blocks else 0
        self.prior = prior
        self.residual = residual
        self.latent = latent
        self.psi = Decoder(blocks, latent, width, layers, random)
        self.phi = Encoder(dimension, latent, width, layers, random)
        self.eta = Transition(Encoder(dimension, latent, width, layers, random), latent)
        # log su2, log qu and g in units of their priors
        self.scalars = nn.Parameter(torch.zeros(3))
        self.to(device)
        self.anchors = {
            name: value.detach().clone()
            for name, value in self.named_parameters()
            if name not in WEIGHTS
        }

    @property
    def spread(self) -> Tensor:
        """su2, the variance of theta that text does not explain, float64[]."""
        if not self.residual:
            return torch.tensor(LEAST_SPREAD, dtype=torch.float64, device=self.scalars.device)
        return SPREAD_START * (LOG_SD * self.scalars[0].double()).exp()

    @property
    def ageing(self) -> Tensor:
        """qu, the variance a record gains a step, float64[]."""
        return AGEING_START * (LOG_SD * self.scalars[1].double()).exp()

    @property
    def gain(self) -> Tensor:
        """g, logits a prompt gains by an informative visit, float64[]."""
        return GAIN_SD * self.scalars[2].double()

    def belief(
        self, step: Step, told: Told, z: Tensor, variance: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """(mu, V) of theta before the visits ``step``, [J, B]: text and own record.

        The text is taken at latents float32[S, J, Z].
        """
        center = (self.psi.level + z[..., :1]).double() + step.gain + self.gain * step.lifted
        v = step.v + self.ageing * step.age
        return combine(center, told.mean.double(), self.spread + variance, step.y, v)

    def tokens(self, step: Step, x: Tensor) -> Tokens:
        """The visits as the encoders see them: against what was predicted at z = 0.

        No gradient passes.
        """
        with torch.no_grad():
            z = x.new_zeros(len(step.rows), self.latent)
            told = self.psi(x, z)
            mu, V = self.belief(step, told, z, told.variance.double())
            level = torch.zeros_like(mu[..., :1])

            # The set is looked at from the level at which it is likeliest (Newton): from afar,
            # where attempts all solved or all failed are flat, each visit would say something else.
            for _ in range(LEVEL_STEPS):
                slope, precision = derivatives(mu + level, V, step.s, step.n)
                move = slope.sum(-1, keepdim=True) / (
                    precision.sum(-1, keepdim=True) + LEVEL_PRECISION
                )
                evidence = slope + precision * level
                level = level + move.clamp(-FARTHEST, FARTHEST)

            there = step.n > 0
            precision = precision * there
            evidence = evidence * there
            rate = torch.logit((step.s + 0.5) / (step.n + 1.0))
            scalars = torch.stack([rate, step.n.log1p(), mu, precision.sqrt(), slope], dim=-1)

        return Tokens(x, scalars.float(), evidence.float(), precision.float())

    def posterior(self, tokens: Tokens) -> Normal:
        """q_phi(z_t | H_t)."""
        normal: Normal = self.phi(tokens)
        if self.prior == "none":
            return Normal(torch.zeros_like(normal.mean), torch.zeros_like(normal.variance))
        return normal

    def ahead(self, tokens: Tokens) -> Normal:
        """p_eta(z_t | H_{t-1}); MPTS has the last step's posterior in its place, held fixed."""
        if self.prior == "learned":
            normal: Normal = self.eta(tokens)
            return normal
        return self.posterior(tokens).detach()

    def loss(self, past: Past, now: Past, weight: Tensor, noise: Noise) -> Tensor:
        """Minus the bound, nats.

        It is that of pairs of steps with weights float32[J], plus what the weights themselves cost.
        """
        q = self.posterior(self.tokens(now.step, now.x))
        z = q.sample(noise.z)
        told = self.psi(now.x, z)
        # w is drawn anew for each visit, by way of theta: local reparameterisation (Kingma et al.
        # 2015).
        told = Told(
            told.mean + told.variance.clamp_min(LEAST_VARIANCE).sqrt() * noise.theta, told.variance
        )
        evidence = log_evidence(*self.belief(now.step, told, z, 0.0), now.step.s, now.step.n)
        bound = (now.share * evidence).sum(-1).mean(0)

        if self.prior != "none":
            p = self.ahead(self.tokens(past.step, past.x))
            bound = bound - divergence(q, p).double()

        return self.complexity() - (weight * bound).sum()

    def tell(self, x: Tensor, z: Normal, noise: Tensor) -> Forecast:
        """What z (of one set) and the text tell of L prompts; without gradient.

        It is taken over draws ``noise`` float32[M, 1, Z].
        """
        drawn = z.sample(noise)[:, 0]
        told = self.psi(x, drawn)
        level = self.psi.level + drawn[:, 0]
        shared = (level[:, None] + told.mean).var(0, correction=0)
        T = self.spread + told.variance.mean(0).double()
        return Forecast(level.mean().double(), told.mean.mean(0).double(), T, shared.double())

    def update(self, step: Step, told: Forecast) -> tuple[Tensor, Tensor]:
        """(mu, V) of theta by text and own record, float64[L].

        What the prompts share of the variance is left out.
        """
        center = told.level + step.gain + self.gain * step.lifted
        return combine(center, told.mean, told.variance, step.y, step.v + self.ageing * step.age)

    def complexity(self) -> Tensor:
        """Minus log prior of all parameters.

        It is q(w)'s divergence, and a normal around their start for the others.

        Anchored at their random start, not at zero (Pearce et al. 2020), nets that nothing is asked
        of stay random features.
        """
        cost = self.psi.complexity()
        for name, value in self.named_parameters():
            if name in self.anchors:
                sd = ANCHOR_SD if value.dim() > 1 else 1.0
                cost = cost + 0.5 * ((value - self.anchors[name]) / sd).square().sum()

        return cost


@dataclass(frozen=True)
class Noise:
    """Standard normal draws of one gradient: z float32[S, J, Z], theta float32[S, J, B]."""

    z: Tensor
    theta: Tensor


def draw_noise(
    samples: int,
    pairs: int,
    visits: int,
    latent: int,
    random: torch.Generator,
    device: torch.device,
) -> Noise:
    """Antithetic draws, made on the CPU so that they are the same everywhere."""
    z, theta = (antithetic(samples, (pairs, size), random).to(device) for size in (latent, visits))
    return Noise(z, theta)

"""GPS's generative prompt predictive model: one latent state z_t of the policy for all prompts.

After arXiv 2602.01970:

    prior p_eta(z_t | H_{t-1}) (``encoder``), posterior q_phi(z_t | H_t),
    decoder p_psi(gamma | e_tau, z) (``decoder``),
    trained after every step on the newest pair of steps and a replay of older ones (``history``,
    ``objective``);
    prediction: over M latents of the prior given the last batch (Eq. 10). The paper takes the mean
    of gamma; here mean and variance of theta over the M, beside the other doubts, make a
    distribution.

With ``own_record`` a prompt's own record (``record``) multiplies what the text says of it, as Bayes
has it, and the nets learn from what a visit says beyond the record before it.

No seed is drawn from anywhere but ``seed`` and the number of the step: the same visits give the
same model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from promptgps_service.model.features import Features
from promptgps_service.model.neural.encoder import Tokens
from promptgps_service.model.neural.fit import Fit, FitDiverged
from promptgps_service.model.neural.history import Step, Window, nothing, pad
from promptgps_service.model.neural.latent import Normal, antithetic, divergence
from promptgps_service.model.neural.objective import Model, Prior
from promptgps_service.model.posterior import LogitNormal
from promptgps_service.model.predictor import Visits, part, require_rows
from promptgps_service.model.record import Record, match_moments, site
from promptgps_service.model.staleness import temper
from promptgps_service.model.text import same_frame

__all__ = ["FitDiverged", "Neural"]

CHUNK = 4096  # prompts decoded at a time
REFIT = 10  # times the iterations of a step, where a new frame makes all weights void


class Neural:
    """The model over N prompts; an update costs the same whatever N, a prediction is linear in it.

    Args:
        features: of the pool.
        device: where everything is kept and computed.
        own_record: use each prompt's own record. False is the paper's model, which knows a prompt
            by its text alone.
        residual: let theta spread around what text and z say. False is the plain binomial
            likelihood, with which the nets remember prompts by their features: good for those seen,
            worse than a constant for others.
        prior: of z: "learned" (GPS), "previous" (the posterior of the step before: MPTS), "none"
            (no z).
        latent: Z, dimensions of z.
        width: of the nets.
        layers: Transformer blocks of each encoder; the decoder has one hidden layer more.
        draws: latents a prediction averages over, the paper's M.
        iterations: gradient steps an update.
        rate: learning rate, in units of the parameters' priors.
        seed: of every random number.

    Raises:
        ValueError: a parameter is out of its range.
    """

    name: ClassVar[str] = "neural"

    def __init__(
        self,
        features: Features,
        *,
        device: torch.device,
        own_record: bool = True,
        residual: bool = True,
        prior: Prior = "learned",
        latent: int = 8,
        width: int = 64,
        layers: int = 0,
        draws: int = 8,
        iterations: int = 20,
        rate: float = 0.04,
        seed: int = 0,
    ) -> None:
        if min(latent, width, draws // 2, iterations) < 1 or layers < 0 or not rate > 0.0:
            raise ValueError("sizes, iterations and rate must be positive, draws at least two")
        if prior not in ("learned", "previous", "none"):
            raise ValueError("prior must be 'learned', 'previous' or 'none'")
        if own_record and not residual:
            raise ValueError("an own record needs a residual: it is what the record is about")

        self.device = device
        self.own_record = own_record
        self.residual = residual
        self.draws = draws
        self.iterations = iterations
        self.rate = rate
        self.seed = seed

        self._model = partial(
            Model,
            prior=prior,
            residual=residual,
            latent=latent,
            width=width,
            layers=layers,
            device=device,
        )

        self.step = 0
        self.window = Window(device)
        self.record = Record(features.rows, device)
        self.features = features
        self.x = features.x.to(device)
        self.model = self._new_model(features)
        self.fit = Fit(self.model, rate)

    def observe(self, visits: Visits) -> None:
        """Learn from one step's visits; an empty step changes nothing.

        Raises:
            FitDiverged: the loss is not finite; everything is as it was.
        """
        if not len(visits):
            return

        rows = visits.rows.to(self.device)
        require_rows(rows, len(self.record))
        s, n = (part.to(self.device, torch.float64) for part in (visits.successes, visits.trials))

        if bool(visits.age.any()):
            s, n = temper(
                s, n, visits.age, self._predict(self.x[rows], self._record_before(rows)).mean
            )

        kept = self.window.steps
        now = self._record_before(rows, s, n)
        self.window.push(now)

        try:
            self._train(self.iterations, self._random(0))
        except FitDiverged:
            self.window.steps = kept
            raise

        self.step += 1
        if self.own_record:
            self._record_after(now)

    def predict(self) -> LogitNormal:
        """Posterior of γ for all N rows."""
        everything = torch.arange(len(self.record), device=self.device)
        return self._predict(self.x, self._record_before(everything))

    def predict_new(self, features: Tensor) -> LogitNormal:
        """Posterior of γ for prompts never seen, from features float[L, D]."""
        x = features.to(self.device, torch.float32)
        return self._predict(x, _no_record(len(x), self.device))

    def grow(self, features: Features) -> None:
        """Take more rows; in another frame the nets start anew and learn from the replay window.

        Raises:
            FitDiverged: the loss is not finite; everything is as it was.
        """
        if features.rows < len(self.record):
            raise ValueError("a pool does not shrink")

        if same_frame(self.features, features):
            self.features = features
            self.x = features.x.to(self.device)
        else:
            self._start_anew(features)

        self.record.grow(features.rows)

    @torch.no_grad()
    def vitals(self) -> dict[str, float]:
        """How alive the latent is, in nats, by the last step.

        ``latent_kl`` is KL(q_phi(z_t | H_t) || p_eta(z_t | H_{t-1})), the bound's own: what the
        step told beyond what was expected. ``latent_information`` is KL(q_phi(z_t | H_t) ||
        q_phi(z_t | nothing)): near zero, the encoder ignores its data, and the latent has
        collapsed.
        """
        if self.model.prior == "none" or not self.window.pairs:
            return {}

        past, now, blank = (
            self._tokens(step) for step in (*self.window.steps[-2:], nothing(self.device))
        )
        q = self.model.posterior(now)
        return {
            "latent_kl": float(divergence(q, self.model.ahead(past))),
            "latent_information": float(divergence(q, self.model.posterior(blank))),
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Everything learned: nets, optimiser's moments, replay window, records of visited rows."""
        return {
            "shape": torch.tensor([len(self.record), self.features.dimension]),
            "step": torch.tensor(self.step),
            **{f"fit.{name}": value for name, value in self.fit.state_dict().items()},
            **{f"window.{name}": value for name, value in self.window.state_dict().items()},
            **{f"record.{name}": value for name, value in self.record.state_dict().items()},
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` gave.

        Raises:
            ValueError: the state is of another predictor, pool size, feature dimension or size of
                nets.
        """
        own = self.state_dict()
        if own.keys() != state.keys():
            raise ValueError("the state is not one of this neural predictor")

        fixed = [name for name in own if name.startswith("fit.")]
        if own["shape"].tolist() != state["shape"].tolist() or any(
            own[n].shape != state[n].shape for n in fixed
        ):
            raise ValueError("the state is of another pool size, feature dimension or size of nets")

        require_rows(state["window.rows"], len(self.record))
        self.record.load_state_dict(part(state, "record."))
        self.window.load_state_dict(part(state, "window."), self.device)
        self.fit.load_state_dict(part(state, "fit."))
        self.step = int(state["step"])

    def begin(self, state: Mapping[str, Tensor], places: Tensor) -> None:
        """Start with another run's nets and records; what z is now, the first steps tell.

        Raises:
            ValueError: the state is of another predictor, feature dimension or size of nets.
        """
        own = self.fit.state_dict()
        nets = part(state, "fit.")
        if own.keys() != nets.keys() or any(own[name].shape != nets[name].shape for name in own):
            raise ValueError("the state is not one of a neural predictor with these features")

        self.fit.load_state_dict(nets)
        if self.own_record:
            self.record.begin(part(state, "record."), places.to(self.device))

    def _new_model(self, features: Features) -> Model:
        return self._model(features.blocks, random=torch.Generator().manual_seed(self.seed))

    def _start_anew(self, features: Features) -> None:
        """New nets over ``features``, fitted to the window."""
        kept = self.features, self.x, self.model, self.fit
        self.features = features
        self.x = features.x.to(self.device)
        self.model = self._new_model(features)
        self.fit = Fit(self.model, self.rate)

        try:
            if self.window.pairs:
                self._train(REFIT * self.iterations, self._random(1))
        except FitDiverged:
            self.features, self.x, self.model, self.fit = kept
            raise

    def _train(self, iterations: int, random: torch.Generator) -> None:
        share = torch.ones(len(self.x), dtype=torch.float64, device=self.device)

        if self.residual and not self.own_record:
            # What text does not explain of a prompt is in each of its visits: all together they
            # count as one.
            share = share / self.window.visits_of(len(self.x)).clamp_min(1)

        self.fit.run(self.window, self.x, share, iterations, random)

    def _random(self, purpose: int) -> torch.Generator:
        """Numbers that depend on seed, step and purpose only."""
        return torch.Generator().manual_seed(
            ((self.seed * 2**32 + self.step) * 4 + purpose) % 2**63
        )

    def _record_before(
        self, rows: Tensor, s: Tensor | None = None, n: Tensor | None = None
    ) -> Step:
        """What the own records of ``rows`` say now, beside this step's outcomes."""
        blank = _no_record(len(rows), self.device)
        s = blank.s if s is None else s
        n = blank.n if n is None else n

        if not self.own_record:
            return replace(blank, rows=rows, s=s, n=n)

        record = self.record
        age = (self.step - record.seen[rows]).double()
        return Step(
            rows,
            s,
            n,
            record.y[rows],
            record.v[rows],
            age,
            record.gain[rows],
            record.lifted[rows].double(),
        )

    @torch.no_grad()
    def _record_after(self, now: Step) -> None:
        """Divide out what text and level said before the visits; what is left is the record."""
        x = self.x[now.rows]
        q = self.model.posterior(self._tokens(now))
        told = self.model.tell(x, q, self._noise(2))
        mean, variance = match_moments(*self.model.update(now, told), now.s, now.n)

        record = self.record
        rows = now.rows
        record.gain[rows] = now.gain + self.model.gain * now.lifted
        center = told.level + record.gain[rows]
        record.y[rows], record.v[rows] = site(mean, variance, center, told.mean, told.variance)
        record.seen[rows] = self.step - 1
        record.lifted[rows] = (now.s > 0) & (now.s < now.n)

    @torch.no_grad()
    def _predict(self, x: Tensor, records: Step) -> LogitNormal:
        """Text at M latents of the prior given the last batch (Eq. 10), and own records."""
        ahead = self._ahead()
        noise = self._noise(3)
        parts = []

        for start in range(0, len(x), CHUNK):
            rows = slice(start, start + CHUNK)
            told = self.model.tell(x[rows], ahead, noise)
            mu, V = self.model.update(records.select(rows), told)
            parts.append(torch.stack([mu, V + told.shared]))

        mu, V = (
            torch.cat(parts, dim=1)
            if parts
            else torch.zeros(2, 0, dtype=torch.float64, device=self.device)
        )
        return LogitNormal(mu, V)

    @torch.no_grad()
    def _ahead(self) -> Normal:
        """p_eta(z | last batch), [1, Z]."""
        return self.model.ahead(self._tokens(self.window.last))

    def _tokens(self, step: Step) -> Tokens:
        """One step's visits as the encoders see them, [1, B]."""
        padded = pad([step])
        return self.model.tokens(padded, self.x[padded.rows])

    def _noise(self, purpose: int) -> Tensor:
        """Standard normal float32[M, 1, Z] whose mean is 0 and whose mean square is 1 exactly."""
        noise = antithetic(self.draws, (1, self.model.latent), self._random(purpose))
        return (noise / noise.square().mean(0).sqrt()).to(self.device)


def _no_record(count: int, device: torch.device) -> Step:
    zero = torch.zeros(count, dtype=torch.float64, device=device)
    return Step(zero.long(), zero, zero, zero, torch.full_like(zero, torch.inf), zero, zero, zero)

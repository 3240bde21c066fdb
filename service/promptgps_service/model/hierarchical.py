"""The default predictor: a hierarchical Bayes logistic filter.

    theta_it = a_t + G_it + x_i·w + u_i(t),     s ~ Binomial(n, sigmoid(theta_it))

a_t is a random walk (``level``), G_it cumulates the gain g of own informative visits (``level``), w
has a ridge prior per block of features (``text``), and u_i ~ N(0, su2) is what a prompt's own
record says (``record``), whose variance grows by qu a step. su2, qu and the walk's variance qa are
learned by marginal likelihood (``variances``). One pass, assumed density filtering, no randomness:
the same visits give the same model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from promptgps_service.model.features import Features, offline_level
from promptgps_service.model.level import Level
from promptgps_service.model.posterior import LogitNormal
from promptgps_service.model.predictor import Visits, part, require_rows
from promptgps_service.model.quadrature import log_expected_likelihood
from promptgps_service.model.record import Record, combine, match_moments, site
from promptgps_service.model.staleness import temper
from promptgps_service.model.text import TextWeights, moves_at, rows_to_fit, same_frame
from promptgps_service.model.variances import ageing_grid, drift_grid, spread_grid

FORGET_SPREAD = 0.9  # to the power of the share of first visits
FORGET_AGEING = 0.97
FORGET_DRIFT = 0.95
DRIFT_PROMPTS = 256.0  # a batch counts at most this many prompts as evidence on the drift
SPLIT_STEPS = 4  # the first steps are learned in parts, so that variances meet predictions early
SPLIT_PARTS = 4
SPLIT_LEAST = 32  # prompts a part


class Hierarchical:
    """The hierarchical filter over N prompts; an update and a prediction are linear in N."""

    name: ClassVar[str] = "hierarchical"

    def __init__(self, features: Features, *, device: torch.device) -> None:
        self.device = device
        self.features = features
        self.x = features.x.to(device)
        self.step = 0
        self.level = Level(device, offline_level(features.offline))
        self.record = Record(features.rows, device)
        self.text = TextWeights(features.blocks, device)
        self.spread = spread_grid(device)  # su2
        self.ageing = ageing_grid(device)  # qu
        self.drift = drift_grid(device)  # qa
        self._explained: tuple[Tensor, Tensor] | None = None

    def observe(self, visits: Visits) -> None:
        """Learn from one step's visits; an empty step changes nothing."""
        if not len(visits):
            return

        rows = visits.rows.to(self.device)
        require_rows(rows, len(self.record))
        s = visits.successes.to(self.device, torch.float64)
        n = visits.trials.to(self.device, torch.float64)

        if bool(visits.age.any()):
            mu, _ = self._belief(rows, *self.text.explain(self.x[rows]))
            s, n = temper(s, n, visits.age, torch.sigmoid(mu), self.ageing.value + self.drift.value)

        parts = max(1, min(SPLIT_PARTS, len(rows) // SPLIT_LEAST)) if self.step < SPLIT_STEPS else 1
        for first in range(parts):
            drifted = self.step > 0 and first == 0
            self._learn(rows[first::parts], s[first::parts], n[first::parts], drifted)

        self.step += 1
        self._explained = None

    def predict(self) -> LogitNormal:
        """Posterior of γ for all N rows."""
        if self._explained is None:
            self._explained = self.text.explain(self.x)

        m, explained = self._explained
        everything = torch.arange(len(self.record), device=self.device)
        mu, V = self._belief(everything, m, explained)
        return LogitNormal(mu, V + self.level.variance)

    def predict_new(self, features: Tensor) -> LogitNormal:
        """Posterior of γ for prompts never seen, from features float[L, D]."""
        m, explained = self.text.explain(features.to(self.device, torch.float32))
        return LogitNormal(self.level.a + m, self.spread.value + explained + self.level.variance)

    def grow(self, features: Features) -> None:
        """Take more rows; in another frame the weights are fitted anew to the records."""
        if features.rows < len(self.record):
            raise ValueError("a pool does not shrink")

        kept = same_frame(self.features, features)
        self.features = features
        self.x = features.x.to(self.device)
        self.record.grow(features.rows)
        self._explained = None

        if not kept:
            tau = dict(zip((block.name for block in self.text.blocks), self.text.tau, strict=True))
            self.text = TextWeights(features.blocks, self.device, tau)
            self._fit_text(())

    def state_dict(self) -> dict[str, Tensor]:
        """Everything learned; the records of visited rows only."""
        return {
            "shape": torch.tensor([len(self.record), len(self.text.w)]),
            "step": torch.tensor(self.step),
            "level": self.level.to_tensor(),
            "spread": self.spread.evidence,
            "ageing": self.ageing.evidence,
            "drift": self.drift.evidence,
            **{f"text.{name}": value for name, value in self.text.state_dict().items()},
            **{f"record.{name}": value for name, value in self.record.state_dict().items()},
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` gave.

        Raises:
            ValueError: the state is of another predictor, pool size or feature dimension.
        """
        own = self.state_dict()
        if own.keys() != state.keys():
            raise ValueError("the state is not one of the hierarchical predictor")

        if (
            own["shape"].tolist() != state["shape"].tolist()
            or own["text.tau"].shape != state["text.tau"].shape
        ):
            raise ValueError("the state is of another pool size or feature dimension")

        self.record.load_state_dict(part(state, "record."))
        self.text.load_state_dict(part(state, "text."))
        self.step = int(state["step"])
        self.level.restore(state["level"])
        self._restore_variances(state)
        self._explained = None

    def begin(self, state: Mapping[str, Tensor], places: Tensor) -> None:
        """Start from what another run has learned.

        ``places`` long[N'] has the row here of each row there, or −1.

        Raises:
            ValueError: the state is of another predictor or feature dimension.
        """
        if self.state_dict().keys() != state.keys() or int(state["shape"][1]) != len(self.text.w):
            raise ValueError(
                "the state is not one of the hierarchical predictor with these features"
            )

        self.level.begin(state["level"])
        text = part(state, "text.")
        self.text.begin(
            text["w"].to(self.device), text["factor"].to(self.device), text["tau"].tolist()
        )
        self.record.begin(part(state, "record."), places.to(self.device))
        self._restore_variances(state)
        self._explained = None

    def _restore_variances(self, state: Mapping[str, Tensor]) -> None:
        self.spread.restore(state["spread"].to(self.device))
        self.ageing.restore(state["ageing"].to(self.device))
        self.drift.restore(state["drift"].to(self.device))

    def _belief(self, rows: Tensor, m: Tensor, explained: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, V) of theta now, float64[M] each; the level's variance is left out."""
        v = self.record.aged(rows, self.step, self.ageing.value)
        center = self.level.a + self.record.gain[rows]
        return combine(center, m, self.spread.value + explained, self.record.y[rows], v)

    def _learn(self, rows: Tensor, s: Tensor, n: Tensor, drifted: bool) -> None:
        """One update: level and gain, variances, records, text; in this order."""
        m, explained = self.text.explain(self.x[rows])
        self._learn_level(rows, s, n, m, explained, drifted)
        self._learn_spread(rows, s, n, m, explained)
        self._learn_ageing(rows, s, n, m, explained)
        self._learn_record(rows, s, n, m, explained)
        self._fit_text(moves_at(self.step))

    def _learn_level(
        self, rows: Tensor, s: Tensor, n: Tensor, m: Tensor, explained: Tensor, drifted: bool
    ) -> None:
        mu, V = self._belief(rows, m, explained)
        lifted = self.record.lifted[rows]
        drift = self.drift.value if drifted else 0.0
        moved = self.level.update(mu, V, s, n, lifted, drift, self.drift.values)

        if drifted:
            self.drift.learn(moved.evidence * min(1.0, DRIFT_PROMPTS / len(rows)), FORGET_DRIFT)

    def _learn_spread(
        self, rows: Tensor, s: Tensor, n: Tensor, m: Tensor, explained: Tensor
    ) -> None:
        """su2 from first visits only: later ones meet the record, which su2 has shaped already."""
        first = self.record.v[rows].isinf()
        share = float(first.double().mean())
        mu = self.level.a + m[first]
        V = self.spread.values[:, None] + explained[first]
        evidence = log_expected_likelihood(mu.expand_as(V), V, s[first], n[first]).sum(1)
        self.spread.learn(evidence, FORGET_SPREAD**share)

    def _learn_ageing(
        self, rows: Tensor, s: Tensor, n: Tensor, m: Tensor, explained: Tensor
    ) -> None:
        """Qu from revisits: how far had the prompt moved from what its record said?"""
        again = self.record.v[rows].isfinite()
        old = rows[again]
        if not len(old):
            return

        age = self.step - self.record.seen[old]
        v = self.record.v[old] + self.ageing.values[:, None] * age
        center = self.level.a + self.record.gain[old]
        mu, V = combine(
            center, m[again], self.spread.value + explained[again], self.record.y[old], v
        )
        evidence = log_expected_likelihood(mu, V, s[again], n[again]).sum(1)
        self.ageing.learn(evidence, FORGET_AGEING)

    def _learn_record(
        self, rows: Tensor, s: Tensor, n: Tensor, m: Tensor, explained: Tensor
    ) -> None:
        T = self.spread.value + explained
        center = self.level.a + self.record.gain[rows]
        mean, variance = match_moments(*self._belief(rows, m, explained), s, n)
        self.record.y[rows], self.record.v[rows] = site(mean, variance, center, m, T)
        informative = (s > 0) & (s < n)
        self.record.seen[rows] = self.step
        self.record.lifted[rows] = informative
        self.record.gain[rows] += self.level.gain * informative

    def _fit_text(self, moves: tuple[float, ...]) -> None:
        visited = self.record.visited
        rows = rows_to_fit(visited, self.record.seen[visited])
        v = self.record.aged(rows, self.step, self.ageing.value)
        self.text.fit(self.x[rows], self.record.y[rows], 1.0 / (self.spread.value + v), moves)

"""Each prompt's own record: all that its visits said about it, as a Gaussian site on its log-odds.

Moment matching (assumed density filtering; the site form is that of expectation propagation, Minka
2001): the posterior of theta after a visit is replaced by the normal of the same mean and variance,
and divided by the text prior; what is left is the record. It therefore stays when the text prior is
learned anew.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from promptgps_service.model.predictor import require_rows
from promptgps_service.model.quadrature import adaptive_nodes

NODES = 20
LEAST_PRECISION = 1e-3
FARTHEST = 12.0  # logits
DOUBT = 1.0  # variance of a prompt's log-odds, in logits squared, between two runs


class Record:
    """Sites of all N prompts.

    Attributes:
        y: float64[N], the site's mean, on theta − a − G; 0 without a record.
        v: float64[N], its variance at the time of the last visit; infinite without a record.
        seen: long[N], step of the last visit, −1 where this run has not visited it.
        lifted: bool[N], the last visit was informative.
        gain: float64[N], G, logits.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self.y = torch.zeros(rows, dtype=torch.float64, device=device)
        self.v = torch.full((rows,), torch.inf, dtype=torch.float64, device=device)
        self.seen = torch.full((rows,), -1, dtype=torch.int64, device=device)
        self.lifted = torch.zeros(rows, dtype=torch.bool, device=device)
        self.gain = torch.zeros(rows, dtype=torch.float64, device=device)

    def __len__(self) -> int:
        return int(self.y.numel())

    @property
    def known(self) -> Tensor:
        """Rows with a record, long[R], ascending: those visited, and those another run knew."""
        return torch.nonzero(self.v.isfinite()).squeeze(1)

    @property
    def visited(self) -> Tensor:
        """Rows that this run has visited, long[R], ascending."""
        return torch.nonzero(self.seen >= 0).squeeze(1)

    def begin(self, state: Mapping[str, Tensor], places: Tensor) -> None:
        """Take over another run's records.

        ``places`` long[N'] is the row here of each row there, −1 for none.

        What training has lifted there it has not lifted here; and the policy is another, so the
        record is doubted.
        """
        rows = places[state["rows"].to(places)]
        kept = rows >= 0
        self.y[rows[kept]] = state["y"].to(self.y)[kept]
        self.v[rows[kept]] = state["v"].to(self.v)[kept] + DOUBT

    def aged(self, rows: Tensor, step: int, qu: float) -> Tensor:
        """v_i(t) = v_i + qu (t − t_i), float64[M]: evidence loses precision with age."""
        return self.v[rows] + qu * (step - self.seen[rows])

    def grow(self, rows: int) -> None:
        """Make room for ``rows`` prompts; those known keep their places."""
        wider = Record(rows, self.y.device)
        for name, value in vars(self).items():
            getattr(wider, name)[: len(value)] = value
        self.__dict__.update(vars(wider))

    def state_dict(self) -> dict[str, Tensor]:
        """Rows with a record, and their fields."""
        rows = self.known
        return {"rows": rows, **{name: value[rows] for name, value in vars(self).items()}}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` gave.

        Raises:
            ValueError: a row is outside the pool.
        """
        rows = state["rows"].to(self.y.device)
        fresh = Record(len(self), self.y.device)
        require_rows(rows, len(self))

        for name, value in vars(fresh).items():
            value[rows] = state[name].to(value)

        self.__dict__.update(vars(fresh))


def combine(center: Tensor, m: Tensor, T: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """(mu, V) of theta from the text prior N(center + m, T) and the site N(center + y, v)."""
    V = 1.0 / (1.0 / T + 1.0 / v)
    return center + V * (m / T + y / v), V


def match_moments(mu: Tensor, V: Tensor, s: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance, float64[M] each, of N(mu, V) times the likelihood of (s, n)."""
    theta, masses = adaptive_nodes(mu, V, s, n, NODES)
    mass = torch.softmax(masses, dim=-1)
    mean = (mass * theta).sum(-1)
    return mean, (mass * (theta - mean[:, None]).square()).sum(-1)


def site(
    mean: Tensor, variance: Tensor, center: Tensor, m: Tensor, T: Tensor
) -> tuple[Tensor, Tensor]:
    """Site (y, v) that takes the text prior N(center + m, T) to the posterior N(mean, variance)."""
    precision = (1.0 / variance - 1.0 / T).clamp_min(LEAST_PRECISION)
    y = (mean / variance - (center + m) / T) / precision - center
    return y.clamp(-FARTHEST, FARTHEST), 1.0 / precision

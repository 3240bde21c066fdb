"""A prompt's log-odds by its text: Bayesian ridge on the records, prior variances by evidence.

y_i = const + x_i·w + noise of variance su2 + v_i(t), w_g ~ N(0, τ_g I) for each block g of
features. The evidence (marginal likelihood, MacKay 1992) is that with the weighted mean projected
out: the level has it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from promptgps_service.model.features import Block, Features

MOST_ROWS = 8192  # of which half are the newest
# Blocks have mean squared norm 1, so τ is the variance of theta that the block explains.
TAU_START = 0.5
TAU_SD = 1.5  # of log τ
DEPARTURE = 0.25  # of another run's τ: how far the same texts may mean something else in this run
EARLY_STEPS = 12
EARLY_MOVES = (0.25, 0.5, 2.0, 4.0)
LATE_MOVES = (0.7, 1.4)
CHUNK = 4096  # rows at a time over the whole pool: 4.5 MB at 275 features, which stay in the cache
PANEL = 64  # columns of F at a time


class TextWeights:
    """Posterior of w.

    Attributes:
        tau: the prior variance of each block.
        w: float64[D], mean.
        factor: float32[D, D], upper triangular F with the covariance P = F Fᵀ, so that x'Px = |xF|²
            is never negative.
        start: float64[D], the prior mean of w.
        start_factor: float32[D, D] or [D, 0], S with the prior covariance S Sᵀ + diag(τ): what
            another run knew of w.
    """

    def __init__(
        self,
        blocks: tuple[Block, ...],
        device: torch.device,
        tau: Mapping[str, float] | None = None,
    ) -> None:
        """Start at the prior; ``tau`` has what is known of blocks by name."""
        self.blocks = blocks
        self.tau = [(tau or {}).get(block.name, TAU_START) for block in blocks]
        dimension = blocks[-1].stop if blocks else 0
        self.start = torch.zeros(dimension, dtype=torch.float64, device=device)

        for block in blocks:
            self.start[block.start : block.stop] = block.prior_mean

        self.start_factor = torch.zeros(dimension, 0, device=device)
        self._from_prior()

    def begin(self, w: Tensor, factor: Tensor, tau: list[float]) -> None:
        """Take another run's posterior for the prior.

        This run's weights may lie ``DEPARTURE`` τ away from it.
        """
        self.start = w
        self.start_factor = factor
        self.tau = [DEPARTURE * value for value in tau]
        self._from_prior()

    def explain(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x·w and x'Px, float64[L] each, of features float32[L, D]."""
        mean = x.new_empty(len(x))
        variance = x.new_zeros(len(x))
        w = self.w.float()

        for start in range(0, len(x), CHUNK):
            rows = slice(start, start + CHUNK)
            part = x[rows]
            mean[rows] = part @ w
            for left in range(0, len(w), PANEL):
                # F is triangular: nothing below its diagonal takes part, which saves 40 % of the
                # product.
                right = min(left + PANEL, len(w))
                panel = part[:, :right] @ self.factor[:right, left:right]
                variance[rows] += torch.linalg.vector_norm(panel, dim=1).square()

        return mean.double(), variance.double()

    def fit(self, x: Tensor, y: Tensor, precision: Tensor, moves: tuple[float, ...]) -> None:
        """Fit w anew, after one round of coordinate search over τ.

        Args:
            x: float32[R, D].
            y: float64[R], records on theta − a − G.
            precision: float64[R], c_i = 1 / (su2 + v_i(t)).
            moves: factors to try on each τ_g; none keeps τ.
        """
        if len(y) < 2 or not self.blocks:
            return

        A, b = _weighted_products(x, y - (x @ self.start.float()).double(), precision)
        best, factor = self._evidence(self.tau, A, b)

        for g in range(len(self.tau)):
            here = self.tau[g]
            for move in moves:
                tau = [*self.tau[:g], here * move, *self.tau[g + 1 :]]
                evidence, candidate = self._evidence(tau, A, b)
                if evidence > best:
                    best = evidence
                    factor = candidate
                    self.tau = tau

        inverse = torch.linalg.solve_triangular(factor, torch.eye(len(b)).to(b), upper=False)
        self.w = self.start + inverse.T @ (inverse @ b)
        self.factor = inverse.T.float().contiguous()

    def _evidence(self, tau: list[float], A: Tensor, b: Tensor) -> tuple[float, Tensor]:
        """Log evidence of τ with its prior, up to a constant, and a Cholesky factor.

        The factor is that of the precision of w.
        """
        precision, volume = self._prior(tau)
        factor = torch.linalg.cholesky(A + precision)
        half = torch.linalg.solve_triangular(factor, b[:, None], upper=False)
        volume = volume + factor.diagonal().log().sum()
        belief = sum(-0.5 * (math.log(value / TAU_START) / TAU_SD) ** 2 for value in tau)
        return float(0.5 * half.square().sum() - volume) + belief, factor

    def _prior(self, tau: list[float]) -> tuple[Tensor, Tensor]:
        """Precision of the prior, float64[D, D], and half the log determinant of its covariance."""
        variance = self._block_variance(tau)
        if not self.start_factor.shape[1]:
            return torch.diag(1.0 / variance), 0.5 * variance.log().sum()

        known = self.start_factor.double()
        factor = torch.linalg.cholesky(known @ known.T + torch.diag(variance))
        return torch.cholesky_inverse(factor), factor.diagonal().log().sum()

    def _from_prior(self) -> None:
        """Nothing learned yet."""
        precision, _ = self._prior(self.tau)
        identity = torch.eye(len(precision)).to(precision)
        inverse = torch.linalg.solve_triangular(
            torch.linalg.cholesky(precision), identity, upper=False
        )
        self.w = self.start.clone()
        self.factor = inverse.T.float().contiguous()

    def _block_variance(self, tau: list[float]) -> Tensor:
        variance = torch.empty_like(self.start)
        for block, value in zip(self.blocks, tau, strict=True):
            variance[block.start : block.stop] = value
        return variance

    def state_dict(self) -> dict[str, Tensor]:
        """Everything learned."""
        return {
            "tau": torch.tensor(self.tau, dtype=torch.float64),
            "w": self.w,
            "factor": self.factor,
            "start": self.start,
            "start_factor": self.start_factor,
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` gave."""
        self.tau = state["tau"].tolist()
        for name in ("w", "factor", "start", "start_factor"):
            setattr(self, name, state[name].to(self.start.device))


def moves_at(step: int) -> tuple[float, ...]:
    """Big moves early, or a strongly predictable pool is learned too slowly; small ones later."""
    return EARLY_MOVES if step < EARLY_STEPS else LATE_MOVES


def rows_to_fit(visited: Tensor, seen: Tensor) -> Tensor:
    """At most 8,192 of the visited rows: the newest, and of the older ones a share fixed by hash.

    The old ones stay because selection teaches only about what it selects.

    Args:
        visited: long[R], rows.
        seen: long[R], the step each was last visited.
    """
    if len(visited) <= MOST_ROWS:
        return visited

    order = torch.argsort(seen, descending=True, stable=True)
    newest = visited[order[: MOST_ROWS // 2]]
    older = visited[order[MOST_ROWS // 2 :]]
    hashed = (older * 2654435761) % 2**32  # Knuth's multiplicative hash, a bijection: no ties
    kept = torch.topk(hashed, MOST_ROWS // 2, largest=False).indices

    return torch.cat([newest, older[kept]]).sort().values


def same_frame(old: Features, new: Features) -> bool:
    """Weights learned on ``old`` hold for ``new``."""
    return old.blocks == new.blocks and old.frame_rows == new.frame_rows


def _weighted_products(x: Tensor, y: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """X'CX and X'Cy with the weighted means of both taken out, float64[D, D] and float64[D]."""
    share = precision / precision.sum()
    root = precision.sqrt().float()
    centred = (x - share.float() @ x) * root[:, None]
    target = (y - share @ y).float() * root
    return (centred.T @ centred).double(), (centred.T @ target).double()

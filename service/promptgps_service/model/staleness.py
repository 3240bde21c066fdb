"""What an outcome of an older policy says about the present one."""

from __future__ import annotations

from torch import Tensor

# variance theta gains a step where it is not learned: the prior means of qu and qa together
WALK = 0.03


def temper(
    s: Tensor, n: Tensor, age: Tensor, p: Tensor | float, walk: float = WALK
) -> tuple[Tensor, Tensor]:
    """Evidence on theta as it is now, from outcomes made ``age`` steps ago.

    The outcomes observe the log-odds theta − ε of their own time with Fisher information I = n p (1
    − p), and ε, the random walk since, has variance age · walk. They observe theta with variance 1
    / I + age · walk, that is with information I / (1 + I age walk): as much as n' = n / (1 + n p (1
    − p) age walk) trials at the same success rate.

    Args:
        s: float64[M], successes.
        n: float64[M], trials.
        age: float64[M] or one number, steps; at 0 nothing changes, to the last bit.
        p: float64[M] or one number, the success rate around which the likelihood is taken.
        walk: variance of a step of theta.
    """
    share = 1.0 / (1.0 + n * p * (1.0 - p) * age.to(n) * walk)
    return s * share, n * share

"""Ways to choose the next batch: three in process (the yardsticks), one through the service."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from promptgps_client import PromptGPS

from benchmarks.rl.policy import Policy
from benchmarks.rl.pool import Pool

Floats = NDArray[np.float64]

CANDIDATES_PER_PICK = 8
"""In-process choosers look at this many random prompts for each one they pick."""
CHUNK = 4096
"""Predictions asked for in one request."""


class Selector(Protocol):
    """Chooses prompts and hears what came of them; one `select` is followed by its `observe`."""

    def select(self, k: int) -> list[int]:
        """`k` different positions in the pool."""
        ...

    def observe(self, positions: list[int], successes: NDArray[np.int64], group: int) -> None:
        """`successes[i]` of `group` rollouts of the prompt at `positions[i]` were right."""
        ...

    def predict(self) -> Floats | None:
        """Predicted success rate [N] of every prompt of the pool; None without a prediction."""
        ...

    @property
    def predicted(self) -> Floats | None:
        """Success rates [k] predicted for the last selection when it was made."""
        ...


class Uniform:
    """Every prompt equally likely, none twice in a batch."""

    predicted: Floats | None = None

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.rng = np.random.default_rng(seed)

    def select(self, k: int) -> list[int]:
        """`k` at random."""
        return [int(i) for i in self.rng.choice(self.size, k, replace=False)]

    def observe(self, positions: list[int], successes: NDArray[np.int64], group: int) -> None:
        """Learns nothing."""

    def predict(self) -> Floats | None:
        """Predicts nothing."""
        return None


class Oracle(Uniform):
    """Of 8k random candidates the k whose true success rate, by the policy, is nearest 0.5."""

    def __init__(self, pool: Pool, policy: Policy, seed: int) -> None:
        super().__init__(len(pool), seed)
        self.pool = pool
        self.policy = policy

    def select(self, k: int) -> list[int]:
        """Costs a teacher-forced pass over the candidates and no rollouts."""
        candidates = super().select(min(self.size, CANDIDATES_PER_PICK * k))
        truth = self.policy.success_rates([self.pool.prompts[i] for i in candidates])
        nearest = np.argsort(np.abs(truth - 0.5), kind="stable")[:k]
        self.predicted = truth[nearest]
        return [candidates[i] for i in nearest]


class MoPPS(Uniform):
    """A discounted Beta posterior for each prompt by itself.

    Of 8k candidates it takes the k whose Thompson draws are nearest 0.5.

    MoPPS, arXiv 2507.04632: after k successes in n trials alpha <- d·alpha + (1 - d)·1 + k, beta
    likewise.
    """

    def __init__(self, size: int, seed: int, discount: float = 0.5) -> None:
        super().__init__(size, seed)
        self.discount = discount
        self.alpha = np.ones(size)
        self.beta = np.ones(size)

    def select(self, k: int) -> list[int]:
        """Thompson sampling on a random subset."""
        candidates = np.asarray(super().select(min(self.size, CANDIDATES_PER_PICK * k)))
        drawn = self.rng.beta(self.alpha[candidates], self.beta[candidates])
        chosen = candidates[np.argsort(np.abs(drawn - 0.5), kind="stable")[:k]]
        self.predicted = self.predict()[chosen]
        return list(map(int, chosen))

    def observe(self, positions: list[int], successes: NDArray[np.int64], group: int) -> None:
        """Discounts what was known of these prompts and adds what was seen."""
        for counts, seen in ((self.alpha, successes), (self.beta, group - successes)):
            counts[positions] = self.discount * counts[positions] + (1 - self.discount) + seen

    def predict(self) -> Floats:
        """Posterior means."""
        return np.asarray(self.alpha / (self.alpha + self.beta))


class Remote:
    """The service, through its client over HTTP, used as a synchronous trainer would use it."""

    def __init__(
        self,
        gps: PromptGPS,
        pool_name: str,
        pool: Pool,
        run: str,
        selection: dict[str, Any],
        seed: int,
        group: int,
    ) -> None:
        """Open a run on a pool that `upload` has put there."""
        self.gps = gps
        self.run = run
        self.pool = pool
        self.position = {key: i for i, key in enumerate(pool.keys)}
        self.step = 0
        self.predicted: Floats | None = None
        self._draws: list[str] = []
        gps.create_run(
            name=run, pool=pool_name, rollouts_per_prompt=group, seed=seed, selection=selection
        )

    @staticmethod
    def upload(gps: PromptGPS, pool_name: str, pool: Pool) -> None:
        """Make the pool and send its texts; the service embeds them itself."""
        gps.create_pool(pool_name)
        gps.add_prompts(pool_name, keys=list(pool.keys), texts=[p.text for p in pool.prompts])

    def select(self, k: int) -> list[int]:
        """Waits until the model has learned from the last batch, so that runs repeat.

        Half a minute at most.
        """
        batch = self.gps.select_batch(
            run=self.run,
            sequence=self.step,
            batch_size=k,
            policy_version=self.step,
            wait_seconds=30,
        )
        self._draws = list(batch.draws.draw_id)
        self.predicted = np.asarray(batch.draws.predicted_success)

        return [self.position[key] for key in batch.draws.prompt]

    def observe(self, positions: list[int], successes: NDArray[np.int64], group: int) -> None:
        """Report the whole groups of the last selection by their draw ids."""
        self.gps.report_groups(
            run=self.run,
            draw_id=self._draws,
            successes=[float(s) for s in successes],
            trials=[group] * len(positions),
            policy_version=self.step,
        )
        self.step += 1

    def predict(self) -> Floats:
        """Posterior means for the whole pool."""
        keys = self.pool.keys
        parts = [
            self.gps.predict_difficulty(run=self.run, keys=list(keys[i : i + CHUNK])).success_mean
            for i in range(0, len(keys), CHUNK)
        ]
        return np.concatenate([np.asarray(part) for part in parts])

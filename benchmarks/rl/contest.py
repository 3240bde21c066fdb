"""What demo and benchmark share: one world in which arms compete.

The world is a base policy, a pool and held-out prompts.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from promptgps_client import PromptGPS

from benchmarks.arms import selection_of
from benchmarks.rl.policy import Policy
from benchmarks.rl.pool import HELD_OUT, Pool, draw_sets
from benchmarks.rl.selectors import MoPPS, Oracle, Remote, Selector, Uniform
from benchmarks.rl.tasks import Prompt
from benchmarks.rl.train import Progress, Record, Settings, train
from benchmarks.rl.warmstart import Progress as WarmProgress
from benchmarks.rl.warmstart import WarmStart, base_policy

IN_PROCESS = ("uniform", "mopps", "oracle")
"""Arms that need no service; `service:NAME` sends these names to it too."""


def needs_service(arm: str) -> bool:
    """Whether the arm is a strategy of the service."""
    return arm not in IN_PROCESS


@dataclass(frozen=True)
class World:
    """The same for all arms and seeds, so that their runs are paired."""

    base: Policy
    pool: Pool
    held_out: list[Prompt]
    # of the pool in the service
    name: str = field(default_factory=lambda: f"rl-{secrets.token_hex(4)}")

    @classmethod
    def build(
        cls,
        warm: WarmStart,
        size: int,
        cache: Path | None = None,
        progress: WarmProgress | None = None,
        held_out: int = HELD_OUT,
    ) -> World:
        """Train or load the base policy and draw the prompts by what it can do."""
        base = base_policy(warm, cache, progress)
        return cls(base, *draw_sets(base, size, warm.families, held_out=held_out))

    def upload(self, gps: PromptGPS) -> None:
        """Give the pool to the service."""
        Remote.upload(gps, self.name, self.pool)

    def run(
        self, arm: str, settings: Settings, gps: PromptGPS | None, progress: Progress | None = None
    ) -> Record:
        """One training run.

        `gps` is needed for the service's strategies, its pool having been uploaded.
        """

        def selector(policy: Policy) -> Selector:
            return self._selector(arm, settings, gps, policy)

        return train(arm, selector, self.base, self.pool, self.held_out, settings, progress)

    def _selector(
        self, arm: str, settings: Settings, gps: PromptGPS | None, policy: Policy
    ) -> Selector:
        if arm == "uniform":
            return Uniform(len(self.pool), settings.seed)
        if arm == "mopps":
            return MoPPS(len(self.pool), settings.seed)
        if arm == "oracle":
            return Oracle(self.pool, policy, settings.seed)
        if gps is None:
            raise ValueError(f"{arm!r} is a strategy of the service, and no service is given")

        run = f"{self.name}-{_run_name(arm)}-seed{settings.seed}"
        selection = selection_of(arm.removeprefix("service:"))

        return Remote(gps, self.name, self.pool, run, selection, settings.seed, settings.group)


def _run_name(arm: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", arm.removeprefix("service:"))

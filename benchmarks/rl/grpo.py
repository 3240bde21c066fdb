"""GRPO: groups of sampled responses, exact-match reward, advantages within the group.

One AdamW step a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.rl.policy import Ids, Policy
from benchmarks.rl.tasks import Prompt, is_right


@dataclass(frozen=True)
class Rollouts:
    """What P prompts came to: token ids of G responses each, and rewards [P, G] in {0, 1}."""

    prompts: list[Ids]
    responses: list[list[Ids]]
    rewards: Tensor

    @property
    def successes(self) -> NDArray[np.int64]:
        """Right responses of each prompt, [P]."""
        return np.asarray(self.rewards.sum(1).long().numpy())


def roll_out(
    policy: Policy, prompts: Sequence[Prompt], group: int, generator: torch.Generator
) -> Rollouts:
    """Sample `group` responses to each prompt at temperature 1 and verify them."""
    ids = [policy.tokenizer.prompt_ids(p) for p in prompts]
    responses = policy.sample(ids, group, generator)
    rewards = torch.tensor(
        [
            [
                float((text := policy.tokenizer.response(r)) is not None and is_right(p, text))
                for r in g
            ]
            for p, g in zip(prompts, responses, strict=True)
        ]
    )

    return Rollouts(ids, responses, rewards)


def advantages(rewards: Tensor) -> Tensor:
    """Rewards [P, G] standardised within their group; zero where all are equal."""
    centred = rewards - rewards.mean(1, keepdim=True)
    return centred / (rewards.std(1, keepdim=True, correction=0) + 1e-6)


def loss(policy: Policy, rollouts: Rollouts) -> Tensor:
    """The policy-gradient loss: minus the mean over ALL responses of advantage × log-probability.

    One on-policy step makes GRPO's ratio 1 and its clipping idle. Groups without a mixed outcome
    have zero advantage, so they count in the mean and don't pass through the network.
    """
    weights = advantages(rollouts.rewards)
    mixed = [i for i, group in enumerate(weights) if bool((group != 0).any())]
    if not mixed:
        return torch.zeros(())

    logps = policy.response_logps(
        [rollouts.prompts[i] for i in mixed], [rollouts.responses[i] for i in mixed]
    )
    return -(weights[mixed].flatten() * logps).sum() / weights.numel()


class Learner:
    """The policy's optimiser."""

    def __init__(self, policy: Policy, lr: float = 2e-4) -> None:
        self.policy = policy
        self.optimizer = torch.optim.AdamW(policy.parameters(), lr=lr, weight_decay=0.01)

    def update(self, rollouts: Rollouts) -> None:
        """One step up the expected reward; none at all where no group is mixed."""
        objective = loss(self.policy, rollouts)
        if not objective.requires_grad:
            return

        self.optimizer.zero_grad()
        objective.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()

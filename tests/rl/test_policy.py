from __future__ import annotations

import random

import torch
from scipy.stats import chi2

from benchmarks.rl.grpo import roll_out
from benchmarks.rl.policy import Policy
from benchmarks.rl.tasks import MAX_ANSWER_TOKENS, Prompt, Tokenizer, draw_prompt

SAMPLES = 400


def _medium(base: Policy, count: int) -> list[Prompt]:
    rng = random.Random(11)
    drawn = list(
        {
            p.text: p for p in (draw_prompt(rng, ("swap", "reverse"), 0.6) for _ in range(400))
        }.values()
    )
    rates = base.success_rates(drawn)
    return [p for p, rate in zip(drawn, rates, strict=True) if 0.05 < rate < 0.95][:count]


def test_it_has_the_stated_size() -> None:
    assert 0.60e6 < sum(p.numel() for p in Policy().parameters()) < 0.65e6


def test_teacher_forced_truth_is_the_frequency_of_success(base: Policy) -> None:
    """Chi-square of 30 prompts x 400 samples.

    A right policy fails with probability 1e-3 (two-sided).
    """
    prompts = _medium(base, 30)
    truth = torch.from_numpy(base.success_rates(prompts))
    rollouts = roll_out(base, prompts, SAMPLES, torch.Generator().manual_seed(5))
    successes = torch.from_numpy(rollouts.successes)
    statistic = float(((successes - SAMPLES * truth) ** 2 / (SAMPLES * truth * (1 - truth))).sum())
    assert len({len(p) for p in rollouts.prompts}) > 3, "prompts of different lengths share a batch"
    assert chi2.ppf(0.0005, len(prompts)) < statistic < chi2.ppf(0.9995, len(prompts))


def test_a_packed_group_has_the_logps_of_its_responses_alone(base: Policy) -> None:
    prompts = _medium(base, 5)
    rollouts = roll_out(base, prompts, 6, torch.Generator().manual_seed(6))
    with torch.no_grad():
        together = base.response_logps(rollouts.prompts, rollouts.responses)
        alone = [
            base.response_logps([prompt], [[response]])
            for prompt, group in zip(rollouts.prompts, rollouts.responses, strict=True)
            for response in group
        ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_samples_end_once_or_reach_the_limit(base: Policy) -> None:
    prompts = _medium(base, 5)
    for group in roll_out(base, prompts, 20, torch.Generator().manual_seed(7)).responses:
        for ids in group:
            assert (
                ids.index(Tokenizer.END) == len(ids) - 1
                if Tokenizer.END in ids
                else len(ids) == MAX_ANSWER_TOKENS
            )

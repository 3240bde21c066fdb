"""Utilities against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from promptgps_service.acquisition.utility import TIE, UTILITIES, Aim, mixed_probability, utility
from promptgps_service.model.posterior import BetaPosterior, LogitNormal

from tests.acquisition.fields import certain

LUCK = torch.tensor([0.5], dtype=torch.float64)


def value(posterior: BetaPosterior | LogitNormal, aim: Aim, luck: torch.Tensor = LUCK) -> float:
    return float(utility(posterior, aim, luck)[0])


@pytest.mark.parametrize(
    ("gamma", "rollouts", "expected"),
    [
        (0.5, 2, 0.5),  # 1 − 1/4 − 1/4
        (0.5, 8, 0.9921875),  # 1 − 2/256
        (0.25, 4, 0.6796875),  # 1 − 1/256 − 81/256
        (0.1, 3, 0.27),  # 1 − 0.001 − 0.729
        (0.1, 1, 0.18),  # a group of one is measured as a pair: 2 · 0.1 · 0.9
        (0.0, 8, 0.0),
        (1.0, 8, 0.0),
    ],
)
def test_the_chance_of_a_mixed_group(gamma: float, rollouts: int, expected: float) -> None:
    chance = mixed_probability(torch.tensor(gamma, dtype=torch.float64), rollouts)
    assert float(chance) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("aim", "gamma", "expected"),
    [
        (
            Aim("mixed", 4, bonus=0.5),
            0.25,
            0.6796875,
        ),  # nothing is uncertain: the bonus adds nothing
        (Aim("information", 8), 0.2, 0.16),  # 0.2 · 0.8
        (Aim("target", 8), 0.3, -0.04),  # −(0.3 − 0.5)²
        (Aim("target", 8, target=0.7), 0.3, -0.16),
        (Aim("thompson", 8, target=0.4), 0.3, -0.01),
        (Aim("band", 8), 0.3, 1.0),
        (Aim("band", 8), 0.1, 0.0),
        (Aim("band", 8, band=(0.05, 0.15)), 0.1, 1.0),
        (Aim("uniform", 8), 0.3, 0.0),
    ],
)
def test_where_the_success_rate_is_known(aim: Aim, gamma: float, expected: float) -> None:
    # 1e9 trials leave a spread of 1e-5
    assert value(certain(gamma), aim) == pytest.approx(expected, abs=2e-4)


def test_the_bonus_counts_standard_deviations_of_the_utility() -> None:
    # γ ~ Beta(1, 1), v = γ(1 − γ): E v = 1/6, E v² = 1/30, SD v = sqrt(1/30 − 1/36) = 0.0745356
    flat = BetaPosterior(torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    plain, double = (value(flat, Aim("information", 8, bonus=bonus)) for bonus in (0.0, 2.0))
    assert plain == pytest.approx(1 / 6, abs=0.002)
    # nine nodes stand for a flat density
    assert double - plain == pytest.approx(2 * 0.0745356, abs=0.02)


def test_the_mixed_utility_of_a_flat_posterior() -> None:
    # E m = 1 − 2/(n + 1) for γ ~ Beta(1, 1): 7/9 at n = 8
    flat = BetaPosterior(torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    assert value(flat, Aim("mixed", 8, bonus=0.0)) == pytest.approx(7 / 9, abs=0.01)


def test_without_a_bonus_the_surer_of_two_prompts_at_a_half_is_worth_more() -> None:
    mean = torch.tensor([0.5, 0.5], dtype=torch.float64)
    weight = torch.tensor([2.0, 200.0], dtype=torch.float64)
    values = utility(
        BetaPosterior(mean * weight, mean * weight), Aim("mixed", 8, bonus=0.0), LUCK.expand(2)
    )
    assert float(values[0]) < float(values[1]) <= 0.9921875


@pytest.mark.parametrize(
    ("level", "theta"), [(0.5, 0.0), (0.8413447460685429, 1.0), (0.022750131948179195, -2.0)]
)
def test_thompson_draws_the_quantile_of_its_luck(level: float, theta: float) -> None:
    # θ ~ N(0.3, 0.6²): the level Φ(z) gives γ = sigmoid(0.3 + 0.6 z)
    posterior = LogitNormal(
        torch.tensor([0.3], dtype=torch.float64), torch.tensor([0.36], dtype=torch.float64)
    )
    gamma = 1 / (1 + math.exp(-(0.3 + 0.6 * theta)))
    luck = torch.tensor([level], dtype=torch.float64)
    assert value(posterior, Aim("thompson", 8), luck) == pytest.approx(
        -((gamma - 0.5) ** 2), abs=TIE
    )


def test_the_variance_of_binary_rewards_is_the_information_to_the_last_bit() -> None:
    random = torch.Generator().manual_seed(2)
    posterior = LogitNormal(*torch.rand(2, 50, generator=random, dtype=torch.float64).unbind())
    luck = torch.full((50,), 0.5, dtype=torch.float64)
    for softness in (0.0, torch.zeros(50, dtype=torch.float64)):
        variance = utility(posterior, Aim("variance", 8), luck, softness)
        assert torch.equal(variance, utility(posterior, Aim("information", 8), luck))


def test_softness_takes_its_share_of_the_variance_and_of_its_spread() -> None:
    flat = BetaPosterior(torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    softness = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    values = utility(flat, Aim("variance", 8, bonus=1.0), LUCK.expand(3), softness)
    assert float(values[1]) == pytest.approx(0.75 * float(values[0]), abs=TIE)
    assert float(values[2]) == 0.0
    others = utility(flat, Aim("mixed", 8), LUCK.expand(3), softness)
    # no other utility knows of it
    assert others.tolist() == pytest.approx([float(others[0])] * 3, abs=TIE)


def test_thompson_prefers_a_prompt_as_often_as_its_posterior_says() -> None:
    # Prompt 0 is at 0.5 for sure; prompt 1 is Beta(1, 1),
    # nearer to the target than 0.1 with probability 0.2.
    luck = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    flat = BetaPosterior(
        torch.ones(10_000, dtype=torch.float64), torch.ones(10_000, dtype=torch.float64)
    )
    values = utility(flat, Aim("thompson", 8), luck)
    assert float((values > -(0.1**2)).double().mean()) == pytest.approx(0.2, abs=0.001)


@pytest.mark.parametrize("name", sorted(UTILITIES))
def test_every_utility_is_finite_at_the_ends(name: str) -> None:
    mu = torch.tensor([-800.0, 800.0, 0.0, 0.0], dtype=torch.float64)
    variance = torch.tensor([1e-12, 1e-12, 1e4, 0.0], dtype=torch.float64)
    values = utility(
        LogitNormal(mu, variance), Aim(name, 4096), torch.tensor([1e-16, 0.5, 0.5, 0.5])
    )
    assert values.dtype == torch.float64
    assert torch.isfinite(values).all()


@pytest.mark.parametrize("name", sorted(UTILITIES))
def test_a_prompts_utility_does_not_depend_on_the_others(name: str) -> None:
    random = torch.Generator().manual_seed(1)
    posterior = LogitNormal(
        torch.randn(64, generator=random, dtype=torch.float64),
        torch.rand(64, generator=random, dtype=torch.float64),
    )
    luck = torch.rand(64, generator=random, dtype=torch.float64)
    whole = utility(posterior, Aim(name, 8), luck)
    alone = torch.cat(
        [
            utility(posterior.take(torch.tensor([row])), Aim(name, 8), luck[row : row + 1])
            for row in range(64)
        ]
    )
    torch.testing.assert_close(whole, alone, rtol=0, atol=TIE)

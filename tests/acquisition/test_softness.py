"""Softness: how much of γ (1 − γ) is not variance of the reward, from groups of rewards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from promptgps_service.acquisition.softness import Groups, softness

rewards = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def groups(*told: tuple[int, list[float]]) -> Groups:
    """Groups of rewards by row."""
    row = np.array([row for row, _ in told], np.int64)
    count, total, soft = (
        np.array([float(sum(of(r) for r in own)) for _, own in told])
        for of in (lambda _: 1.0, lambda r: r, lambda r: r * (1 - r))
    )
    return Groups(row, count, total, soft)


def beta_groups(
    row: int, concentration: float, gamma: NDArray[np.float64], seed: int
) -> list[tuple[int, list[float]]]:
    """Groups of eight Beta(cγ, c(1 − γ)) rewards, of variance γ (1 − γ) / (1 + c).

    Their softness is c / (1 + c).
    """
    random = np.random.default_rng(seed)
    return [(row, list(random.beta(concentration * g, concentration * (1 - g), 8))) for g in gamma]


def test_one_group_by_hand() -> None:
    # r(1 − r): 1/4, 1/4, 0, 0, mean 1/8. Squares around 1/2:
    # 1/2 over 3 degrees of freedom, 1/6. 1/8 of 7/24 is 3/7.
    found = softness(groups((1, [0.5, 0.5, 1.0, 0.0])), 3)
    # a prompt never tried has the softness of the others
    assert found == pytest.approx([3 / 7] * 3)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.lists(st.sampled_from([0.0, 1.0]), max_size=8)), max_size=10
    )
)
def test_binary_rewards_have_none_at_all(told: list[tuple[int, list[float]]]) -> None:
    assert softness(groups(*told), 4).tolist() == [0.0] * 4


@given(st.lists(st.tuples(st.integers(0, 3), rewards), max_size=10))
def test_it_is_a_share(told: list[tuple[int, list[float]]]) -> None:
    found = softness(groups(*told), 4)
    assert ((found >= 0) & (found <= 1 + 1e-12)).all()


def test_rewards_that_are_always_the_same_have_no_variance() -> None:
    assert softness(groups((0, [0.3] * 8), (0, [0.9] * 8)), 1) == pytest.approx([1.0])


def test_single_rewards_say_nothing() -> None:
    assert softness(groups((0, [0.3]), (1, [0.5])), 2).tolist() == [0.0, 0.0]
    assert softness(groups((0, [0.3]), (0, [0.5, 0.5, 1.0, 0.0])), 1) == pytest.approx([3 / 7])


@pytest.mark.parametrize("concentration", [0.2, 1.0, 6.0])
def test_it_is_found_though_the_policy_moves(concentration: float) -> None:
    """Sums over all visits as if γ stood still would take its rise for variance of the reward."""
    gamma = np.linspace(0.1, 0.9, 600)
    found = softness(groups(*beta_groups(0, concentration, gamma, seed=1)), 1)
    assert found == pytest.approx([concentration / (1 + concentration)], abs=0.03)


def test_a_prompt_goes_from_the_pools_softness_to_its_own_as_it_is_seen() -> None:
    rest = [
        group for row in range(1, 40) for group in beta_groups(row, 9.0, np.full(4, 0.5), seed=row)
    ]
    found = [
        softness(groups(*rest, *beta_groups(0, 0.25, np.full(count, 0.5), seed=0)), 40)[0]
        for count in (0, 1, 4, 40)
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(0.9, abs=0.03)
    assert found[-1] == pytest.approx(0.2, abs=0.05)

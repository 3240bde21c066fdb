"""The batch: exact in size, best of what is free, never with what is forbidden.

It is filled up in a stated order.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from promptgps_service.acquisition.choose import Choice, Group, TooFew, choose
from promptgps_service.acquisition.reuse import COOLING, FORBIDDEN, FREE, PENDING, RETIRED
from promptgps_service.acquisition.utility import UTILITIES, Aim, utility

from tests.acquisition.fields import field, rules

TIERS = (FREE, COOLING, PENDING, RETIRED, FORBIDDEN)


def tiers(**counts: int) -> torch.Tensor:
    names = dict(zip(("free", "cooling", "pending", "retired", "forbidden"), TIERS, strict=True))
    values = [names[name] for name, count in counts.items() for _ in range(count)]
    return torch.tensor(values, dtype=torch.int8)


def drawn_tiers(tier: torch.Tensor, choice: Choice) -> list[int]:
    return sorted(tier[choice.rows].tolist())


@pytest.mark.parametrize(
    "name", sorted(set(UTILITIES) - {"uniform", "thompson"})
)  # these depend on luck
def test_without_a_candidate_factor_the_best_of_the_pool_are_taken(name: str) -> None:
    pool = field(200)
    aim = Aim(name, rollouts=8)
    choice = choose(pool, rules(aim), 20, seed=3)
    values = utility(pool.posterior, aim, torch.zeros(200, dtype=torch.float64))
    chosen = values[choice.rows]
    left = values[[row for row in range(200) if row not in choice.rows.tolist()]]
    assert float(chosen.min()) >= float(left.max())


def test_with_a_candidate_factor_of_one_the_utility_has_nothing_to_choose() -> None:
    pool = field(400)
    by_mixed = choose(pool, rules(candidate_factor=1), 40, seed=3)
    by_target = choose(pool, rules(Aim("target", 8), candidate_factor=1), 40, seed=3)
    assert sorted(by_mixed.rows.tolist()) == sorted(by_target.rows.tolist())


def test_candidates_raise_the_utility_of_a_batch_and_the_whole_pool_raises_it_most() -> None:
    pool = field(2_000)
    values = utility(pool.posterior, Aim("mixed", 8), torch.zeros(2_000, dtype=torch.float64))
    means = [
        torch.stack(
            [
                values[choose(pool, rules(candidate_factor=factor), 20, seed).rows].mean()
                for seed in range(20)
            ]
        ).mean()
        for factor in (1, 2, 8, None)
    ]
    assert means == sorted(means)


def test_the_monitors_share_is_kept_on_the_average() -> None:
    pool = field(300)
    # 2,000 selections of 7 picks with a share of 5 %: 0.35 a
    # selection, between 0 and 1 by a fair coin of 35 %.
    rule = rules(uniform_share=0.05, candidate_factor=8)
    flags = [int(choose(pool, rule, 7, seed).uniform.sum()) for seed in range(2_000)]
    assert set(flags) == {0, 1}
    assert abs(sum(flags) / 2_000 - 0.35) < 4 * (0.35 * 0.65 / 2_000) ** 0.5  # four standard errors


def test_without_a_uniform_share_no_pick_is_uniform_and_with_all_of_it_every_one_is() -> None:
    pool = field(50)
    assert not choose(pool, rules(uniform_share=0.0), 20, seed=1).uniform.any()
    assert choose(pool, rules(uniform_share=1.0), 20, seed=1).uniform.all()


def test_what_is_kept_back_is_not_drawn_while_the_free_suffice() -> None:
    tier = tiers(free=10, cooling=10, pending=10, retired=10, forbidden=10)
    for seed in range(20):
        choice = choose(
            field(50, tier=tier), rules(uniform_share=0.3, candidate_factor=8), 10, seed
        )
        assert drawn_tiers(tier, choice) == [FREE] * 10
        assert choice.warnings == []


@pytest.mark.parametrize(
    ("size", "expected", "warned"),
    [
        (5, [FREE] * 4 + [COOLING], ["1 "]),
        (7, [FREE] * 4 + [COOLING] * 3, ["3 "]),
        (9, [FREE] * 4 + [COOLING] * 3 + [PENDING] * 2, ["3 ", "2 "]),
        (12, [FREE] * 4 + [COOLING] * 3 + [PENDING] * 3 + [RETIRED] * 2, ["3 ", "3 ", "2 "]),
    ],
)
def test_a_short_pool_is_filled_with_cooling_then_pending_then_retired(
    size: int, expected: list[int], warned: list[str]
) -> None:
    tier = tiers(forbidden=5, retired=2, free=4, pending=3, cooling=3)
    choice = choose(field(17, tier=tier), rules(uniform_share=0.5), size, seed=5)
    assert drawn_tiers(tier, choice) == expected
    assert [warning[:2] for warning in choice.warnings] == warned
    assert not choice.uniform.any()  # a fill is no fair sample: the monitor must not count it


def test_a_fill_takes_what_was_drawn_longest_ago() -> None:
    tier = tiers(free=2, cooling=8)
    pool = replace(
        field(10, tier=tier), last_draw=torch.tensor([-1, -1, 13, 9, 12, 7, 11, 8, 14, 10])
    )
    choice = choose(pool, rules(), 5, seed=1)
    assert sorted(choice.rows.tolist()) == [0, 1, 3, 5, 7]


def test_fewer_prompts_than_were_asked_for_is_said_with_their_number() -> None:
    tier = tiers(free=3, cooling=2, pending=1, retired=1, forbidden=9)
    with pytest.raises(TooFew) as refused:
        choose(field(16, tier=tier), rules(), 8, seed=1)
    assert refused.value.available == 7
    assert len(choose(field(16, tier=tier), rules(), 7, seed=1).rows) == 7


def test_a_group_that_is_too_small_is_named() -> None:
    small = torch.arange(20) < 3
    groups = (Group("maths", 0.5, 0, small), Group("code", 0.5, 0, ~small))
    with pytest.raises(TooFew, match="maths"):
        choose(field(20, groups=groups), rules(), 8, seed=1)
    assert len(choose(field(20, groups=groups), rules(), 6, seed=1).rows) == 6


def test_groups_get_their_shares_and_what_is_in_no_group_gets_nothing() -> None:
    row = torch.arange(60)
    groups = (Group("a", 0.75, 0, row < 20), Group("b", 0.25, 0, (row >= 20) & (row < 40)))
    choice = choose(
        field(60, groups=groups), rules(uniform_share=0.2, candidate_factor=2), 12, seed=1
    )
    assert int((choice.rows < 20).sum()) == 9
    assert int(((choice.rows >= 20) & (choice.rows < 40)).sum()) == 3


def test_the_order_of_a_batch_says_nothing_about_utility() -> None:
    pool = field(400)
    values = utility(pool.posterior, Aim("mixed", 8), torch.zeros(400, dtype=torch.float64))
    first = 0.0
    last = 0.0
    for seed in range(200):
        rows = choose(pool, rules(candidate_factor=4, uniform_share=0.25), 10, seed).rows
        first = first + float(values[rows[0]])
        last = last + float(values[rows[-1]])
    spread = float(values.std()) * (2 / 200) ** 0.5
    assert abs(first - last) / 200 < 4 * spread  # four standard errors of a difference of two means


def test_diversity_spreads_the_batch_and_costs_utility() -> None:
    pool = field(500, dimension=8)
    aim = Aim("information", 8)
    values = utility(pool.posterior, aim, torch.zeros(500, dtype=torch.float64))
    plain, spread = (
        choose(pool, rules(aim, diversity=weight), 16, seed=2).rows for weight in (0.0, 5.0)
    )
    assert pool.embedding is not None
    dispersion = [
        float(torch.cdist(pool.embedding[rows], pool.embedding[rows]).mean())
        for rows in (plain, spread)
    ]
    assert dispersion[1] > dispersion[0] + 0.02
    assert float(values[spread].sum()) < float(values[plain].sum())

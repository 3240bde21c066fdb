"""Laws of the choice, over random pools, rules and seeds."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from promptgps_service.acquisition.choose import Choice, Field, Group, Rules, TooFew, choose
from promptgps_service.acquisition.quotas import apportion
from promptgps_service.acquisition.randomness import THOMPSON, uniforms
from promptgps_service.acquisition.reuse import FORBIDDEN, FREE
from promptgps_service.acquisition.utility import TIE, UTILITIES, Aim, utility
from scipy import stats

from tests.acquisition.fields import field, permuted, rules

seeds = st.integers(0, 2**53 - 1)
all_rules = st.builds(
    Rules,
    aim=st.builds(Aim, utility=st.sampled_from(sorted(UTILITIES)), rollouts=st.integers(1, 64)),
    candidate_factor=st.none() | st.integers(1, 20),
    uniform_share=st.floats(0, 1),
    diversity=st.sampled_from([0.0, 0.0, 0.1, 1.0, 30.0]),
)


@st.composite
def pools(draw: st.DrawFn) -> Field:
    count = draw(st.integers(1, 60))
    tier = draw(st.lists(st.sampled_from([0, 0, 0, 1, 2, 3, 4]), min_size=count, max_size=count))
    made = field(
        count,
        draw(seeds),
        tier=torch.tensor(tier, dtype=torch.int8),
        anchors=draw(st.integers(0, 5)),
    )
    if draw(st.booleans()):  # some were never drawn, retired ones too
        made = replace(made, last_draw=torch.where(made.last_draw % 3 == 0, -1, made.last_draw))
    if draw(st.booleans()):  # and many are worth the same
        made = replace(made, posterior=made.posterior.take(torch.zeros(count, dtype=torch.long)))
    if draw(st.booleans()):
        member = torch.tensor(draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)))
        made = replace(
            made,
            groups=tuple(
                Group(name, share, issued, member == index)
                for index, (name, share, issued) in enumerate(
                    [("a", 0.5, 3), ("b", 0.3, 1), ("c", 0.2, 9)]
                )
            ),
        )
    return made


def answer(pool: Field, rule: Rules, size: int, seed: int) -> Choice | None:
    try:
        return choose(pool, rule, size, seed)
    except TooFew:
        return None


@given(pools(), all_rules, st.integers(1, 40), seeds)
@settings(max_examples=300)
def test_a_batch_is_exact_distinct_and_allowed(
    pool: Field, rule: Rules, size: int, seed: int
) -> None:
    choice = answer(pool, rule, size, seed)
    if choice is None:
        wanted = [size]
        available = [int((pool.tier != FORBIDDEN).sum())]
        if pool.groups:
            wanted = apportion(
                [g.share for g in pool.groups], [g.issued for g in pool.groups], size
            )
            available = [
                int(((pool.tier != FORBIDDEN) & group.rows).sum()) for group in pool.groups
            ]
        assert any(had < need for had, need in zip(available, wanted, strict=True))
        return
    rows = choice.rows.tolist()
    assert len(rows) == len(set(rows)) == size == choice.uniform.numel()
    assert FORBIDDEN not in pool.tier[choice.rows]
    if not pool.groups and int((pool.tier == FREE).sum()) >= size:
        assert set(pool.tier[choice.rows].tolist()) == {FREE}
        assert choice.warnings == []
    for worse in range(
        1, FORBIDDEN
    ):  # nobody is taken from a tier while a better one has prompts left
        if not pool.groups and worse in pool.tier[choice.rows]:
            left = set((pool.tier < worse).nonzero()[:, 0].tolist()) - set(rows)
            assert left == set()


@given(pools(), all_rules, st.integers(1, 40), seeds, st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_permuting_the_pool_permutes_the_answer(
    pool: Field, rule: Rules, size: int, seed: int, random: object
) -> None:
    order = list(range(pool.identity.numel()))
    random.shuffle(order)  # type: ignore[attr-defined]
    place = torch.tensor(order)
    before = answer(pool, rule, size, seed)
    after = answer(permuted(pool, place), rule, size, seed)
    assert (before is None) == (after is None)
    if before is not None and after is not None:
        assert place[after.rows].tolist() == before.rows.tolist()
        assert after.uniform.tolist() == before.uniform.tolist()


@given(pools(), all_rules, st.integers(1, 40), seeds)
def test_the_same_seed_gives_the_same_answer(
    pool: Field, rule: Rules, size: int, seed: int
) -> None:
    first = answer(pool, rule, size, seed)
    second = answer(pool, rule, size, seed)
    if first is not None and second is not None:
        assert first.rows.tolist() == second.rows.tolist()
        assert first.uniform.tolist() == second.uniform.tolist()
        assert first.warnings == second.warnings


@given(seeds, seeds)
def test_another_seed_gives_another_answer(first: int, second: int) -> None:
    pool = field(500)
    rule = rules(candidate_factor=4, uniform_share=0.1)
    same = (
        choose(pool, rule, 20, first).rows.tolist() == choose(pool, rule, 20, second).rows.tolist()
    )
    assert same == (first == second)


@given(st.integers(1, 80), st.integers(1, 80), seeds, st.sampled_from(sorted(UTILITIES)))
def test_without_diversity_the_batch_is_the_top_of_the_utility(
    count: int, size: int, seed: int, name: str
) -> None:
    size = min(size, count)
    aim = Aim(name, 8)
    pool = field(count, seed)
    values = utility(pool.posterior, aim, uniforms(pool.identity, seed, THOMPSON))
    chosen = choose(pool, rules(aim), size, seed).rows
    best = values.topk(size).values
    torch.testing.assert_close(
        values[chosen].sort(descending=True).values, best, rtol=0, atol=TIE / 2
    )


@pytest.mark.parametrize("size", [1, 5, 29])
def test_an_all_uniform_batch_is_uniform_over_the_free(size: int) -> None:
    # 6,000 selections of 30 free prompts among 40; a fair choice fails this with probability 1e-6.
    tier = torch.tensor([0] * 30 + [1] * 5 + [4] * 5, dtype=torch.int8)
    pool = field(40, tier=tier)
    rule = rules(uniform_share=1.0)
    rounds = 6_000
    counts: Counter[int] = Counter()
    for seed in range(rounds):
        counts.update(choose(pool, rule, size, seed).rows.tolist())
    assert max(counts) < 30
    expected = rounds * size / 30
    # Draws without replacement within a selection: the
    # counts' variance is smaller by (30 − size) / 29.
    statistic = (
        sum((counts[row] - expected) ** 2 for row in range(30)) / expected / ((30 - size) / 29)
    )
    assert stats.chi2.sf(statistic, 29) > 1e-6
    assert stats.chi2.cdf(statistic, 29) > 1e-6  # nor is it more even than chance


def test_every_place_of_a_batch_is_uniform_too() -> None:
    pool = field(20)
    rule = rules(uniform_share=1.0)
    rounds = 6_000
    counts = np.zeros((3, 20))
    for seed in range(rounds):
        counts[np.arange(3), choose(pool, rule, 3, seed).rows.numpy()] += 1
    for place in range(3):
        assert stats.chisquare(counts[place]).pvalue > 1e-6


@given(
    st.lists(st.integers(1, 1_000), min_size=1, max_size=12),
    st.lists(st.integers(1, 40), min_size=1, max_size=40),
)
@settings(max_examples=300)
def test_totals_stay_within_one_of_their_shares_after_every_batch(
    weights: list[int], sizes: list[int]
) -> None:
    shares = [weight / sum(weights) for weight in weights]
    issued = [0] * len(shares)
    for size in sizes:
        more = apportion(shares, issued, size)
        assert sum(more) == size
        assert min(more) >= 0
        issued = [had + new for had, new in zip(issued, more, strict=True)]
        for share, had in zip(shares, issued, strict=True):
            assert abs(share * sum(issued) - had) < 1


@given(
    st.lists(st.tuples(st.integers(1, 100), st.integers(0, 10_000)), min_size=1, max_size=8),
    st.integers(1, 300),
)
def test_any_history_is_taken(groups: list[tuple[int, int]], size: int) -> None:
    shares = [weight / sum(w for w, _ in groups) for weight, _ in groups]
    given_draws = apportion(shares, [issued for _, issued in groups], size)
    assert sum(given_draws) == size
    assert min(given_draws) >= 0

"""Reuse: whoever drew, the tiers say truly who may be drawn.

Cool-downs hold while free prompts suffice.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from promptgps_service.acquisition.choose import choose
from promptgps_service.acquisition.reuse import (
    COOLING,
    FORBIDDEN,
    FREE,
    PENDING,
    RETIRED,
    Reuse,
    Traffic,
    tiers,
)

from tests.acquisition.fields import field, rules

NEVER = -(2**60)


def fresh(count: int) -> Traffic:
    return Traffic(
        torch.full((count,), NEVER), torch.full((count,), -1), torch.zeros(count, dtype=torch.int32)
    )


def drawn(traffic: Traffic, rows: torch.Tensor, clock: int, draws: int) -> None:
    traffic.last_clock[rows] = clock
    traffic.last_draw[rows] = torch.arange(rows.numel()) + draws


@given(
    count=st.integers(8, 80),
    cooldown=st.integers(0, 12),
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=30),
    seed=st.integers(0, 2**32),
    stride=st.integers(1, 3),
)
@settings(max_examples=150)
def test_a_cooldown_holds_while_free_prompts_suffice(
    count: int, cooldown: int, sizes: list[int], seed: int, stride: int
) -> None:
    traffic = fresh(count)
    reuse = Reuse(cooldown, pending_steps=0)
    pool = field(count, seed)
    last: dict[int, int] = {}
    draws = 0
    for turn, size in enumerate(sizes):
        clock = turn * stride
        tier = tiers(traffic, reuse, clock=clock, draws=draws, retired=None, allowed=None)
        resting = (
            {row for row, before in last.items() if clock - before <= cooldown}
            if cooldown
            else set()
        )
        assert set((tier == COOLING).nonzero()[:, 0].tolist()) == resting
        chosen = choose(
            replace(pool, tier=tier, last_draw=traffic.last_draw), rules(), size, seed + turn
        )
        rows = chosen.rows.tolist()
        if count - len(resting) >= size:
            assert resting.isdisjoint(rows)
            assert chosen.warnings == []
        else:
            assert chosen.warnings
        drawn(traffic, chosen.rows, clock, draws)
        draws += size
        last.update(dict.fromkeys(rows, clock))


@given(
    count=st.integers(1, 200),
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=60),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=100)
def test_the_default_cooldown_is_a_quarter_of_the_pool_and_at_most_thirty_steps(
    count: int, sizes: list[int], seed: int
) -> None:
    traffic = fresh(count)
    reuse = Reuse(None, pending_steps=0)
    pool = field(count, seed)
    history: list[tuple[int, int]] = []  # row and clock, in the order of the draws
    for clock, wanted in enumerate(sizes):
        size = min(wanted, count)
        tier = tiers(traffic, reuse, clock=clock, draws=len(history), retired=None, allowed=None)
        quarter = history[len(history) - count // 4 :] if count // 4 <= len(history) else history
        resting = {row for row, step in quarter if clock - step <= 30} if count // 4 else set()
        assert set((tier == COOLING).nonzero()[:, 0].tolist()) == resting
        assert len(resting) <= count // 4
        rows = choose(
            replace(pool, tier=tier, last_draw=traffic.last_draw), rules(), size, seed + clock
        ).rows
        drawn(traffic, rows, clock, len(history))
        history += [(int(row), clock) for row in rows]


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 2), st.booleans(), st.booleans()),
        min_size=1,
        max_size=30,
    ),
    st.integers(0, 6),
    st.integers(0, 6),
    st.integers(20, 30),
)
def test_the_worst_that_applies_counts(
    prompts: list[tuple[int, int, bool, bool]], cooldown: int, pending_steps: int, clock: int
) -> None:
    columns = list(zip(*prompts, strict=True))
    traffic = Traffic(
        torch.tensor(columns[0]),
        torch.arange(len(prompts)),
        torch.tensor(columns[1], dtype=torch.int32),
    )
    retired = torch.tensor(columns[2])
    allowed = torch.tensor(columns[3])
    found = tiers(
        traffic,
        Reuse(cooldown, pending_steps),
        clock=clock,
        draws=len(prompts),
        retired=retired,
        allowed=allowed,
    )
    for tier, (last, unanswered, gone, mine) in zip(found.tolist(), prompts, strict=True):
        expected = FREE
        if cooldown and clock - last <= cooldown:
            expected = COOLING
        if unanswered and clock - last <= pending_steps:
            expected = PENDING
        if gone:
            expected = RETIRED
        if not mine:
            expected = FORBIDDEN
        assert tier == expected

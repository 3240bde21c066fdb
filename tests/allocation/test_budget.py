"""Laws of the allocation: exact totals, bounds, optimality, monotony, equivariance."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from promptgps_service.allocation.budget import Plan, allocate
from promptgps_service.allocation.curves import Curves

from tests.allocation.beliefs import (
    CONCAVE,
    OBJECTIVES,
    certain,
    curves,
    majorant,
    many_prompts,
    prompts,
    rivals,
)

ROUNDING = 1e-9


def feasible(data: st.DataObject, count: int, most: int) -> tuple[int, int, int]:
    """(total, minimum, maximum) that can be met."""
    minimum = data.draw(st.integers(0, 2), "minimum")
    maximum = data.draw(st.integers(minimum, most), "maximum")
    return data.draw(st.integers(count * minimum, count * maximum), "total"), minimum, maximum


def table(given: Curves, most: int) -> np.ndarray:
    """V of every prompt for 0 … most samples, no vote worse than one of fewer samples."""
    return np.maximum.accumulate(given.values(np.arange(len(given)), 0, most), axis=1)


def best(values: np.ndarray, total: int, minimum: int, maximum: int) -> float:
    """The largest sum of values over all ways to spread the total."""
    ways = itertools.product(range(minimum, maximum + 1), repeat=len(values) - 1)
    splits = ((*way, total - sum(way)) for way in ways)
    found = (
        sum(values[row, b] for row, b in enumerate(split))
        for split in splits
        if minimum <= split[-1] <= maximum
    )
    return max(found)


def spread(given: Curves, total: int, minimum: int, maximum: int) -> Plan:
    plan = allocate(given, total=total, minimum=minimum, maximum=maximum)
    assert plan.samples.sum() == total
    assert plan.samples.min() >= minimum
    assert plan.samples.max() <= maximum
    return plan


@given(data=st.data(), moments=many_prompts, objective=st.sampled_from(OBJECTIVES), rival=rivals)
def test_the_total_is_exact_the_bounds_are_kept_and_the_value_is_that_of_the_samples(
    data: st.DataObject, moments: list[tuple[float, float]], objective: str, rival: float
) -> None:
    given = curves(moments, objective, rival)
    total, minimum, maximum = feasible(data, len(moments), 60)
    plan = spread(given, total, minimum, maximum)
    values = np.maximum.accumulate(
        given.values(np.arange(len(moments)), minimum, maximum - minimum), axis=1
    )
    own = values[np.arange(len(moments)), plan.samples - minimum]
    assert plan.value == pytest.approx(own.mean(), abs=ROUNDING)
    assert 0 <= plan.uniform <= 1
    assert plan.next_gain >= 0


@given(
    data=st.data(),
    moments=prompts.filter(lambda found: len(found) <= 4),
    objective=st.sampled_from(CONCAVE),
)
def test_greedy_is_as_good_as_the_best_of_all_ways(
    data: st.DataObject, moments: list[tuple[float, float]], objective: str
) -> None:
    given = curves(moments, objective)
    total, minimum, maximum = feasible(data, len(moments), 6)
    plan = spread(given, total, minimum, maximum)
    assert plan.value * len(moments) == pytest.approx(
        best(table(given, 6), total, minimum, maximum), abs=ROUNDING
    )
    assert plan.value >= plan.uniform - ROUNDING


@given(data=st.data(), moments=prompts.filter(lambda found: len(found) <= 4), rival=rivals)
def test_a_vote_loses_at_most_one_prompts_distance_from_its_majorant(
    data: st.DataObject, moments: list[tuple[float, float]], rival: float
) -> None:
    given = curves(moments, "majority_vote", rival)
    total = data.draw(st.integers(0, 6 * len(moments)))
    plan = spread(given, total, 0, 6)
    values = table(given, 6)
    gap = max(float((majorant(curve) - curve).max()) for curve in values)
    assert plan.value * len(moments) >= best(values, total, 0, 6) - gap - ROUNDING


@given(data=st.data(), moments=many_prompts, objective=st.sampled_from(OBJECTIVES), rival=rivals)
def test_more_budget_never_lowers_the_value_and_the_next_gain_is_what_it_brings(
    data: st.DataObject, moments: list[tuple[float, float]], objective: str, rival: float
) -> None:
    given = curves(moments, objective, rival)
    total, minimum, maximum = feasible(data, len(moments), 40)
    assume(total < len(moments) * maximum)
    less, more = (spread(given, asked, minimum, maximum) for asked in (total, total + 1))
    gained = (more.value - less.value) * len(moments)
    assert gained >= -ROUNDING
    if objective in CONCAVE:
        assert gained == pytest.approx(less.next_gain, abs=1e-8)


@given(data=st.data(), moments=many_prompts, objective=st.sampled_from(OBJECTIVES))
def test_prompts_in_another_order_get_the_same_samples(
    data: st.DataObject, moments: list[tuple[float, float]], objective: str
) -> None:
    moments = list(dict.fromkeys((round(mu, 1), round(sd, 1)) for mu, sd in moments))
    order = data.draw(st.permutations(range(len(moments))))
    total, minimum, maximum = feasible(data, len(moments), 30)
    straight = spread(curves(moments, objective, 0.4), total, minimum, maximum)
    other = spread(curves([moments[row] for row in order], objective, 0.4), total, minimum, maximum)
    assert other.value == pytest.approx(straight.value, abs=ROUNDING)
    assert other.uniform == pytest.approx(straight.uniform, abs=ROUNDING)
    if straight.next_gain > 0 and objective in CONCAVE:  # else gains may tie, and go by the order
        assert np.abs(other.samples - straight.samples[list(order)]).sum() <= 2


@given(
    count=st.integers(1, 30),
    extra=st.integers(0, 29),
    each=st.integers(0, 20),
    objective=st.sampled_from(CONCAVE),
)
def test_equal_prompts_get_equal_shares(count: int, extra: int, each: int, objective: str) -> None:
    plan = spread(curves([(0.3, 1.2)] * count, objective), count * each + extra % count, 0, 64)
    assert set(plan.samples.tolist()) <= {each, each + 1}
    assert plan.value == pytest.approx(plan.uniform, abs=ROUNDING)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("total", "minimum", "maximum"), [(1, 1, 4), (9, 0, 4), (3, 2, 1)])
def test_what_cannot_be_met_is_refused(
    objective: str, total: int, minimum: int, maximum: int
) -> None:
    with pytest.raises(ValueError, match="cannot have"):
        allocate(curves([(0, 1), (1, 1)], objective), total=total, minimum=minimum, maximum=maximum)


def test_a_sure_prompt_gets_one_sample_and_a_hopeless_one_none() -> None:
    plan = spread(curves(certain(0.999, 0.3, 1e-5)), 12, 0, 64)
    assert plan.samples.tolist() == [1, 11, 0]


def test_a_vote_gives_up_on_prompts_more_often_wrong_and_spends_on_those_near_the_middle() -> None:
    plan = spread(curves(certain(0.3, 0.6, 0.95), "majority_vote"), 40, 0, 64)
    assert plan.samples[0] == 1
    assert plan.samples[1] > 20 > plan.samples[2] >= 3


def test_a_vote_against_scattered_wrong_answers_spends_on_hard_prompts_too() -> None:
    plan = spread(curves(certain(0.3, 0.6, 0.95), "majority_vote", rival=0.1), 40, 0, 64)
    assert plan.samples[0] > plan.samples[1] > plan.samples[2]


def test_the_mean_is_measured_where_it_varies() -> None:
    plan = spread(curves(certain(0.5, 0.9, 0.99), "average"), 900, 0, 4096)
    deviations = np.sqrt([0.25, 0.09, 0.0099])
    assert plan.samples / 900 == pytest.approx(deviations / deviations.sum(), abs=0.01)


def test_curves_are_widened_for_whoever_wants_much() -> None:
    """One prompt takes nearly all: many times what its first sheet holds."""
    plan = spread(curves([*certain(0.002), *[(11.0, 0.0)] * 63]), 1000, 0, 4096)
    assert plan.samples.tolist() == [1000 - 63, *[1] * 63]
    assert plan.value == pytest.approx((1 - 0.998 ** (1000 - 63) + 63) / 64, abs=1e-3)


def test_a_surplus_is_spread_evenly() -> None:
    plan = spread(curves(certain(1 - 1e-9, 1 - 1e-9, 1 - 1e-9, 0.5)), 200, 0, 100)
    assert plan.samples.max() - plan.samples.min() <= 1
    assert plan.next_gain == 0

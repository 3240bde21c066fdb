"""Local draws: batches that are whole and repeatable, and by score better than chance."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from promptgps_client.selector.batch import local_draw, local_id
from promptgps_client.selector.fallback import Fallback, LocalDraws, mixed

kinds = st.sampled_from(["uniform", "scores"])
pools = st.integers(1, 60).flatmap(
    lambda prompts: st.tuples(st.just(prompts), st.integers(1, prompts))
)


@given(
    kinds,
    pools,
    st.integers(0, 5),
    st.integers(1, 16),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9))),
)
def test_a_batch_is_whole_distinct_and_repeatable(
    kind: Fallback, pool: tuple[int, int], seed: int, rollouts: int, told: list[tuple[float, int]]
) -> None:
    prompts, size = pool
    ours = LocalDraws(kind, prompts, size, seed)
    theirs = LocalDraws(kind, prompts, size, seed)
    keys = [f"k{index}" for index in range(prompts)]
    for sequence in range(12):
        drawn = ours.draw(sequence, rollouts)
        assert len(set(drawn)) == size
        assert set(drawn) <= set(range(prompts))
        # the state says it all: whoever takes it over draws the same
        theirs.restore(ours.state(keys.__getitem__), {key: index for index, key in enumerate(keys)})
        assert list(theirs.draw(sequence, rollouts)) == list(drawn)
        ours.learn(sequence, drawn, [ours.predicted(index) for index in drawn])
        for index, (rate, trials) in zip(drawn, told, strict=False):
            ours.report(index, rate * trials, trials)


def test_every_prompt_comes_by_chance() -> None:
    draws = LocalDraws("uniform", 50, 5, 1)
    counts = [0] * 50
    for sequence in range(2000):
        for index in draws.draw(sequence, 8):
            counts[index] += 1
    assert min(counts) > 120  # of 200 expected, with a standard deviation of 13
    assert max(counts) < 280


def test_by_score_the_promising_come_first_the_unknown_in_between_and_the_latest_last() -> None:
    draws = LocalDraws("scores", 8, 1, 0)
    assert draws._rest == 2
    draws.learn(0, [0, 1, 2, 3], [0.5, 0.02, 0.98, 0.9])
    late = LocalDraws("scores", 8, 8, 0)
    late.known = draws.known
    assert late._rest == 0
    order = list(late.draw(100, 8))
    assert order[:2] == [0, 3]
    assert set(order[2:6]) == {4, 5, 6, 7}
    assert set(order[6:]) == {1, 2}
    # what was drawn a moment ago rests
    assert draws.draw(1, 8) != [0]
    assert draws.draw(2, 8) != [0]
    assert draws.draw(3, 8) == [0]


def test_outcomes_move_what_is_known() -> None:
    draws = LocalDraws("scores", 4, 1, 0)
    draws.learn(0, [0], [0.5])
    draws.report(0, 8, 8)
    assert draws.predicted(0) == pytest.approx((4 * 0.5 + 8) / 12)
    draws.report(1, 8, 8)  # never drawn here
    assert draws.predicted(1) is None
    draws.learn(5, [0], [0.4])
    draws.learn(3, [0], [0.9])  # an old batch, read again
    assert draws.predicted(0) == 0.4


def test_by_score_groups_are_mixed_more_often_than_by_chance() -> None:
    luck = Random(0)
    success = [luck.choice([0.01, 0.5, 0.99, 0.99]) for _ in range(400)]
    shares = {}
    for kind in ("uniform", "scores"):
        draws = LocalDraws(kind, 400, 10, 0)  # type: ignore[arg-type]
        worth = []
        for sequence in range(60):
            batch = draws.draw(sequence, 8)
            draws.learn(sequence, batch, [draws.predicted(index) for index in batch])
            for index in batch:
                draws.report(index, sum(luck.random() < success[index] for _ in range(8)), 8)
            worth += [mixed(success[index], 8) for index in batch]
        shares[kind] = sum(worth[300:]) / 300
    assert shares["scores"] > shares["uniform"] + 0.1, shares


@given(
    st.integers(0, 2**53),
    st.integers(0, 16_384),
    st.none() | st.integers(0, 2**53),
    st.none() | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True),
    st.text(min_size=1, max_size=512),
)
def test_the_id_of_a_local_draw_tells_its_prompt(
    sequence: int, position: int, version: int | None, pool: str | None, key: str
) -> None:
    assert local_draw(local_id(sequence, position, version, pool, key)) == (pool, key, version)


@pytest.mark.parametrize("draw_id", ["d1-7", "", "local-1", "local-1-2-3", 7, None])
def test_other_ids_are_the_services(draw_id: object) -> None:
    assert local_draw(draw_id) is None

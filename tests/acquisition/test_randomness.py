"""Counter-based randomness: uniform, repeatable, and dependent on every part of its name."""

from __future__ import annotations

import numpy as np
import torch
from promptgps_service.acquisition.randomness import (
    ORDER,
    SHUFFLE,
    THOMPSON,
    TIES,
    bits,
    coin,
    derive,
    distinct,
    uniforms,
)
from scipy import stats

COUNT = 200_000
CONFIDENCE = 1e-6  # chance that a fair generator fails one of these tests
KNOWN_SEEDS = [7956156453446585, 5407254247699325, 4523145610782829]
KNOWN_BITS = [6903278409257605730, 4666247601993364722, 1942107354766441579, 3668650683547030242]


def identities(kind: str) -> torch.Tensor:
    if kind == "counter":  # the worst case: neighbours differ in one bit
        return torch.arange(COUNT)
    return torch.from_numpy(np.random.default_rng(1).integers(-(2**63), 2**63, COUNT))


def test_every_bit_is_balanced_and_the_sign_is_never_set() -> None:
    bound = stats.norm.isf(CONFIDENCE / 2 / 63) * 0.5 / COUNT**0.5
    for kind in ("counter", "hash"):
        for seed in (0, 1, 2**53 - 1):
            values = bits(identities(kind), seed, ORDER)
            assert int(values.min()) >= 0
            for bit in range(63):
                share = float(((values >> bit) & 1).double().mean())
                assert abs(share - 0.5) < bound, (kind, seed, bit)


def test_neighbouring_identities_seeds_and_streams_are_independent() -> None:
    bound = stats.norm.isf(CONFIDENCE / 2) / COUNT**0.5
    base = uniforms(identities("counter"), 7, ORDER) - 0.5
    others = [
        uniforms(identities("counter") + 1, 7, ORDER),
        uniforms(identities("counter"), 8, ORDER),
        uniforms(identities("counter"), 7, THOMPSON),
        uniforms(identities("counter"), 7, TIES),
        uniforms(identities("counter"), 7, SHUFFLE),
    ]
    for other in others:
        assert abs(float((base * (other - 0.5)).mean()) * 12) < bound


def test_uniforms_are_uniform_on_the_open_interval() -> None:
    values = uniforms(identities("counter"), 5, THOMPSON).numpy()
    assert 0.0 < values.min() <= values.max() < 1.0
    assert stats.kstest(values, "uniform").pvalue > CONFIDENCE


def test_coins_are_uniform_over_seeds() -> None:
    values = np.array([coin(seed, ORDER) for seed in range(20_000)])
    assert stats.kstest(values, "uniform").pvalue > CONFIDENCE


def test_a_prompts_luck_is_its_own() -> None:
    names = identities("hash")
    order = torch.from_numpy(np.random.default_rng(2).permutation(COUNT))
    assert torch.equal(bits(names[order], 3, TIES), bits(names, 3, TIES)[order])
    assert torch.equal(bits(names[:10], 3, TIES), bits(names, 3, TIES)[:10])


def test_a_known_answer_so_that_old_selections_can_be_replayed() -> None:
    assert [derive(0), derive(1, 2, 3), derive(2**53 - 1, 5)] == KNOWN_SEEDS
    assert bits(torch.tensor([0, 1, -1, 2**62]), 11, TIES).tolist() == KNOWN_BITS


def test_derive_depends_on_every_part_and_their_order() -> None:
    seeds = [
        derive(seed, first, second)
        for seed in range(20)
        for first in range(20)
        for second in range(20)
    ]
    assert len(set(seeds)) == 8_000
    assert all(0 <= seed < 2**53 for seed in seeds)
    assert len({derive(1), derive(1, 0), derive(1, 0, 0), derive(0, 1), derive(0, 1, 0)}) == 5


def test_equal_parts_are_no_special_case() -> None:
    assert len({derive(number, number) for number in range(1_000)}) == 1_000
    assert len({derive(number, number, number) for number in range(1_000)}) == 1_000


def test_large_and_negative_parts_are_taken() -> None:
    # −1 is 2^64 − 1
    assert len({derive(2**53 - 1, part) for part in (0, -1, 2**53 - 1, 2**63 - 1, 2**64 - 1)}) == 4


def test_equal_identities_become_distinct_and_the_first_of_them_stays() -> None:
    identity = torch.tensor([5, 7, 5, 0, 5, 7, 0, 9])
    made = distinct(identity)
    assert made.unique().numel() == 8
    assert made[[0, 1, 3, 7]].tolist() == [5, 7, 0, 9]
    assert torch.equal(distinct(made), made)
    assert torch.equal(distinct(identity[:0]), identity[:0])


def test_rows_that_come_later_leave_the_identities_before_them_whenever_they_come() -> None:
    identity = torch.from_numpy(np.random.default_rng(3).integers(0, 40, 200))
    whole = distinct(identity)
    for cut in (0, 1, 77, 199):
        grown = distinct(torch.cat([distinct(identity[:cut]), identity[cut:]]))
        assert torch.equal(grown, whole)


def test_identities_that_differ_already_are_left_alone() -> None:
    identity = identities("hash")
    assert distinct(identity) is identity

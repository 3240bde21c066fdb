"""Exact shares of domains and of pools, whatever the size of the batches."""

from __future__ import annotations

from collections import Counter

import pytest
from promptgps_client.wire import Batch, ChangeRun
from promptgps_service.errors import Invalid
from promptgps_service.flow.context import Context
from promptgps_service.flow.open_run import change_run, describe_run

from tests.flow.driving import add, open_run, report_groups, select

SIZES = [1, 1, 7, 2, 13, 1, 1, 1, 5, 32, 3, 1]
DOMAINS = {"maths": 0.5, "code": 0.3, "logic": 0.2}


def add_domains(context: Context, each: int = 40) -> dict[str, str | None]:
    domains = ["maths", "code", "logic", None] * each
    add(context, len(domains), domains=domains)
    return {f"pool-{number}": domain for number, domain in enumerate(domains)}


def follow(
    context: Context, shares: dict[str, float], group_of: object, sizes: list[int]
) -> Counter[str]:
    drawn: Counter[str] = Counter()
    for size in sizes:
        batch = select(context, size)
        report_groups(context, batch)
        drawn.update(group_of(key) for key in batch.draws.prompt)  # type: ignore[operator]
        assert set(drawn) <= set(shares)
        for group, share in shares.items():
            assert abs(drawn[group] - share * drawn.total()) < 1, (group, drawn)
    return drawn


def test_domains_keep_their_shares_over_any_batches(context: Context) -> None:
    domain_of = add_domains(context)
    open_run(context, selection={"domain_quotas": DOMAINS})
    follow(context, DOMAINS, domain_of.get, SIZES)


def test_domains_of_prompts_that_came_later_count_too(context: Context) -> None:
    add(context, 20, domains=["maths", "code"] * 10)
    open_run(context, selection={"domain_quotas": {"maths": 0.5, "code": 0.5}})
    select(context, 2)
    add(context, 20, first=20, domains=["code", "maths"] * 10)
    late = [f"pool-{n}" for n in range(20, 40)]
    batch = select(context, 10, candidates=late)
    assert Counter(int(key.split("-")[1]) % 2 for key in batch.draws.prompt) == {0: 5, 1: 5}


@pytest.mark.parametrize(
    ("pools", "shares"),
    [
        ([{"pool": "a", "quota": 0.75}, {"pool": "b", "quota": 0.25}], {"a": 0.75, "b": 0.25}),
        ([{"pool": "a", "weight": 3.0}, {"pool": "b", "weight": 1.0}], {"a": 0.75, "b": 0.25}),
        (
            [
                {"pool": "a", "quota": 0.6},
                {"pool": "b", "weight": 3.0},
                {"pool": "c", "weight": 1.0},
            ],
            {"a": 0.6, "b": 0.3, "c": 0.1},
        ),
    ],
)
def test_pools_keep_their_shares_over_any_batches(
    context: Context, pools: list[dict[str, object]], shares: dict[str, float]
) -> None:
    for name in shares:
        add(context, 60, pool=name)
    open_run(context, pools=pools)
    follow(context, shares, lambda key: key.split("-")[0], SIZES)


def test_a_pool_whose_quota_takes_all_leaves_the_others_nothing(context: Context) -> None:
    add(context, 20, pool="a")
    add(context, 20, pool="b")
    open_run(context, pools=[{"pool": "a", "quota": 1.0}, {"pool": "b"}])
    assert {key[0] for key in select(context, 10).draws.prompt} == {"a"}


def test_a_domain_that_runs_out_is_named(context: Context) -> None:
    add_domains(context, each=4)
    open_run(context, selection={"domain_quotas": {"maths": 0.9, "code": 0.1}})
    with pytest.raises(Invalid, match="maths"):
        select(context, 8)
    assert describe_run(context, "run").draws == 0


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        (
            {"pool": "pool", "selection": {"domain_quotas": {"nothing": 1.0}}},
            "selection.domain_quotas",
        ),
        ({"pools": [{"pool": "pool", "quota": 0.5}]}, "pools"),
        ({"pools": [{"pool": "pool", "quota": 0.8}, {"pool": "b", "quota": 0.8}]}, "pools"),
        ({"pools": [{"pool": "pool", "quota": 0.5, "weight": 1.0}, {"pool": "b"}]}, "pools"),
        (
            {
                "pools": [{"pool": "pool", "weight": 1.0}],
                "selection": {"domain_quotas": {"maths": 1.0}},
            },
            "pools",
        ),
    ],
)
def test_shares_that_contradict_themselves_are_refused(
    context: Context, settings: dict[str, object], field: str
) -> None:
    add_domains(context, each=4)
    add(context, 4, pool="b")
    with pytest.raises(Invalid) as refused:
        open_run(context, **settings)
    assert refused.value.faults[0].field == field


def test_quotas_that_were_changed_hold_for_the_draws_to_come(context: Context) -> None:
    domain_of = add_domains(context)
    open_run(context, selection={"domain_quotas": {"maths": 0.8, "code": 0.2}, "cooldown": 0})

    def domains(batch: Batch) -> Counter[str | None]:
        report_groups(context, batch)
        return Counter(domain_of[key] for key in batch.draws.prompt)

    assert domains(select(context, 20)) == {"maths": 16, "code": 4}
    quotas = ChangeRun.model_validate(
        {"selection": {"domain_quotas": {"maths": 0.5, "logic": 0.5}}}
    )
    change_run(context, "run", quotas)
    for size in (
        1,
        3,
        30,
        2,
    ):  # as if there had been no draws before, and also after another, unrelated change
        drawn = domains(select(context, size))
        assert set(drawn) <= {"maths", "logic"}
        assert abs(drawn["maths"] - size / 2) <= 1
        change_run(context, "run", ChangeRun.model_validate({"rollouts_per_prompt": size}))

"""Budgets over the use cases, on both databases: keys in their order, prompts added since, versions."""

from __future__ import annotations

from typing import Any

from promptgps_client.wire import AllocateBudget, Budget
from promptgps_service.flow.allocate import allocate_budget
from promptgps_service.flow.context import Context

from tests.flow.driving import add, open_run, settle, skill, step, vectors


def asked(context: Context, **fields: Any) -> Budget:
    return allocate_budget(context, AllocateBudget.model_validate({"run": "run"} | fields))


def test_keys_get_their_own_samples_in_whatever_order_they_are_named(context: Context) -> None:
    add(context, 40)
    open_run(context)
    for _ in range(6):
        step(context, 20)
    version = settle(context).model_version
    keys = sorted((f"pool-{number}" for number in range(40)), key=skill)
    straight, other = (asked(context, keys=named, mean=4) for named in (keys, keys[::-1]))
    assert sum(abs(a - b) for a, b in zip(straight.samples, other.samples[::-1], strict=True)) <= 2
    assert straight.model_version == version
    hard, easy = straight.samples[5:15], straight.samples[-10:]  # the hardest of all may seem hopeless
    assert sum(hard) > 2 * sum(easy)


def test_prompts_added_since_the_model_was_fitted_have_a_budget_too(context: Context) -> None:
    add(context, 10)
    open_run(context)
    step(context, 5)
    settle(context)
    add(context, 10, first=10)
    keys = [f"pool-{number}" for number in range(20)]
    step(context, 5)  # the run takes the new prompts in
    by_key = asked(context, keys=keys, total=60)
    by_vector = asked(context, vectors=vectors(keys[10:]).tolist(), total=30)
    assert (sum(by_key.samples), sum(by_vector.samples)) == (60, 30)
    assert len(by_vector.samples) == 10

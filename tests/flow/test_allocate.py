"""Budgets over the use cases, on both databases: keys in order, prompts added since, versions."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from promptgps_client.wire import AllocateBudget, Budget
from promptgps_service.flow import predict
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
    # the hardest of all may seem hopeless
    hard = straight.samples[5:15]
    easy = straight.samples[-10:]
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


@pytest.mark.parametrize("calibrated", ["not", "by keys", "by vectors"])
def test_one_answer_is_of_one_version_however_much_is_learned_meanwhile(
    context: Context, calibrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New prompts come in parts, and between any two of them the model could learn.

    The sums tell whether it did.
    """
    monkeypatch.setattr(predict, "MAX_PREDICTIONS", 5)
    add(context, 40)
    open_run(context)
    known = [f"pool-{number}" for number in range(10)]
    far = vectors([f"new-{number}" for number in range(60)]).tolist()
    outcomes = {"successes": [1] * 10, "trials": [2] * 10}
    calibration = {
        "not": None,
        "by keys": {"keys": known, **outcomes},
        "by vectors": {"vectors": vectors(known).tolist(), **outcomes},
    }[calibrated]
    step(context, 20)
    settle(context)

    stop = threading.Event()
    answers: list[Budget] = []

    def ask() -> None:
        while not stop.is_set():
            answers.append(asked(context, vectors=far, mean=2, calibration=calibration))

    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(ask)
        for _ in range(6):
            step(context, 20)
            settle(context)
        stop.set()
        asking.result()
    assert len({answer.model_version for answer in answers}) > 1
    by_version: dict[int, set[tuple[float, ...]]] = {}
    for answer in answers:
        told = (
            answer.expected_value,
            answer.expected_value_uniform,
            answer.next_gain,
            *answer.samples,
        )
        by_version.setdefault(answer.model_version, set()).add(told)
    assert {len(told) for told in by_version.values()} == {1}

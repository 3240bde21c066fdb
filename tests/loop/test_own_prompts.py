"""A selector draws of its own prompts alone, whatever else the run has, gets or does not have."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from promptgps_client import InvalidRequest, PromptGPS, Selector

from .conftest import BATCH, KEYS, ROLLOUTS, Make, add_pool, report, train


def test_draws_are_of_the_selectors_prompts_alone(make: Make, client: PromptGPS, run: str) -> None:
    own = KEYS[3:20:2]  # filtered by length, say
    selector = make(prompts=own)
    drawn = train(selector, 8)
    assert {key for batch in drawn for key in batch.prompt} <= set(own)
    assert {batch.source for batch in drawn} == {"service"}
    assert all(
        own[at] == key for batch in drawn for at, key in zip(batch.index, batch.prompt, strict=True)
    )
    # two jobs may share the run
    assert {
        key
        for batch in train(make(prompts=KEYS[:3] + own, on_existing="resume"), 4)
        for key in batch.prompt
    }


def test_a_pool_that_grows_later_brings_no_strangers(
    make: Make, client: PromptGPS, run: str
) -> None:
    selector = make()
    train(selector, 2)
    add_pool(client, run, [f"new{row}" for row in range(200)], first=100)
    drawn = train(selector, 6, first=2)
    assert {key for batch in drawn for key in batch.prompt} <= set(KEYS)
    assert {batch.source for batch in drawn} == {"service"}
    assert client.run(run).prompts == 240


def test_prompts_that_the_run_lacks_are_named_and_not_drawn(
    make: Make, client: PromptGPS, run: str, caplog: pytest.LogCaptureFixture
) -> None:
    selector = make(prompts=[*KEYS[:6], "stranger-1", "stranger-2"])
    assert (
        "does not have 2 of this selector's 8 prompts: "
        "'stranger-1', 'stranger-2'; it has such as 'k0'" in caplog.text
    )
    drawn = train(selector, 4)
    assert {key for batch in drawn for key in batch.prompt} <= set(KEYS[:6])


@pytest.mark.parametrize("known", [0, BATCH - 1])
def test_too_few_that_match_are_told_as_the_selector_is_made(
    make: Make, run: str, known: int
) -> None:
    prompts = [*KEYS[:known], *(str(number) for number in range(20))]
    with pytest.raises(ValueError, match=rf"(?s)'{run}'.*'0', '1'.*'k0', 'k1'") as raised:
        make(prompts=prompts)
    assert ("fewer than batch_size" if known else "none of") in str(raised.value)
    make(prompts=KEYS)  # nothing of it is left behind


def test_a_hundred_thousand_keys_are_sent_once_and_in_no_time(
    client: PromptGPS, server: Any, tmp_path: Any
) -> None:
    keys = [f"prompt-{number}" for number in range(100_000)]
    client.create_pool("large", embedding={"kind": "given", "dimension": 1})
    client.add_prompts(
        "large", keys=keys, vectors=np.arange(100_000, dtype=np.float32)[:, None] + 1
    )
    client.create_run(name="large", pool="large")
    began = time.monotonic()
    with Selector(
        server.url, run="large", batch_size=BATCH, prompts=keys[::2], spool=tmp_path, deadline=20
    ) as selector:
        made = time.monotonic() - began
        batch = selector.next_batch(0)
        assert {int(key.split("-")[1]) % 2 for key in batch.prompt} == {0}
    assert made < 10, made  # half a second alone on two cores


# ---- prompts by pool and key ---------------------------------------------------------------------


@pytest.fixture
def pair(client: PromptGPS, name: str) -> str:
    """A run over two pools with the same keys, as verl's gsm8k and math files have them."""
    for half, pool in enumerate(("gsm8k", "maths")):
        add_pool(client, f"{name}-{pool}", [str(row) for row in range(8)], first=50 * half)
    pools = [{"pool": f"{name}-gsm8k"}, {"pool": f"{name}-maths"}]
    client.create_run(name=name, pools=pools, rollouts_per_prompt=ROLLOUTS)
    return name


def pairs_of(run: str) -> list[tuple[str, Any]]:
    return [(f"{run}-{pool}", row) for pool in ("gsm8k", "maths") for row in range(8)]


@pytest.fixture
def make_pair(server: Any, pair: str, tmp_path: Any) -> Any:
    made: list[Selector] = []

    def selector(**options: Any) -> Selector:
        given = {
            "run": pair,
            "batch_size": 6,
            "spool": tmp_path / f"{len(made)}",
            "deadline": 10.0,
            "prompts": None,
        }
        made.append(Selector(options.pop("service", server.url), **given | options))
        return made[-1]

    yield selector
    for one in made:
        one.close()


def test_a_prompt_of_a_run_of_several_pools_is_its_pool_and_key(
    make_pair: Any, client: PromptGPS, pair: str
) -> None:
    given = {name: {"row": row} for row, name in enumerate(pairs_of(pair))}
    selector = make_pair(prompts=given)
    seen = set()
    for step in range(6):
        batch = selector.next_batch(step)
        assert batch.source == "service"
        names = list(zip(batch.pool, batch.prompt, strict=True))
        assert names == [(pairs_of(pair)[at][0], str(pairs_of(pair)[at][1])) for at in batch.index]
        assert [row["row"] for row in batch.row] == batch.index
        seen |= set(names)
        report(selector, batch, step)
    assert selector.flush()
    assert {pool for pool, _ in seen} == {f"{pair}-gsm8k", f"{pair}-maths"}
    state = selector.state_dict()
    again = make_pair(prompts=given)
    again.load_state_dict(state)
    assert again.batch_at(5, 5).index == selector.batch_at(5, 5).index


def test_local_draws_of_several_pools_are_reported_to_their_own(
    make_pair: Any, client: PromptGPS, pair: str
) -> None:
    away = make_pair(
        service="http://127.0.0.1:9", prompts=pairs_of(pair), deadline=0.2, fallback="scores"
    )
    batch = away.next_batch(3)
    assert batch.source == "fallback"
    report(away, batch)
    away.close()
    later = make_pair(prompts=pairs_of(pair), spool=away._spool._folder)
    assert later.flush()
    assert later.counters["outcomes_refused"] == 0
    assert client.run(pair).log_position == 6
    assert batch.pool == [f"{pair}-{'gsm8k' if at < 8 else 'maths'}" for at in batch.index]


def test_keys_that_two_pools_have_need_their_pool(make_pair: Any, pair: str) -> None:
    with pytest.raises(InvalidRequest, match=r"both have.* the key '0'"):
        make_pair(prompts=[str(row) for row in range(8)])
    with pytest.raises(ValueError, match="'elsewhere', and run"):
        make_pair(prompts=[("elsewhere", "0"), *pairs_of(pair)])


def test_keys_of_several_pools_that_are_distinct_need_none(
    client: PromptGPS, server: Any, name: str, tmp_path: Any
) -> None:
    for half in range(2):
        add_pool(client, f"{name}-{half}", [f"{half}-{row}" for row in range(8)], first=50 * half)
    client.create_run(
        name=name,
        pools=[{"pool": f"{name}-0"}, {"pool": f"{name}-1"}],
        rollouts_per_prompt=ROLLOUTS,
    )
    keys = [f"{half}-{row}" for half in range(2) for row in range(8)]
    with Selector(
        server.url, run=name, batch_size=6, prompts=keys, spool=tmp_path, deadline=10
    ) as selector:
        for batch in train(selector, 3):
            assert batch.pool == [f"{name}-{key[0]}" for key in batch.prompt]
            assert [keys[at] for at in batch.index] == batch.prompt


# ---- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompts",
    [
        range(12),
        [np.int64(row) for row in range(12)],
        np.arange(12),
        {row: f"row {row}" for row in range(12)},
        (str(row) for row in range(12)),
        dict.fromkeys(range(12)).keys(),
        [float(row) for row in range(12)],
    ],
    ids=["range", "numpy ints", "numpy", "mapping", "generator", "view", "whole floats"],
)
def test_whole_numbers_are_keys_by_their_decimal_string(
    client: PromptGPS, server: Any, name: str, tmp_path: Any, prompts: Any
) -> None:
    add_pool(client, name, range(12))
    client.create_run(name=name, pool=name, rollouts_per_prompt=ROLLOUTS)
    with Selector(
        server.url, run=name, batch_size=BATCH, prompts=prompts, spool=tmp_path, deadline=10
    ) as selector:
        (batch,) = train(selector, 1)
        assert batch.source == "service"
        assert [int(key) for key in batch.prompt] == batch.index
    told = client.predict_difficulty(run=name, keys=[0, np.int32(3), 5.0])
    assert len(told.success_mean) == 3


@pytest.mark.parametrize(
    ("prompts", "told"),
    [
        (["a", True], "row 1: True is no key"),
        (["a", 0.5], "row 1: 0.5 is no key"),
        (["a", None], "row 1: None is no key"),
        (["a", ""], "row 1: '' is no key"),
        ([("p", "a"), "b"], "pairs for all rows"),
        ([("p", "a"), ("p", "b", "c")], "row 1: .* is no key, and no pair"),
        ([("p", "a"), (7, "b")], "row 1: 7 is no pool"),
        ({"a", "b"}, "a set has no order"),
        ("ab", "'ab' is one value"),
        (["a", "b", "a"], "'a' is there twice, in rows 0 and 2"),
        ([1, "1"], "'1' is there twice, in rows 0 and 1"),
        ([("p", 1), ("q", 1), ("p", "1")], r"\('p', '1'\) is there twice, in rows 0 and 2"),
    ],
)
def test_what_is_no_prompt_is_told_with_its_row(
    server: Any, tmp_path: Any, prompts: Any, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        Selector(server.url, run="r", batch_size=1, prompts=prompts, spool=tmp_path)

"""Two servers on one PostgreSQL: they share nothing but the database.

They contradict each other in nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.databases import postgres_database
from tests.server import Server, running

BATCH = 6
ROLLOUTS = 4
PROMPTS = 200


@pytest.fixture(scope="module")
def pair(
    postgres_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Server]]:
    """A server that learns and a replica that only serves."""
    folder = tmp_path_factory.mktemp("pair")
    with (
        postgres_database(postgres_server) as url,
        running(url, folder) as first,
        running(url, folder, "--no-train") as second,
    ):
        yield first, second


def both(pair: tuple[Server, Server], method: str, path: str, body: Any = None) -> list[Any]:
    """The same request to both servers at the same time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda server: server.json(method, path, body), pair))


def open_run(pair: tuple[Server, Server], name: str) -> None:
    first, second = pair
    first.json("POST", "/pools", {"name": name, "embedding": {"kind": "given", "dimension": 2}})
    second.json(
        "POST", f"/pools/{name}/prompts", {"vectors": [[1.0, float(row)] for row in range(PROMPTS)]}
    )
    first.json("POST", "/runs", {"name": name, "pool": name, "rollouts_per_prompt": ROLLOUTS})


def report_of(batch: Any, run: str) -> dict[str, Any]:
    draws = batch["draws"]["draw_id"]
    return {
        "run": run,
        "draw_id": draws,
        "successes": [2] * len(draws),
        "trials": [ROLLOUTS] * len(draws),
    }


def test_pools_and_runs_made_on_both_at_once_are_made_once(pair: tuple[Server, Server]) -> None:
    for number in range(5):
        name = f"twice-{number}"
        pools = both(
            pair, "POST", "/pools", {"name": name, "embedding": {"kind": "given", "dimension": 2}}
        )
        assert pools[0] == pools[1]
        pair[number % 2].json(
            "POST", f"/pools/{name}/prompts", {"vectors": [[1.0, 2.0], [1.0, 3.0]]}
        )
        runs = both(pair, "POST", "/runs", {"name": name, "pool": name})
        assert runs[0] == runs[1]
    assert len(pair[0].json("GET", "/pools")["pools"]) == len(
        pair[1].json("GET", "/pools")["pools"]
    )


def test_a_sequence_asked_of_both_at_once_gives_the_same_draws(pair: tuple[Server, Server]) -> None:
    open_run(pair, "same")
    for sequence in range(12):
        answers = both(
            pair,
            "POST",
            "/select_batch",
            {"run": "same", "sequence": sequence, "batch_size": BATCH},
        )
        assert answers[0] | {"replayed": None} == answers[1] | {"replayed": None}
        assert sorted(answer["replayed"] for answer in answers) == [False, True]
        pair[sequence % 2].json("POST", "/outcomes", report_of(answers[0], "same"))
    heads = [server.json("GET", "/runs/same") for server in pair]
    assert [head["draws"] for head in heads] == [12 * BATCH] * 2
    assert [head["log_position"] for head in heads] == [12 * BATCH] * 2


def test_sequences_asked_of_either_never_share_a_draw(pair: tuple[Server, Server]) -> None:
    open_run(pair, "apart")
    asked = [{"run": "apart", "sequence": sequence, "batch_size": BATCH} for sequence in range(16)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda each: pair[each["sequence"] % 2].json("POST", "/select_batch", each), asked
            )
        )
    draws = [draw for answer in answers for draw in answer["draws"]["draw_id"]]
    prompts = [prompt for answer in answers for prompt in answer["draws"]["prompt"]]
    assert len(set(draws)) == len(draws) == 16 * BATCH
    assert len(set(prompts)) == len(prompts), (
        "a prompt that is pending on one server was handed out by the other"
    )


def test_outcomes_reported_to_one_are_duplicates_for_the_other(pair: tuple[Server, Server]) -> None:
    open_run(pair, "told")
    first, second = pair
    for sequence in range(4):
        batch = first.json(
            "POST", "/select_batch", {"run": "told", "sequence": sequence, "batch_size": BATCH}
        )
        report = report_of(batch, "told")
        answers = both(pair, "POST", "/outcomes", report)
        assert sorted((answer["stored"], answer["duplicates"]) for answer in answers) == [
            (0, BATCH),
            (BATCH, 0),
        ]
        other = report | {"successes": [3] * BATCH}
        assert second.json("POST", "/outcomes", other)["conflicts"] == list(range(BATCH))
    asked = {"run": "told", "sequence": 4, "batch_size": 1, "wait_seconds": 30.0}
    assert first.json("POST", "/select_batch", asked)["trained_through"] == 4 * BATCH


def test_a_pool_that_grows_through_one_is_drawn_from_through_the_other(
    pair: tuple[Server, Server],
) -> None:
    open_run(pair, "grown")
    first, second = pair
    second.json("POST", "/pools/grown/prompts", {"keys": ["new"], "vectors": [[5.0, -7.0]]})
    asked = {"run": "grown", "sequence": 0, "batch_size": 1, "candidates": ["new"]}
    answers = [server.json("POST", "/select_batch", asked) for server in (first, second)]
    assert [answer["draws"]["prompt"] for answer in answers] == [["new"], ["new"]]
    assert [server.json("GET", "/runs/grown")["prompts"] for server in pair] == [PROMPTS + 1] * 2

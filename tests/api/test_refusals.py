"""Every way to ask wrongly: which problem, which field and row it names.

And that nothing of it is stored.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import pytest
from promptgps_client.wire import MAX_SAMPLES
from starlette.testclient import TestClient

from tests.api.conftest import World, make_world, refused

BIG = 2**63
INVALID = (422, "invalid-request")
LARGE = (413, "too-large")
MISSING = (404, "not-found")

CASE = ("change", "answer", "field", "row")
Cases: TypeAlias = list[tuple[str, dict[str, Any], tuple[int, str], str | None, int | None]]


def cases(table: Cases) -> dict[str, Any]:
    """Pytest's parameters of a table.

    A name, what is changed in a sound request, the problem with field and row.
    """
    return {"argvalues": [case[1:] for case in table], "ids": [case[0] for case in table]}


OUTCOMES: Cases = [
    ("unknown field", {"successses": [1]}, INVALID, "successses", None),
    ("column missing", {"trials": None}, INVALID, "trials", None),
    ("no run", {"run": None}, INVALID, "run", None),
    ("run is a number", {"run": 7}, INVALID, "run", None),
    ("string for a number", {"trials": [4, "4", 4, 4]}, INVALID, "trials", 1),
    ("bool for an integer", {"trials": [4, 4, True, 4]}, INVALID, "trials", 2),
    ("bool for a number", {"successes": [1, 2, 0, True]}, INVALID, "successes", 3),
    ("float for an integer", {"trials": [4.5, 4, 4, 4]}, INVALID, "trials", 0),
    ("null in a column", {"successes": [1, None, 0, 4]}, INVALID, "successes", 1),
    ("object for a column", {"successes": {"0": 1}}, INVALID, "successes", None),
    ("shorter column", {"trials": [4, 4, 4]}, INVALID, "trials", None),
    ("longer column", {"successes": [1, 2, 0, 4, 1]}, INVALID, "successes", None),
    ("other versions than rows", {"policy_version": [1, 2]}, INVALID, "policy_version", None),
    ("more successes than trials", {"successes": [1, 5, 0, 4]}, INVALID, "successes", 1),
    ("negative successes", {"successes": [1, 2, -1, 4]}, INVALID, "successes", 2),
    ("negative trials", {"trials": [4, 4, 4, -4]}, INVALID, "trials", 3),
    ("huge trials", {"trials": [4, BIG, 4, 4]}, INVALID, "trials", 1),
    ("huge successes", {"successes": [1, BIG, 0, 4]}, INVALID, "successes", 1),
    ("huge version", {"policy_version": BIG}, INVALID, "policy_version", None),
    ("negative version", {"policy_version": -1}, INVALID, "policy_version", None),
    ("wrong type of version", {"policy_version": "3"}, INVALID, "policy_version", None),
    ("huge version in a row", {"policy_version": [1, 2, BIG, 4]}, INVALID, "policy_version", 2),
    ("fractions for a binary reward", {"successes": [1, 0.5, 0, 4]}, INVALID, "successes", 1),
    (
        "draw that was never issued",
        {"draw_id": ["d0-0", "d1-99999", "d1-2", "d1-3"]},
        MISSING,
        "draw_id",
        0,
    ),
    ("draw id of no form", {"draw_id": ["x", "y", "z", "d1-3"]}, MISSING, "draw_id", 0),
    ("draws and prompts", {"prompt": ["k0", "k1", "k2", "k3"]}, INVALID, "draw_id", None),
    ("neither draws nor prompts", {"draw_id": None}, INVALID, "draw_id", None),
    (
        "unknown prompt",
        {"draw_id": None, "prompt": ["k0", "k1", "nobody", "k3"]},
        MISSING,
        "prompt",
        2,
    ),
    ("rewards with groups", {"reward": [1, 1, 1, 1]}, INVALID, "reward", None),
    ("unknown run", {"run": "nobody"}, MISSING, None, None),
    ("run name of no form", {"run": "../etc"}, INVALID, "run", None),
    ("empty columns", {"draw_id": [], "successes": [], "trials": []}, INVALID, "draw_id", None),
]

GROUPLESS = {
    "successes": None,
    "trials": None,
    "rollout_index": [0, 1, 2, 3],
    "reward": [1, 0, 1, 0],
}
ROLLOUTS: Cases = [
    ("reward that is not binary", {"reward": [1, 0, 0.5, 0]}, INVALID, "reward", 2),
    ("no reward of an ok rollout", {"reward": [1, None, 1, 0]}, INVALID, "reward", 1),
    (
        "no reward of a truncated one",
        {"reward": [1, 0, 1, None], "status": ["ok", "ok", "ok", "truncated"]},
        INVALID,
        "reward",
        3,
    ),
    ("unknown status", {"status": ["ok", "ok", "fine", "ok"]}, INVALID, "status", 2),
    ("index past the group", {"rollout_index": [0, 1, 4, 3]}, INVALID, "rollout_index", 2),
    ("negative index", {"rollout_index": [0, -1, 2, 3]}, INVALID, "rollout_index", 1),
    ("statuses of other length", {"status": ["ok"]}, INVALID, "status", None),
    (
        "rollouts by prompt",
        {"draw_id": None, "prompt": ["k0", "k1", "k2", "k3"]},
        INVALID,
        "draw_id",
        None,
    ),
    ("successes with rollouts", {"successes": [1, 1, 1, 1]}, INVALID, "successes", None),
    ("no rewards", {"reward": None}, INVALID, "reward", None),
]

SELECTIONS: Cases = [
    ("unknown run", {"run": "nobody"}, MISSING, None, None),
    ("unknown field", {"batchsize": 3}, INVALID, "batchsize", None),
    ("batch over the pool", {"batch_size": 13}, INVALID, "batch_size", None),
    (
        "batch over the candidates",
        {"batch_size": 3, "candidates": ["k0", "k1"]},
        INVALID,
        "batch_size",
        None,
    ),
    ("batch over what is left", {"batch_size": 12, "exclude": ["k0"]}, INVALID, "batch_size", None),
    ("empty batch", {"batch_size": 0}, INVALID, "batch_size", None),
    ("huge batch", {"batch_size": BIG}, INVALID, "batch_size", None),
    ("bool batch", {"batch_size": True}, INVALID, "batch_size", None),
    ("batch over the limit", {"batch_size": 16_385}, INVALID, "batch_size", None),
    ("unknown candidate", {"candidates": ["k0", "nobody", "k1"]}, MISSING, "candidates", 1),
    ("unknown exclusion", {"exclude": ["nobody"]}, MISSING, "exclude", 0),
    ("empty candidate", {"candidates": ["k0", ""]}, INVALID, "candidates", 1),
    ("no candidates", {"candidates": []}, INVALID, "candidates", None),
    ("negative sequence", {"sequence": -1}, INVALID, "sequence", None),
    ("huge sequence", {"sequence": BIG}, INVALID, "sequence", None),
    (
        "sequence with another question",
        {"sequence": 0, "batch_size": 3},
        (409, "conflict"),
        "sequence",
        None,
    ),
    ("endless wait", {"wait_seconds": 1e9}, INVALID, "wait_seconds", None),
    ("no rollouts", {"rollouts": 0}, INVALID, "rollouts", None),
    ("text flag that is a word", {"include_text": "yes"}, INVALID, "include_text", None),
]

PREDICTIONS: Cases = [
    ("unknown run", {"run": "nobody"}, MISSING, None, None),
    ("unknown key", {"keys": ["k0", "nobody"]}, MISSING, "keys", 1),
    ("keys and texts", {"texts": ["a"]}, INVALID, "keys", None),
    ("nothing to predict", {"keys": None}, INVALID, "keys", None),
    ("no rows", {"keys": []}, INVALID, "keys", None),
    ("level one", {"level": 1.0}, INVALID, "level", None),
    ("level zero", {"level": 0}, INVALID, "level", None),
    (
        "texts for given vectors",
        {"keys": None, "texts": ["what is 2 + 2?"]},
        INVALID,
        "texts",
        None,
    ),
    ("other dimension", {"keys": None, "vectors": [[1, 2, 3], [1, 2]]}, INVALID, "vectors", 1),
    ("zero vector", {"keys": None, "vectors": [[1, 2, 3], [0, 0, 0]]}, INVALID, "vectors", 1),
    (
        "bool in a vector",
        {"keys": None, "vectors": [[1, 2, 3], [1, True, 3]]},
        INVALID,
        "vectors",
        1,
    ),
]

FOUR = {"keys": ["k0", "k1", "k2", "k3"]}
BUDGETS: Cases = [
    ("unknown run", {"run": "nobody"}, MISSING, None, None),
    ("unknown field", {"budget": 3}, INVALID, "budget", None),
    ("unknown key", {"keys": ["k0", "k1", "nobody", "k3"]}, MISSING, "keys", 2),
    ("keys and vectors", {"vectors": [[1, 2, 3]]}, INVALID, "keys", None),
    ("no prompts", {"keys": None}, INVALID, "keys", None),
    ("no rows", {"keys": []}, INVALID, "keys", None),
    ("texts for given vectors", {"keys": None, "texts": ["a", "b"]}, INVALID, "texts", None),
    ("other dimension", {"keys": None, "vectors": [[1, 2, 3], [1, 2]]}, INVALID, "vectors", 1),
    ("neither total nor mean", {"total": None}, INVALID, "total", None),
    ("total and mean", {"mean": 2.0}, INVALID, "total", None),
    ("float total", {"total": 8.0}, INVALID, "total", None),
    ("negative total", {"total": -1}, INVALID, "total", None),
    ("total over the limit", {"total": MAX_SAMPLES + 1}, INVALID, "total", None),
    ("negative mean", {"total": None, "mean": -0.5}, INVALID, "mean", None),
    ("total under the minimum", {"minimum": 3}, INVALID, "total", None),
    ("mean under the minimum", {"total": None, "mean": 2.4, "minimum": 3}, INVALID, "mean", None),
    ("total over the maximum", {"maximum": 1}, INVALID, "total", None),
    ("mean over the maximum", {"total": None, "mean": 4.5, "maximum": 4}, INVALID, "mean", None),
    ("maximum under the minimum", {"minimum": 2, "maximum": 1}, INVALID, "maximum", None),
    ("huge minimum", {"minimum": 5000}, INVALID, "minimum", None),
    ("unknown objective", {"objective": "luck"}, INVALID, "objective", None),
    (
        "outcomes of fewer prompts",
        {"outcomes_so_far": {"successes": [0, 1], "trials": [1, 1]}},
        INVALID,
        "outcomes_so_far.trials",
        None,
    ),
    (
        "columns of outcomes that differ",
        {"outcomes_so_far": {"successes": [0, 1, 0, 0], "trials": [1, 1]}},
        INVALID,
        "outcomes_so_far.trials",
        None,
    ),
    (
        "more successes than trials so far",
        {"outcomes_so_far": {"successes": [0, 1, 2, 0], "trials": [1, 1, 1, 1]}},
        INVALID,
        "outcomes_so_far.successes",
        2,
    ),
    (
        "half a success",
        {"outcomes_so_far": {"successes": [0, 0.5, 0, 0], "trials": [1, 1, 1, 1]}},
        INVALID,
        "outcomes_so_far.successes",
        1,
    ),
    (
        "calibration of nothing",
        {"calibration": {"successes": [1], "trials": [1]}},
        INVALID,
        "calibration.keys",
        None,
    ),
    (
        "calibration by an unknown key",
        {"calibration": {"keys": ["k0", "nobody"], "successes": [1, 0], "trials": [1, 1]}},
        MISSING,
        "calibration.keys",
        1,
    ),
    (
        "calibration by vectors of another dimension",
        {"calibration": {"vectors": [[1, 2, 3], [1]], "successes": [1, 0], "trials": [1, 1]}},
        INVALID,
        "calibration.vectors",
        1,
    ),
    (
        "calibration with more successes than trials",
        {"calibration": {"keys": ["k0", "k1"], "successes": [1, 2], "trials": [1, 1]}},
        INVALID,
        "calibration.successes",
        1,
    ),
    (
        "wrong answers that do not add up",
        {
            "calibration": {
                "keys": ["k0", "k1"],
                "successes": [1, 0],
                "trials": [1, 3],
                "wrong_answers": [[], [1, 1]],
            }
        },
        INVALID,
        "calibration.wrong_answers",
        1,
    ),
]

RUNS: Cases = [
    ("unknown pool", {"pool": "nobody"}, MISSING, None, None),
    ("no pool", {"pool": None}, INVALID, "pool", None),
    ("no name", {"name": None}, INVALID, "name", None),
    ("name of no form", {"name": "a b"}, INVALID, "name", None),
    ("name with a line feed at its end", {"name": "name\n"}, INVALID, "name", None),
    ("name over the limit", {"name": "n" * 129}, INVALID, "name", None),
    ("no rollouts", {"rollouts_per_prompt": 0}, INVALID, "rollouts_per_prompt", None),
    ("huge seed", {"seed": BIG}, INVALID, "seed", None),
    ("unknown strategy", {"selection": {"strategy": "best"}}, INVALID, "selection.strategy", None),
    ("unknown setting", {"selection": {"greed": 1}}, INVALID, "selection.greed", None),
    ("target past one", {"selection": {"target": 1.5}}, INVALID, "selection.target", None),
    (
        "band the wrong way round",
        {"selection": {"band": [0.8, 0.2]}},
        INVALID,
        "selection.band",
        None,
    ),
    (
        "cool-down that is a word",
        {"selection": {"cooldown": "long"}},
        INVALID,
        "selection.cooldown",
        None,
    ),
    (
        "quotas that sum to less",
        {"selection": {"domain_quotas": {"a": 0.5}}},
        INVALID,
        "selection.domain_quotas",
        None,
    ),
    (
        "quota of an unknown domain",
        {"selection": {"domain_quotas": {"a": 1}}},
        INVALID,
        "selection.domain_quotas",
        None,
    ),
    ("threshold without one", {"reward": {"kind": "threshold"}}, INVALID, "reward.threshold", None),
    (
        "affine the wrong way round",
        {"reward": {"kind": "affine", "low": 1, "high": 0}},
        INVALID,
        "reward.high",
        None,
    ),
    (
        "affine wider than a float",
        {"reward": {"kind": "affine", "low": -1e308, "high": 1e308}},
        INVALID,
        "reward.high",
        None,
    ),
    ("warm start from nobody", {"warm_start_from": "nobody"}, MISSING, "warm_start_from", None),
    ("empty list of pools", {"pool": None, "pools": []}, INVALID, "pools", None),
]


@pytest.fixture(scope="module")
def world(http: TestClient) -> World:
    """One for all tests of this file: each shows that it leaves it as it was."""
    return make_world(http)


@pytest.mark.parametrize(CASE, **cases(OUTCOMES))
def test_a_wrong_report_of_groups_names_its_field_and_row_and_leaves_nothing(
    world: World,
    change: dict[str, Any],
    answer: tuple[int, str],
    field: str | None,
    row: int | None,
) -> None:
    before = world.footprint()
    refused(world.http.post("/outcomes", json=world.outcomes(**change)), *answer, field, row)
    assert world.footprint() == before


@pytest.mark.parametrize(CASE, **cases(ROLLOUTS))
def test_a_wrong_report_of_rollouts_names_its_field_and_row_and_leaves_nothing(
    world: World,
    change: dict[str, Any],
    answer: tuple[int, str],
    field: str | None,
    row: int | None,
) -> None:
    before = world.footprint()
    refused(
        world.http.post("/outcomes", json=world.outcomes(**(GROUPLESS | change))),
        *answer,
        field,
        row,
    )
    assert world.footprint() == before


@pytest.mark.parametrize(CASE, **cases(SELECTIONS))
def test_a_wrong_request_for_a_batch_names_its_field_and_row_and_draws_nothing(
    world: World,
    change: dict[str, Any],
    answer: tuple[int, str],
    field: str | None,
    row: int | None,
) -> None:
    before = world.footprint()
    refused(
        world.http.post("/select_batch", json={"run": world.run, "batch_size": 2} | change),
        *answer,
        field,
        row,
    )
    assert world.footprint() == before


@pytest.mark.parametrize(CASE, **cases(PREDICTIONS))
def test_a_wrong_request_for_predictions_names_its_field_and_row(
    world: World,
    change: dict[str, Any],
    answer: tuple[int, str],
    field: str | None,
    row: int | None,
) -> None:
    asked = {"run": world.run, "keys": ["k0"]} | change
    body = {name: value for name, value in asked.items() if value is not None}
    refused(world.http.post("/predict_difficulty", json=body), *answer, field, row)


@pytest.mark.parametrize(CASE, **cases(BUDGETS))
def test_a_wrong_request_for_a_budget_names_its_field_and_row(
    world: World,
    change: dict[str, Any],
    answer: tuple[int, str],
    field: str | None,
    row: int | None,
) -> None:
    asked = {"run": world.run, "total": 8} | FOUR | change
    body = {name: value for name, value in asked.items() if value is not None}
    refused(world.http.post("/allocate_budget", json=body), *answer, field, row)


@pytest.mark.parametrize(CASE, **cases(RUNS))
def test_a_wrong_run_names_its_field_and_opens_nothing(
    world: World,
    change: dict[str, Any],
    answer: tuple[int, str],
    field: str | None,
    row: int | None,
) -> None:
    before = world.footprint()
    asked = {"name": f"{world.run}-other", "pool": world.pool} | change
    body = {name: value for name, value in asked.items() if value is not None}
    refused(world.http.post("/runs", json=body), *answer, field, row)
    assert world.footprint() == before


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rollouts_per_prompt": True}, "rollouts_per_prompt"),
        ({"selection": {"bonus": -1}}, "selection.bonus"),
        ({"seed": 3}, "seed"),
        ({"selection": {"domain_quotas": {"nowhere": 1.0}}}, "selection.domain_quotas"),
    ],
)
def test_a_wrong_change_of_a_run_changes_nothing(
    world: World, change: dict[str, Any], field: str
) -> None:
    before = world.footprint()
    refused(world.http.patch(f"/runs/{world.run}", json=change), *INVALID, field)
    assert world.footprint() == before


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/pools/nobody"),
        ("GET", "/runs/nobody"),
        ("GET", "/runs/nobody/metrics"),
        ("PATCH", "/runs/nobody"),
        ("POST", "/pools/nobody/prompts"),
        ("GET", "/nowhere"),
        ("GET", "/pools/a/b/c"),
    ],
)
def test_what_is_not_there_is_a_404(http: TestClient, method: str, path: str) -> None:
    body = {} if method == "GET" else {"json": {"texts": ["a"]} if method == "POST" else {}}
    refused(http.request(method, path, **body), *MISSING)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/pools", "GET, POST"),
        ("OPTIONS", "/pools", "GET, POST"),
        ("PUT", "/runs/some", "GET, PATCH, DELETE"),
        ("GET", "/select_batch", "POST"),
        ("POST", "/healthz", "GET"),
    ],
)
def test_a_method_that_an_address_does_not_take_is_a_405_that_says_which_it_takes(
    http: TestClient, method: str, path: str, allowed: str
) -> None:
    answer = http.request(method, path)
    refused(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize("name", ["-", "a%20b", "%2e%2e", "a%00b", "n" * 129, "%ff"])
def test_a_name_in_the_address_that_cannot_be_one_is_a_422(http: TestClient, name: str) -> None:
    refused(http.get(f"/pools/{name}"), *INVALID, "pool")


def test_at_most_twenty_faults_are_told_of_a_body_that_is_wrong_everywhere(world: World) -> None:
    problem = refused(
        world.http.post("/outcomes", json=world.outcomes(trials=["x"] * 1000)),
        *INVALID,
        "trials",
        0,
    )
    assert len(problem["errors"]) == 20
    assert "999 more" in problem["detail"]

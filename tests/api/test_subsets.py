"""Subsets over HTTP: POST /runs/{run}/subsets, then `subset` with each batch."""

from __future__ import annotations

from starlette.testclient import TestClient

from tests.api.conftest import World, new_name, refused

INVALID = (422, "invalid-request")


def test_a_subset_is_sent_once_and_then_named(world: World) -> None:
    path = f"/runs/{world.run}/subsets"
    sent = world.http.post(path, json={"keys": [*world.keys[2:6], "nowhere"]})
    assert sent.status_code == 200
    told = sent.json()
    assert (told["run"], told["prompts"], told["whole"]) == (world.run, 4, False)
    assert (told["unknown"], told["unknown_keys"]) == (1, ["nowhere"])
    assert (
        world.http.post(path, json={"keys": world.keys[5:1:-1]}).json()["subset"] == told["subset"]
    )

    asked = {"run": world.run, "batch_size": 4, "subset": told["subset"]}
    drawn = world.http.post("/select_batch", json=asked).json()["draws"]
    assert set(drawn["prompt"]) == set(world.keys[2:6])
    problem = refused(
        world.http.post("/select_batch", json=asked | {"batch_size": 5}), *INVALID, "batch_size"
    )
    assert told["subset"] in problem["detail"]


def test_what_cannot_be_a_subset_is_refused(world: World) -> None:
    path = f"/runs/{world.run}/subsets"
    before = world.footprint()
    refused(world.http.post(path, json={"keys": ["nowhere"]}), *INVALID, "keys")
    refused(world.http.post(path, json={"keys": []}), *INVALID, "keys")
    refused(world.http.post(path, json={"keys": ["k1"], "pool": "elsewhere"}), *INVALID, "pool")
    refused(
        world.http.post(path, json={"keys": ["k1", "k2"], "pool": [world.pool]}), *INVALID, "pool"
    )
    refused(world.http.post(f"/runs/{new_name()}/subsets", json={"keys": ["k1"]}), 404, "not-found")
    asked = {"run": world.run, "batch_size": 1}
    refused(
        world.http.post("/select_batch", json=asked | {"subset": "0" * 32}),
        404,
        "not-found",
        "subset",
    )
    refused(world.http.post("/select_batch", json=asked | {"subset": "mine"}), *INVALID, "subset")
    assert world.footprint() == before


def test_keys_of_two_pools_are_told_apart_by_their_pool(http: TestClient) -> None:
    run = new_name()
    pools = [new_name(), new_name()]
    for number, pool in enumerate(pools):
        made = {"name": pool, "embedding": {"kind": "given", "dimension": 2}}
        assert http.post("/pools", json=made).status_code == 201
        body = {"keys": ["0", "1"], "vectors": [[1.0, number], [number, 1.0]]}
        assert http.post(f"/pools/{pool}/prompts", json=body).status_code == 200
    asked = {"name": run, "pools": [{"pool": pool} for pool in pools]}
    assert http.post("/runs", json=asked).status_code == 201

    problem = refused(http.post(f"/runs/{run}/subsets", json={"keys": ["1"]}), *INVALID, "keys", 0)
    assert all(f"'{pool}'" in problem["errors"][0]["detail"] for pool in pools)
    sent = http.post(f"/runs/{run}/subsets", json={"keys": ["1"], "pool": pools[1]}).json()[
        "subset"
    ]
    batch = http.post("/select_batch", json={"run": run, "batch_size": 1, "subset": sent}).json()
    assert (batch["draws"]["prompt"], batch["draws"]["pool"]) == (["1"], [pools[1]])
    both = {"run": run, "keys": ["1", "1"], "pool": pools}
    assert len(http.post("/predict_difficulty", json=both).json()["success_mean"]) == 2
    refused(http.post("/predict_difficulty", json={"run": run, "keys": ["1"]}), *INVALID, "keys", 0)

"""The whole application in this process, behind its own HTTP edge, on a SQLite file."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from promptgps_service.app import create_app
from promptgps_service.settings import Settings
from starlette.testclient import TestClient

DIMENSION = 3
PROMPTS = 12
BATCH = 4
# None of it may ever be in an answer: where the code lies,
# what it is made of, how it asks the database.
INSIDES = (
    "Traceback",
    "site-packages",
    "/work/",
    ".py",
    "sqlalchemy",
    "sqlite3",
    "psycopg",
    "SELECT ",
    "INSERT ",
    "UPDATE ",
)
PROBLEM = "application/problem+json"

_number = itertools.count()


def settings_for(folder: Path, template: Path, **changes: Any) -> Settings:
    """Settings of one process on a fresh copy of a migrated file."""
    path = folder / f"api-{next(_number)}.db"
    shutil.copyfile(template, path)
    # what starlette's test client calls every service
    of_the_client = {"allowed_hosts": "testserver"}
    return Settings(
        database_url=f"sqlite:///{path}", device="cpu", torch_threads=1, **of_the_client | changes
    )


@pytest.fixture(scope="module")
def http(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client of a fresh application.

    A fault of the application comes as its answer, not as an exception.
    """
    app = create_app(
        settings_for(
            tmp_path_factory.mktemp("api"), sqlite_template, max_body_mb=1.0, max_file_mb=2.0
        )
    )
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def roomy_http(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    """The same with the limits that the service ships with."""
    app = create_app(settings_for(tmp_path_factory.mktemp("roomy"), sqlite_template))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@dataclass(frozen=True)
class World:
    """A pool of given vectors with a run on it that has been asked for one batch."""

    http: TestClient
    pool: str
    run: str
    keys: list[str]
    draws: list[str]

    def footprint(self) -> Any:
        """Everything that a refused request could have changed."""
        pools = self.http.get("/pools").json()
        runs = self.http.get("/runs").json()
        counted = (
            "name",
            "log_position",
            "draws",
            "selections",
            "prompts",
            "selection",
            "rollouts_per_prompt",
        )
        return pools, [{name: run[name] for name in counted} for run in runs["runs"]]

    def outcomes(self, **changes: Any) -> dict[str, Any]:
        """A sound report of the whole batch, with changes; None takes a field out."""
        sound = {
            "run": self.run,
            "draw_id": self.draws,
            "successes": [1, 2, 0, 4],
            "trials": [4, 4, 4, 4],
        }
        return {name: value for name, value in (sound | changes).items() if value is not None}


def new_name() -> str:
    """A name that no other test uses."""
    return f"name-{next(_number)}"


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return new_name()


def vectors(rows: int = PROMPTS) -> list[list[float]]:
    """Vectors that differ from each other."""
    return [[1.0, row + 1.0, float(row * row)] for row in range(rows)]


def make_world(http: TestClient) -> World:
    """A pool, a run on it and its first batch."""
    name = new_name()
    keys = [f"k{row}" for row in range(PROMPTS)]
    pool = {"name": name, "embedding": {"kind": "given", "dimension": DIMENSION}}
    assert http.post("/pools", json=pool).status_code == 201
    assert (
        http.post(f"/pools/{name}/prompts", json={"keys": keys, "vectors": vectors()}).status_code
        == 200
    )
    assert (
        http.post("/runs", json={"name": name, "pool": name, "rollouts_per_prompt": 4}).status_code
        == 201
    )
    batch = http.post(
        "/select_batch", json={"run": name, "sequence": 0, "batch_size": BATCH}
    ).json()
    return World(http, name, name, keys, batch["draws"]["draw_id"])


@pytest.fixture
def world(http: TestClient) -> World:
    """A pool, a run on it and its first batch, of this test alone."""
    return make_world(http)


def refused(
    answer: Any, status: int, kind: str, field: str | None = None, row: int | None = None
) -> dict[str, Any]:
    """Check that an answer is the problem that is meant; answers its body.

    Args:
        answer: the HTTP answer.
        status: of the answer and in its body.
        kind: last part of the problem's type.
        field: what the first fault names; None where the problem has no faults.
        row: the row that the first fault names.
    """
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["type"] == f"urn:promptgps:problem:{kind}"
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["title"]
    assert problem["detail"]
    first = problem["errors"][0] if problem["errors"] else {"field": None, "row": None}
    assert (first["field"], first["row"]) == (field, row), problem
    shown = [word for word in INSIDES if word in answer.text]
    assert not shown, f"{shown} in {answer.text}"
    return problem

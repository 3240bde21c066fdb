"""A run on a real server, and what its database holds when nobody asks the server."""

from __future__ import annotations

from typing import Any

from promptgps_service.store.engine import make_engine
from sqlalchemy import text

from tests.server import Server

DIMENSION = 8
PROMPTS = 400
ROLLOUTS = 4


def query(database_url: str, statement: str, **values: Any) -> list[Any]:
    """Rows of a statement, read past the server."""
    engine = make_engine(database_url)
    try:
        with engine.connect() as connection:
            return list(connection.execute(text(statement), values))
    finally:
        engine.dispose()


def change(database_url: str, statement: str, **values: Any) -> int:
    """Change the database past the server; answers how many rows it touched."""
    engine = make_engine(database_url)
    try:
        with engine.connect() as connection:
            connection = connection.execution_options(promptgps_write=True)
            with connection.begin():
                return connection.execute(text(statement), values).rowcount
    finally:
        engine.dispose()


def vector(row: int) -> list[float]:
    """A vector that no other row has."""
    return [float((row * (place + 3)) % 97 + 1) for place in range(DIMENSION - 1)] + [float(row)]


def open_run(server: Server, prompts: int = PROMPTS, name: str = "run") -> None:
    """A pool of given vectors and a run on it, both of one name."""
    embedding = {"kind": "given", "dimension": DIMENSION}
    server.json("POST", "/pools", {"name": name, "embedding": embedding})
    columns = {
        "keys": [f"k{row}" for row in range(prompts)],
        "vectors": [vector(row) for row in range(prompts)],
    }
    assert server.json("POST", f"/pools/{name}/prompts", columns)["added"] == prompts
    server.json(
        "POST", "/runs", {"name": name, "pool": name, "rollouts_per_prompt": ROLLOUTS, "seed": 5}
    )

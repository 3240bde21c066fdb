"""256 ranks that ask for one sequence at once, and wait for the model.

It is one question, answered to all of them alike.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.faults.conftest import ROLLOUTS, open_run
from tests.server import Server, running

RANKS = 256
BATCH = 64
STEPS = 3
WAIT = 5.0
_log = logging.getLogger(__name__)


async def ask_at_once(url: str, body: dict[str, Any], ranks: int) -> list[tuple[int, Any]]:
    """The same request by so many at once, each on a connection of its own; statuses and answers.

    By hand, because 256 connections of httpx take longer to make than the service takes to answer.
    """
    address = urlsplit(url)
    content = json.dumps(body)
    head = f"POST /select_batch HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"

    async def ask() -> tuple[int, Any]:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write((head + content).encode())
        answer = await reader.read()
        writer.close()
        status, _, text = answer.decode().partition(" ")[2].partition("\r\n\r\n")
        return int(status[:3]), json.loads(text)

    return await asyncio.gather(*(ask() for _ in range(ranks)))


def report(server: Server, batch: dict[str, Any]) -> None:
    """Outcomes of a batch, of which the model has something to learn."""
    draws = batch["draws"]["draw_id"]
    solved = [place % (ROLLOUTS + 1) for place in range(len(draws))]
    body = {"run": "run", "draw_id": draws, "successes": solved, "trials": [ROLLOUTS] * len(draws)}
    server.json("POST", "/outcomes", body)


@pytest.mark.timeout(180)
def test_all_ranks_get_the_batch_of_their_sequence(database_url: str, tmp_path: Path) -> None:
    with running(database_url, tmp_path) as server:
        open_run(server)
        first = server.json(
            "POST", "/select_batch", {"run": "run", "sequence": 0, "batch_size": BATCH}
        )
        report(server, first)
        took = []
        for step in range(1, STEPS + 1):
            asked = {
                "run": "run",
                "sequence": step,
                "batch_size": BATCH,
                "policy_version": step,
                "wait_seconds": WAIT,
            }
            began = time.monotonic()
            answers = asyncio.run(ask_at_once(server.url, asked, RANKS))
            took.append(time.monotonic() - began)

            assert {status for status, _ in answers} == {200}, answers[0]
            batches = [batch for _, batch in answers]
            assert all(batch["draws"] == batches[0]["draws"] for batch in batches)
            assert sum(not batch["replayed"] for batch in batches) == 1
            assert batches[0]["trained_through"] == step * BATCH
            report(server, batches[0])

        began = time.monotonic()
        again = server.json("POST", "/select_batch", asked)
        alone = time.monotonic() - began
        assert again["draws"] == batches[0]["draws"]
        _log.warning(
            "%d ranks were answered within %.2f s (one alone: %.3f s)", RANKS, max(took), alone
        )
        assert max(took) <= WAIT + RANKS * alone

"""A pool of sums, and a run over it as its service has it on disk."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from promptgps_client import PromptGPS

from tests.server import Server

DATABASE = "promptgps.db"
PROMPTS = 64
KEYS = [f"sum-{number}" for number in range(PROMPTS)]
TEXTS = [f"What is {number} + {7 * number % 10}?" for number in range(PROMPTS)]


@dataclass
class Run:
    """A run over the pool of sums, and what its service has on disk of it."""

    name: str
    server: Server
    client: PromptGPS
    database: Path

    def selections(self) -> list[sqlite3.Row]:
        """By sequence: `sequence`, `size`, `first_draw`, `policy_version` and so on."""
        return self._rows("SELECT * FROM selections WHERE run_id = ? ORDER BY sequence")

    def outcomes(self) -> list[sqlite3.Row]:
        """By position: `draw`, `row` (of `KEYS`), `rollout`, `reward` and so on.

        `draw` is null for a report by prompt.
        """
        return self._rows("SELECT * FROM outcomes WHERE run_id = ? ORDER BY position")

    def _rows(self, question: str) -> list[sqlite3.Row]:
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            (run_id,) = connection.execute(
                "SELECT id FROM runs WHERE name = ?", (self.name,)
            ).fetchone()
            return connection.execute(question, (run_id,)).fetchall()


def opened(client: PromptGPS, server: Server, name: str) -> Run:
    """A new run, four rollouts a prompt."""
    client.create_pool("sums")
    client.add_prompts("sums", keys=KEYS, texts=TEXTS)
    client.create_run(name=name, pool="sums", rollouts_per_prompt=4)
    return Run(name, server, client, server.log.parent / DATABASE)

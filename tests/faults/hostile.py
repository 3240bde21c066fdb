"""A tenant that means no good, in a process of its own.

`python -m tests.faults.hostile URL ATTACK SECONDS`.

Everything it does is allowed to anybody with a key; its own requests may be refused as they
deserve.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

ROLLOUTS = 8
Attack = Callable[[httpx.Client, int, int], int]  # client, thread, turn to the status


def flood(http: httpx.Client, thread: int, turn: int) -> int:
    """Draw 64 and report them, as fast as it goes."""
    asked = {"run": "hostile", "batch_size": 64, "sequence": thread * 1_000_000 + turn}
    answer = http.post("/select_batch", json=asked)
    if answer.status_code == 200:
        draws = answer.json()["draws"]["draw_id"]
        report = {"run": "hostile", "draw_id": draws, "successes": [3] * 64, "trials": [8] * 64}
        answer = http.post("/outcomes", json=report)
    return answer.status_code


def predictions(http: httpx.Client, thread: int, turn: int) -> int:
    """Predictions of new texts, many at once, beside a backlog."""
    if thread == 0:
        return flood(http, thread, turn)
    texts = [f"a new text {thread} {turn} {number}" for number in range(256)]
    return http.post("/predict_difficulty", json={"run": "hostile", "texts": texts}).status_code


def ranks(http: httpx.Client, thread: int, turn: int) -> int:
    """Many ranks that ask for one sequence at once, and wait for a model that has much to learn."""
    if thread < 2:
        return flood(http, thread, turn)
    asked = {"run": "hostile", "batch_size": 64, "sequence": 10**9 + turn, "wait_seconds": 5.0}
    return http.post("/select_batch", json=asked).status_code


def bodies(http: httpx.Client, thread: int, turn: int) -> int:
    """Bodies that are wrong in all the ways that cost something to find out."""
    path, body = BODIES[(thread + turn) % len(BODIES)]
    headers = {"content-type": "application/json"}
    return http.post(path, content=body, headers=headers).status_code


def uploads(http: httpx.Client, thread: int, turn: int) -> int:
    """Small files with much in them."""
    kind, body = UPLOADS[(thread + turn) % len(UPLOADS)]
    headers = {"content-type": kind}
    return http.post("/pools/hostile/prompts", content=body, headers=headers).status_code


def openings(http: httpx.Client, thread: int, turn: int) -> int:
    """Pools and runs without end, of every strategy, and some that cannot be."""
    name = f"hostile-{thread}-{turn}"
    strategy = ("promptgps", "gps", "mopps", "uniform")[turn % 4]
    http.post("/pools", json={"name": name})
    texts = [f"text {number}" for number in range(50)]
    http.post(f"/pools/{name}/prompts", json={"texts": texts})
    run: dict[str, Any] = {"name": name, "pool": name, "selection": {"strategy": strategy}}
    if turn % 3 == 0:
        run["warm_start_from"] = "hostile"
    return http.post("/runs", json=run).status_code


def _many_wrong(size: int) -> list[tuple[str, bytes]]:
    ones = b"1," * (size // 2) + b"1"
    names = b",".join(b'"f%d":1' % number for number in range(size // 12))
    rows = b",".join([b"[" + b"0.1," * 1_000 + b"0.1]"] * (size // 4_000))
    return [
        ("/select_batch", b'{"run":"hostile","batch_size":2,"candidates":[' + ones + b"]}"),
        ("/select_batch", b'{"run":"hostile","batch_size":2,' + names + b"}"),
        ("/outcomes", b'{"run":"hostile","draw_id":[' + ones + b'],"trials":[' + ones + b"]}"),
        ("/outcomes", b'{"run":"hostile","draw_id":' + b"[" * size),
        ("/predict_difficulty", b'{"run":"hostile","vectors":[' + rows + b"]}"),
        ("/pools/hostile/prompts", b'{"texts":[' + ones + b"]}"),
        ("/runs", b'{"name":"x","pool":"hostile","selection":{"domain_quotas":{' + names + b"}}}"),
    ]


def _small_files() -> list[tuple[str, bytes]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = "x" * 900_000
    same = pa.table({"text": pa.array([text]).take(pa.array([0] * 400))})
    wide = pa.table({"vector": pa.array([[0.5] * 16_000] * 1_000)})
    files = []
    for table, options in (
        (same, {"use_dictionary": True}),
        (same, {"use_dictionary": False, "compression": "zstd"}),
        (wide, {"compression": "zstd"}),
    ):
        out = io.BytesIO()
        pq.write_table(table, out, **options)
        files.append(("application/vnd.apache.parquet", out.getvalue()))
    line = json.dumps({"text": "a", "vector": [1] * 200_000}).encode() + b"\n"
    files.append(("application/jsonl", gzip.compress(line * 60)))
    return files


ATTACKS: dict[str, tuple[Attack, int]] = {  # and by how many at once
    "flood": (flood, 4),
    "predictions": (predictions, 64),
    "ranks": (ranks, 64),
    "bodies": (bodies, 8),
    "uploads": (uploads, 6),
    "openings": (openings, 2),
}
BODIES: list[tuple[str, bytes]] = []
UPLOADS: list[tuple[str, bytes]] = []


def main(url: str, attack: str, seconds: float) -> None:
    """Attack for so long, and print how often each status was the answer."""
    BODIES.extend(_many_wrong(8_000_000) if attack == "bodies" else [])
    UPLOADS.extend(_small_files() if attack == "uploads" else [])
    act, threads = ATTACKS[attack]
    os.nice(19)  # it would be on a machine of its own: what it computes itself is nobody's burden
    until = time.monotonic() + seconds
    statuses: Counter[int] = Counter()

    def work(thread: int) -> None:
        with httpx.Client(base_url=url, timeout=120.0, trust_env=False, verify=False) as http:
            for turn in itertools.count():
                if time.monotonic() > until:
                    return
                try:
                    status = act(http, thread, turn)
                except httpx.TransportError:
                    status = 0
                statuses[status] += 1
                if status == 429:
                    time.sleep(0.05)  # less than what it is asked for

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    sys.stdout.write(json.dumps(statuses))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))

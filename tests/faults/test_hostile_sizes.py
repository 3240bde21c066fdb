"""Small uploads that unpack to much, and large bodies that are wrong everywhere.

Nobody else waits, memory is bounded.

Each is sent to a real server while another client asks `/healthz`, and the server's memory is
looked at with that of its children.
"""

from __future__ import annotations

import gzip
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.databases import copied_file
from tests.server import Server, running, wait_for

MEGABYTE = 10**6
LATE = 0.5  # seconds that `/healthz` may wait
MEMORY = 300 * MEGABYTE  # that a small upload may take, above what the server has when it is idle
SMALL_UPLOAD = MEGABYTE
# another's load on the machine makes anybody wait at times; a fault of ours makes each attempt wait
ATTEMPTS = 3
LONG = "x" * 900_000
LINES = "application/jsonl"
PARQUET = "application/vnd.apache.parquet"
ARROW = "application/vnd.apache.arrow.file"
CSV = "text/csv"


class Watch(threading.Thread):
    """Asks for a sign of life all the time, and looks at the server's and its children's memory."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._url = server.url + "/healthz"
        self._process = psutil.Process(server.process.pid)
        self._over = threading.Event()
        self.latest = 0.0
        self.idle = self.most = self._memory()

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        with httpx.Client(trust_env=False, timeout=60.0) as client:
            while not self._over.wait(0.01):
                asked = time.perf_counter()
                client.get(self._url)
                self.latest = max(self.latest, time.perf_counter() - asked)
                self.most = max(self.most, self._memory())

    def _memory(self) -> int:
        total = 0
        for process in (self._process, *self._process.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total


@pytest.fixture(scope="module")
def server(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a pool of texts and a run over a pool of vectors.

    Warm: the text model is loaded.
    """
    folder = tmp_path_factory.mktemp("hostile")
    with running(copied_file(sqlite_template, folder), folder) as started:
        started.json("POST", "/pools", {"name": "texts"})
        started.json("POST", "/pools/texts/prompts", {"texts": ["a text to begin with"]})
        started.json(
            "POST", "/pools", {"name": "vectors", "embedding": {"kind": "given", "dimension": 3}}
        )
        vectors = {"keys": ["a", "b", "c"], "vectors": [[1, 2, 3], [1, 2, 4], [1, 3, 5]]}
        started.json("POST", "/pools/vectors/prompts", vectors)
        started.json("POST", "/runs", {"name": "r", "pool": "vectors"})
        yield started


@dataclass(frozen=True)
class Sent:
    """What was seen while a body was answered."""

    answer: httpx.Response
    latest: float
    taken: int


def send(server: Server, path: str, content: bytes, headers: dict[str, str]) -> Sent:
    """Send a body; the best of a few attempts counts, as far as others' waiting goes."""
    seen: list[Sent] = []
    for _ in range(ATTEMPTS):
        with Watch(server) as watch:
            answer = server.request("POST", path, content=content, headers=headers, timeout=120.0)
        seen.append(Sent(answer, watch.latest, watch.most - watch.idle))
        if watch.latest < LATE:
            break
    return Sent(
        seen[-1].answer, min(sent.latest for sent in seen), max(sent.taken for sent in seen)
    )


# ---- bodies --------------------------------------------------------------------------------------

HEAD = b'{"run":"r","batch_size":2,'
BODIES: dict[str, tuple[str, Callable[[], bytes], int]] = {
    "wrong rows": (
        "/select_batch",
        lambda: HEAD + b'"candidates":[' + b"1," * 5_000_000 + b"1]}",
        422,
    ),
    "wrong rows after right ones": (
        "/select_batch",
        lambda: HEAD + b'"candidates":[' + b'"a",' * 1_000_000 + b"1," * 4_000_000 + b"1]}",
        422,
    ),
    "too many rows": (
        "/select_batch",
        lambda: HEAD + b'"candidates":[' + b'"a",' * 15_000_000 + b'"a"]}',
        413,
    ),
    "unknown fields": (
        "/select_batch",
        lambda: HEAD + b",".join(b'"a%d":1' % number for number in range(1_000_000)) + b"}",
        422,
    ),
    "repeated fields": (
        "/select_batch",
        lambda: HEAD + b'"batch_size":2,' * 600_000 + b'"exclude":[]}',
        413,
    ),
    "deep lists": (
        "/select_batch",
        lambda: HEAD + b'"candidates":[' + b"[" * 6_000_000 + b"]" * 6_000_000,
        413,
    ),
    "open lists": ("/select_batch", lambda: b"[" * 12_000_000, 400),
    "open objects": ("/outcomes", lambda: b'{"a":' * 2_000_000, 400),
    "a long string": (
        "/select_batch",
        lambda: b'{"run":"' + b"\\n" * 31_000_000 + b'","batch_size":2}',
        422,
    ),
    "a long name": ("/select_batch", lambda: b'{"' + b"n" * 12_000_000 + b'":2}', 413),
    "white space": ("/outcomes", lambda: b" " * 62_000_000, 400),
    "many numbers": (
        "/predict_difficulty",
        lambda: (
            b'{"run":"r","vectors":[' + b",".join([b"[" + b"1," * 15_999 + b"1]"] * 300) + b"]}"
        ),
        422,
    ),
    "wrong vectors": (
        "/predict_difficulty",
        lambda: (
            b'{"run":"r","vectors":[' + b",".join([b'["x"' + b',"x"' * 15_999 + b"]"] * 200) + b"]}"
        ),
        422,
    ),
    "quotas": (
        "/runs",
        lambda: (
            b'{"name":"z","pool":"vectors","selection":{"domain_quotas":{'
            + b",".join(b'"%d":"x"' % number for number in range(70_000))
            + b"}}}"
        ),
        413,
    ),
    "prompts": (
        "/pools/vectors/prompts",
        lambda: (
            b'{"vectors":['
            + b"[1,2]," * 99_999
            + b"[1,2]],"
            + b'"texts":['
            + b"1," * 4_000_000
            + b"1]}"
        ),
        422,
    ),
}


@pytest.mark.parametrize(("path", "make", "status"), BODIES.values(), ids=BODIES.keys())
def test_no_large_body_makes_others_wait(
    server: Server, path: str, make: Callable[[], bytes], status: int
) -> None:
    content = make()
    assert len(content) <= 64 * MEGABYTE
    sent = send(server, path, content, {"content-type": "application/json"})
    assert sent.answer.status_code == status, sent.answer.text
    assert len(sent.answer.content) < 20_000
    assert sent.latest < LATE


@pytest.mark.parametrize(
    "name", ["wrong rows", "a long string", "white space", "many numbers", "prompts"]
)
def test_the_same_in_gzip_is_bounded_in_memory_too(server: Server, name: str) -> None:
    path, make, status = BODIES[name]
    content = gzip.compress(make(), 6)
    assert len(content) <= SMALL_UPLOAD
    sent = send(
        server, path, content, {"content-type": "application/json", "content-encoding": "gzip"}
    )
    assert sent.answer.status_code == status, sent.answer.text
    assert sent.latest < LATE
    assert sent.taken < MEMORY


# ---- files ---------------------------------------------------------------------------------------


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, **options)
    return file.getvalue()


def arrow(columns: dict[str, Any], compression: str | None = None) -> bytes:
    file = io.BytesIO()
    table = pa.table(columns)
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(file, table.schema, options=options) as writer:
        writer.write_table(table)
    return file.getvalue()


def plain_page(compression: str, megabytes: int) -> bytes:
    """One page of texts that are all alike, not in a dictionary."""
    texts = pa.array([LONG] * (megabytes * MEGABYTE // len(LONG)))
    return parquet(
        {"text": texts}, compression=compression, use_dictionary=False, write_statistics=False
    )


def long_list() -> pa.Array:
    values = pa.array(np.zeros(200_000_000, np.int8))
    return pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)


def lying_metadata() -> bytes:
    """A sound file whose page headers and footer tell of other sizes than there are."""
    body = bytearray(parquet({"text": ["a text"] * 1000}, use_dictionary=False, compression="none"))
    for place in range(4, min(len(body), 64)):
        body[place] = 0xFF if body[place] == 0x15 else body[place]
    return bytes(body)


def run_ends() -> dict[str, Any]:
    return {
        "text": pa.RunEndEncodedArray.from_arrays(
            pa.array([2**31 - 1], pa.int32()), pa.array(["x" * 9000])
        )
    }


FILES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a dictionary": (PARQUET, lambda: parquet({"text": [LONG] * 4096})),
    "a dictionary and keys": (
        PARQUET,
        lambda: parquet({"key": list(range(400)), "text": [LONG] * 400}),
    ),
    "a page in zstd": (PARQUET, lambda: plain_page("zstd", 400)),
    "a page in gzip": (PARQUET, lambda: plain_page("gzip", 400)),
    "a page in snappy": (PARQUET, lambda: plain_page("snappy", 18)),
    "a list of 200M numbers": (
        PARQUET,
        lambda: parquet({"vector": long_list()}, compression="zstd"),
    ),
    "run lengths": (
        PARQUET,
        lambda: parquet({"text": ["x" * 9000] * 200_000}, row_group_size=200_000),
    ),
    "chats": (PARQUET, lambda: parquet({"text": [[{"role": "user", "content": LONG}] * 50] * 40})),
    "lying metadata": (PARQUET, lying_metadata),
    "arrow in zstd": (ARROW, lambda: arrow({"text": [LONG] * 500}, "zstd")),
    "arrow's dictionary": (
        ARROW,
        lambda: arrow(
            {
                "text": pa.DictionaryArray.from_arrays(
                    pa.array([0] * 20_000, pa.int16()), [LONG[:500_000]]
                )
            }
        ),
    ),
    "arrow's run ends": (ARROW, lambda: arrow(run_ends())),
    "arrow's nulls": (
        ARROW,
        lambda: arrow({"text": pa.nulls(2**31 - 1), "vector": pa.nulls(2**31 - 1)}),
    ),
    "small numbers in a line": (
        LINES,
        lambda: gzip.compress(b'{"text":"a","x":[' + b"1," * 7_900_000 + b"1]}\n"),
    ),
    "empty lists in lines": (
        LINES,
        lambda: gzip.compress((b'{"text":"a","x":[' + b"[]," * 5 * 10**6 + b"1]}\n") * 3),
    ),
    "vectors": (LINES, lambda: gzip.compress((b'{"vector":[' + b"1," * 15_999 + b"1]}\n") * 3000)),
    "blank lines": (LINES, lambda: gzip.compress(b"\n" * 100_000_000)),
    "one line": (LINES, lambda: gzip.compress(b"x" * 200_000_000)),
    "zstd": (
        LINES,
        lambda: pa.compress(b'{"text":"' + b"x" * 200_000_000, codec="zstd", asbytes=True),
    ),
    "a cell": (CSV, lambda: gzip.compress(b'text\n"' + b"x" * 200_000_000)),
}


@pytest.mark.parametrize(("kind", "make"), FILES.values(), ids=FILES.keys())
def test_no_small_file_takes_much_memory_or_makes_others_wait(
    server: Server, kind: str, make: Callable[[], bytes]
) -> None:
    content = make()
    assert len(content) <= SMALL_UPLOAD
    sent = send(server, "/pools/texts/prompts", content, {"content-type": kind})
    assert sent.answer.status_code in (200, 413, 422), sent.answer.text
    assert sent.taken < MEMORY
    assert sent.latest < LATE
    assert (
        server.json("POST", "/pools/texts/prompts", {"texts": ["a text to begin with"]})["added"]
        == 0
    )


# ---- who waits -----------------------------------------------------------------------------------


def children(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children(recursive=True)


@pytest.mark.parametrize("kind", [LINES, "application/json"])
def test_work_stops_when_the_client_has_gone(server: Server, kind: str) -> None:
    """Within moments: the reader is gone, and the pool is free for others."""
    rows = 60_000
    if kind == LINES:
        content = b"".join(
            json.dumps({"text": f"row {row} " * 100}).encode() + b"\n" for row in range(rows)
        )
    else:
        content = json.dumps({"texts": [f"line {row} " * 80 for row in range(rows)]}).encode()
    with pytest.raises(httpx.ReadTimeout):
        server.request(
            "POST",
            "/pools/texts/prompts",
            content=content,
            headers={"content-type": kind},
            timeout=httpx.Timeout(60.0, read=1.5),
        )
    few = {"texts": ["a text to begin with"]}

    def free() -> bool:
        return server.request("POST", "/pools/texts/prompts", json=few).status_code == 200

    wait_for(free, 20.0, "the pool to be free", pause=0.1)  # after the chunk that was under way
    assert children(server) == []
    assert server.json("GET", "/pools/texts")["prompts"] < rows


def test_so_many_files_are_read_at_a_time_and_others_are_told_to_wait(server: Server) -> None:
    pools = [f"crowd-{number}" for number in range(14)]
    for pool in pools:
        server.json("POST", "/pools", {"name": pool})
    content = parquet({"text": [f"text {row}" for row in range(300)]})
    answers: list[httpx.Response] = []

    def upload(pool: str) -> None:
        answers.append(
            server.request(
                "POST",
                f"/pools/{pool}/prompts",
                content=content,
                headers={"content-type": PARQUET},
                timeout=120.0,
            )
        )

    most = 0
    threads = [threading.Thread(target=upload, args=(pool,)) for pool in pools]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        most = max(most, len(children(server)))
        time.sleep(0.02)
    assert most <= 2
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(429) >= 1
    assert all(
        int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code == 429
    )
    assert set(statuses) <= {200, 413, 429}

"""The spool: nothing acknowledged is lost, whatever crashes.

It stays within its bounds, and it belongs to one process.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from promptgps_client.selector import SpoolInUse
from promptgps_client.selector.segment import Line
from promptgps_client.selector.spool import Spool

LARGE = 1 << 30
Open = Callable[..., Spool]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens spools on one folder, one after the other, and closes them."""
    spools: list[Spool] = []

    def open_spool(limit: int = LARGE, **options: str) -> Spool:
        if spools:
            spools[-1].close()
        spools.append(Spool(tmp_path / "spool", limit, **options))  # type: ignore[arg-type]
        return spools[-1]

    yield open_spool
    for spool in spools:
        spool.close()


def told(spool: Spool, most: int = 1_000_000) -> list[bytes]:
    return [content for _, content in spool.oldest(most)]


def deliver(spool: Spool, count: int) -> list[bytes]:
    lines = spool.oldest(count)
    spool.done([line for line, _ in lines])
    return [content for _, content in lines]


def segments(spool: Spool) -> list[Path]:
    return sorted(path for path in spool._folder.glob("*.jsonl") if path.stem.isdecimal())


# ---- the law -------------------------------------------------------------------------------------


class SpoolMachine(RuleBasedStateMachine):
    """A spool beside a list.

    A delivery is known by its content, as the service knows it by its id.
    """

    folder: Path  # set by the test

    def __init__(self) -> None:
        super().__init__()
        self.home = self.folder / str(len(list(self.folder.iterdir())))
        self.spool = Spool(self.home, LARGE)
        self.number = 0
        self.waiting: list[bytes] = []  # appended, complete, not yet seen by the receiver
        self.received: list[bytes] = []
        self.expected: list[bytes] = []
        self.shown: list[tuple[Line, bytes]] = []  # sent, while the answer is under way

    def teardown(self) -> None:
        while self.spool.oldest(1):
            self.receive(self.spool.oldest(3))
        assert self.received == self.expected
        self.spool.close()
        assert not segments(self.spool)

    def receive(self, lines: list[tuple[Line, bytes]], answered: bool = True) -> None:
        """What the service does: it takes what it does not know.

        Then the answer reaches the spool, or not.
        """
        self.received += [content for _, content in lines if content not in self.received]
        if answered:
            self.spool.done([line for line, _ in lines])

    @rule(length=st.integers(0, 40))
    def append(self, length: int) -> None:
        content = b"%d-" % self.number + b"x" * length
        self.number += 1
        assert self.spool.append(content)
        self.expected.append(content)

    @rule(count=st.integers(1, 5))
    def deliver(self, count: int) -> None:
        self.receive(self.spool.oldest(count))

    @rule(count=st.integers(1, 5))
    def deliver_without_an_answer(self, count: int) -> None:
        self.receive(self.spool.oldest(count), answered=False)

    @rule(count=st.integers(1, 5))
    def show(self, count: int) -> None:
        self.shown = self.spool.oldest(count)

    @precondition(lambda self: self.shown)
    @rule()
    def late_answer(self) -> None:
        self.receive(self.shown)
        self.shown = []

    @rule()
    def begin_another_segment(self) -> None:
        for segment in self.spool._segments:
            segment.close()

    @rule(torn=st.binary(max_size=30).map(lambda part: part.replace(b"\n", b"")))
    def crash_in_a_write(self, torn: bytes) -> None:
        """The process dies; of the line being written a part, without newline, is on disk."""
        self.spool.close()
        if paths := segments(self.spool):
            with paths[-1].open("ab") as file:
                file.write(torn)
        self.reopen()

    @rule(lost=st.integers(0, 100))
    def crash_of_the_disk(self, lost: int) -> None:
        """The last bytes of the last segment are gone, as from a disk that lies about its cache."""
        self.spool.close()
        if paths := segments(self.spool):
            content = paths[-1].read_bytes()
            kept = content[: max(len(content) - lost, 0)]
            paths[-1].write_bytes(kept)
            gone = [
                line for line in content.split(b"\n")[:-1] if line not in kept.split(b"\n")[:-1]
            ]
            self.expected = [
                line for line in self.expected if line in self.received or line not in gone
            ]
        self.reopen()

    def reopen(self) -> None:
        self.shown = []
        self.spool = Spool(self.home, LARGE)

    @invariant()
    def in_order_and_once(self) -> None:
        assert self.received == self.expected[: len(self.received)]


def test_every_complete_line_is_delivered_once_and_in_order(tmp_path: Path) -> None:
    SpoolMachine.folder = tmp_path
    run_state_machine_as_test(
        SpoolMachine, settings=settings(max_examples=100, stateful_step_count=30)
    )


# ---- crashes -------------------------------------------------------------------------------------


def test_lines_wait_for_the_next_process(opened: Open) -> None:
    spool = opened()
    assert all(spool.append(b"%d" % number) for number in range(10))
    assert deliver(spool, 4) == [b"0", b"1", b"2", b"3"]
    again = opened()
    # what of a segment is delivered is not written down, so all of it is delivered once more
    assert told(again) == [b"%d" % number for number in range(10)]
    assert again.append(b"10")
    assert told(again)[-1] == b"10"
    deliver(again, 100)
    assert not segments(again)
    assert len(opened()) == 0


def test_half_a_line_counts_for_nothing_and_is_told(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    spool = opened()
    spool.append(b"whole")
    path = segments(spool)[0]
    spool.close()
    with path.open("ab") as file:
        file.write(b'{"half')
    with caplog.at_level(logging.WARNING):
        again = opened()
    assert "half a line of 6 bytes" in caplog.text
    again.append(b"next")
    assert told(again) == [b"whole", b"next"]


def test_a_segment_that_cannot_be_read_keeps_nothing_else_up(opened: Open) -> None:
    spool = opened()
    spool.append(b"a")
    path = segments(spool)[0]
    spool._segments[0].close()
    spool.append(b"b")
    path.unlink()
    assert told(spool) == []
    assert told(spool) == [b"b"]
    assert spool.dropped == 1


# ---- bounds --------------------------------------------------------------------------------------


def on_disk(spool: Spool) -> int:
    return sum(path.stat().st_size for path in segments(spool))


def test_a_full_spool_keeps_the_newest(opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    spool = opened(limit=1000)
    contents = [b"%03d" % number + b"x" * 46 for number in range(100)]
    for content in contents:
        assert spool.append(content)
        assert on_disk(spool) == spool.size <= 1000
    left = told(spool)
    assert left == contents[-len(left) :]
    assert len(left) >= 1000 // 50 - 4  # whole segments go, an eighth at a time
    assert spool.dropped == 100 - len(left)
    assert "reports are lost" in caplog.text


def test_a_line_that_was_dropped_under_way_may_still_be_delivered(opened: Open) -> None:
    spool = opened(limit=1000)
    spool.append(b"first")
    under_way = spool.oldest(1)
    for _ in range(100):
        spool.append(b"x" * 49)
    before = told(spool)
    spool.done([line for line, _ in under_way])
    assert told(spool) == before


def test_a_line_larger_than_the_spool_is_told_and_drops_nothing_else(opened: Open) -> None:
    spool = opened(limit=1000)
    spool.append(b"small")
    assert not spool.append(b"x" * 1000)
    assert told(spool) == [b"small"]
    assert spool.dropped == 1


def test_a_full_spool_can_wait_for_room(opened: Open) -> None:
    spool = opened(limit=1000, when_full="block")
    contents = [b"%03d" % number + b"x" * 46 for number in range(60)]
    writer = threading.Thread(target=lambda: [spool.append(content) for content in contents])
    writer.start()
    received: list[bytes] = []
    while len(received) < 60:
        assert on_disk(spool) <= 1000
        received += deliver(spool, 1)
    writer.join()
    assert received == contents
    assert spool.dropped == 0


def test_refused_lines_are_kept_with_their_reason_within_bounds(opened: Open) -> None:
    spool = opened(limit=2000)
    spool.append(b'{"id": "a"}')
    spool.append(b"no json")
    for line, content in spool.oldest(2):
        spool.refuse(line, f"because of {len(content)}")
    aside = spool._folder / "refused.jsonl"
    kept = [json.loads(line) for line in aside.read_text().splitlines()]
    assert kept == [
        {"refused": "because of 11", "id": "a"},
        {"refused": "because of 7", "broken": "no json"},
    ]
    assert len(spool) == 0
    for _ in range(100):
        spool.set_aside(b'{"id": "b"}', "x" * 100)
    assert aside.stat().st_size <= 2000
    assert spool.refused == 102
    # renamed to a segment it is tried again
    spool.close()
    aside.rename(aside.with_name("1.jsonl"))
    assert json.loads(told(opened())[0])["id"] == "a"


FULL = """
import json, logging, resource, sys
from pathlib import Path
from promptgps_client.selector.spool import Spool

spool = Spool(Path(sys.argv[1]), 1 << 20)
kept = [b"%d" % number * 50 for number in range(20)]
durable = [spool.append(content) for content in kept[:10]]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
durable += [spool.append(content) for content in kept[10:15]]
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
durable += [spool.append(content) for content in kept[15:]]
assert [content for _, content in spool.oldest(100)] == kept
print(json.dumps(durable))
sys.stdout.flush()
import os; os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(("room", "lost"), [(0, 5), (30, 5), (520, 1), (100_000, 0)])
def test_where_the_disk_takes_nothing_memory_does_and_the_order_stays(
    tmp_path: Path, room: int, lost: int
) -> None:
    """The kernel's file size limit stands for a full disk.

    A write stores a part, the next one fails.
    """
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), str(room)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    durable = json.loads(ended.stdout)
    assert durable == [True] * 10 + [False] * lost + [True] * (10 - lost)
    assert ended.stderr.count("cannot be written") == lost
    spool = Spool(tmp_path, 1 << 20)
    every = [b"%d" % number * 50 for number in range(20)]
    assert told(spool) == [content for content, kept in zip(every, durable, strict=True) if kept]
    spool.close()


TORN = """
import resource, sys
from pathlib import Path
from promptgps_client.selector.spool import Spool

spool = Spool(Path(sys.argv[1]), 1 << 20)
assert spool.append(b"first")
resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
assert not spool.append(b"second, of which ten bytes fit")
spool.done([line for line, content in spool.oldest(9) if content.startswith(b"second")])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert spool.append(b"third")
print([content for _, content in spool.oldest(9)])
"""


def test_nothing_is_written_behind_a_torn_line(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", TORN, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "[b'first', b'third']"
    spool = Spool(tmp_path, LARGE)
    assert told(spool) == [b"first", b"third"]
    spool.close()


# ---- one process ---------------------------------------------------------------------------------

HOLD = """
import os, sys, time
from pathlib import Path
from promptgps_client.selector.spool import Spool

spool = Spool(Path(sys.argv[1]), 1 << 20)
holder = os.getpid()
if sys.argv[2] == "alone" or os.fork() == 0:  \
# a child tells it, which has let go of the lock by then
    print(holder, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("forks", ["fork", "alone"])
def test_a_folder_belongs_to_one_process_until_that_dies(tmp_path: Path, forks: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), forks],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as other:
        assert other.stdout is not None
        holder = other.stdout.readline().strip()
        with pytest.raises(
            SpoolInUse, match=f"in use by process {holder} on .*a spool folder of its own"
        ):
            Spool(tmp_path, LARGE)
        other.kill()
        other.wait()  # a child that it forked lives on, and holds nothing
        Spool(tmp_path, LARGE).close()
        os.killpg(other.pid, signal.SIGKILL) if forks == "fork" else None


def test_a_folder_belongs_to_one_spool_of_a_process(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LARGE)
    with pytest.raises(SpoolInUse):
        Spool(tmp_path, LARGE)
    spool.close()
    spool.close()
    with pytest.raises(ValueError, match="closed"):
        spool.append(b"late")
    Spool(tmp_path, LARGE).close()


def test_an_answer_after_the_end_touches_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LARGE)
    spool.append(b"a")
    under_way = [line for line, _ in spool.oldest(1)]
    spool.close()
    after = Spool(tmp_path, LARGE)
    spool.done(under_way)
    assert told(after) == [b"a"]
    after.close()


def test_many_threads_append_while_one_delivers(opened: Open) -> None:
    spool = opened(limit=100_000)
    writers = [
        threading.Thread(
            target=lambda who=who: [spool.append(b"%d %d" % (who, number)) for number in range(50)]
        )
        for who in range(4)
    ]
    for writer in writers:
        writer.start()
    received: list[bytes] = []
    while len(received) < 200:
        received += deliver(spool, 7)
    for writer in writers:
        writer.join()
    for who in range(4):
        own = [int(line.split()[1]) for line in received if int(line.split()[0]) == who]
        assert own == list(range(50))
    assert spool.wait_empty(0.0)

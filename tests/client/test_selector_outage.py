"""The loop against a real service: that is killed, it is killed, it has no disk.

The log has every report once.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from promptgps_client import PromptGPS, Selector

from tests.faults.conftest import open_run, query
from tests.server import Server, environment, start, wait_for

PROMPTS = 200
KEYS = [f"k{number}" for number in range(PROMPTS)]
ROLLOUTS = 4  # as open_run's
BATCH = 6
ROOT = str(Path(__file__).parents[2])


Line = tuple[str | int, int, float, int, int | None]


@dataclass
class Service:
    """A real service at one address, that can be killed and started again, and a run on it."""

    database_url: str
    folder: Path
    port: int
    server: Server | None = None
    run: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> Server:
        if self.server is None:
            self.server = start(self.database_url, self.folder, "--port", str(self.port))
        return self.server

    def kill(self) -> None:
        if self.server is not None:
            self.server.kill()
            self.server.close()
            self.server = None

    def query(self, what: str) -> list[Any]:
        """Columns of the run's own rows in the database."""
        return query(
            self.database_url,
            f"SELECT {what.format(run='(SELECT id FROM runs WHERE name = :name)')}",
            name=self.run,
        )

    def log(self) -> list[Line]:
        """(draw or key, rollout, successes, trials, policy version) of each line, in log order."""
        lines = self.query(
            "o.draw, p.key, o.rollout, o.successes, o.trials, o.policy_version"
            " FROM outcomes o, prompts p, pools"
            " WHERE o.run_id = {run} AND pools.name = :name"
            " AND p.pool_id = pools.id AND p.position = o.row"
            " ORDER BY o.position"
        )
        return [(key if draw is None else draw, *rest) for draw, key, *rest in lines]


@pytest.fixture(scope="module")
def process(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    shutil.copyfile(sqlite_template, folder / "promptgps.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    service = Service(f"sqlite:///{folder}/promptgps.db", folder, port)
    yield service
    service.kill()


@pytest.fixture
def service(process: Service, request: pytest.FixtureRequest) -> Service:
    process.run = request.node.name.replace("[", "-").strip("]")
    open_run(process.up(), PROMPTS, process.run)
    return process


@contextmanager
def selector_of(service: Service, spool: Path, **options: Any) -> Iterator[Selector]:
    given = {
        "run": service.run,
        "batch_size": BATCH,
        "prompts": KEYS,
        "spool": spool,
        "deadline": 3.0,
        **options,
    }
    with Selector(service.url, **given) as selector:
        yield selector


def solved(draw_id: str) -> int:
    """Successes of a draw, which depend only on the end of its id.

    That is the number of the draw, or the prompt.
    """
    return sum(map(ord, draw_id.split("-")[-1])) % (ROLLOUTS + 1)


def named(draw_id: str, rollout: int, version: int) -> Line:
    """The line of the log that a report makes."""
    number = draw_id.split("-")[-1]
    if draw_id.startswith("local"):
        return number, -1, float(solved(draw_id)), ROLLOUTS, version
    if rollout < 0:
        return int(number), -1, float(solved(draw_id)), ROLLOUTS, version
    return int(number), rollout, float(rollout < solved(draw_id)), 1, version


def report(selector: Selector, draw_ids: list[str], version: int) -> list[Line]:
    """Report a batch, by groups or by rollouts; answers the lines that the log must have for it."""
    if version % 2:
        won = [float(solved(draw_id)) for draw_id in draw_ids]
        selector.report(
            draw_ids, successes=won, trials=[ROLLOUTS] * len(draw_ids), policy_version=version
        )
        return [named(draw_id, -1, version) for draw_id in draw_ids]
    flat = [draw_id for draw_id in draw_ids for _ in range(ROLLOUTS)]
    rewards = [
        float(rollout < solved(draw_id)) for draw_id in draw_ids for rollout in range(ROLLOUTS)
    ]
    selector.report(flat, reward=rewards, policy_version=version)
    single = [(draw_id, rollout) for draw_id in draw_ids for rollout in range(ROLLOUTS)]
    return list(dict.fromkeys(named(draw_id, rollout, version) for draw_id, rollout in single))


# ---- the service is killed -----------------------------------------------------------------------


@pytest.mark.timeout(240)
def test_the_service_is_killed_and_comes_back_under_a_running_loop(
    service: Service, tmp_path: Path
) -> None:
    expected: list[Line] = []
    sources: list[str] = []
    with selector_of(service, tmp_path / "spool") as selector:

        def step() -> str:
            version = len(sources)
            batch = selector.next_batch(version)
            assert batch.sequence == version
            assert len(set(batch.prompt)) == BATCH
            expected.extend(report(selector, batch.draw_id, version))
            sources.append(batch.source)
            return batch.source

        assert [step() for _ in range(6)] == ["service"] * 6
        service.kill()
        began = time.monotonic()
        assert [step() for _ in range(30)] == ["fallback"] * 30
        assert time.monotonic() - began < 30 * 3.0 / 2, "each step waited for the deadline"
        assert selector.counters["reports_waiting"] >= 30
        service.up()
        wait_for(lambda: step() == "service", 90.0, "draws of the service", pause=0.3)
        assert [step() for _ in range(5)] == ["service"] * 5
        assert selector.flush(60.0)
        counters = selector.counters
    assert (
        counters["reports_waiting"]
        == counters["reports_refused"]
        == counters["reports_dropped"]
        == 0
    )
    assert counters["outcomes_conflicting"] == 0

    assert sorted(service.log(), key=str) == sorted(expected, key=str)
    run = service.up().wait_trained(service.run)
    assert run["log_position"] == len(expected)
    # the numbers that the service never answered are skipped,
    # and do not keep those after them from being replayed
    issued = [
        row.sequence
        for row in service.query("sequence FROM selections WHERE run_id = {run} ORDER BY ordinal")
    ]
    assert issued == [number for number, source in enumerate(sources) if source == "service"]
    clocks = service.up().json("GET", f"/runs/{service.run}/metrics")["series"]["clock"]
    assert clocks == sorted(clocks)
    with PromptGPS(service.url) as client:
        again = client.select_batch(run=service.run, sequence=2, batch_size=BATCH, policy_version=2)
        assert again.replayed
        # without a sequence the service goes on after the last
        assert client.select_batch(run=service.run, batch_size=1).sequence == len(sources)


@pytest.mark.timeout(240)
def test_a_service_that_stands_still_is_not_waited_for_and_its_late_draws_are_not_used(
    service: Service, tmp_path: Path
) -> None:
    process = service.up().process
    with selector_of(service, tmp_path / "spool", deadline=1.0) as selector:
        expected = report(selector, selector.next_batch(0).draw_id, 0)
        assert selector.flush()
        process.send_signal(signal.SIGSTOP)
        local = selector.next_batch(1)
        assert local.source == "fallback"
        expected += report(selector, local.draw_id, 1)
        process.send_signal(signal.SIGCONT)
        assert selector.flush(60.0)
        # the service may have done the request that it got before it stood still
        wait_for(
            lambda: selector.next_batch(2).source == "service",
            60.0,
            "draws of the service",
            pause=0.3,
        )
        assert selector.batch_at(1) == local
    log = service.log()
    assert sorted(log, key=str) == sorted(expected, key=str)


# ---- the trainer is killed -----------------------------------------------------------------------

TRAINER = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tests.client.test_selector_outage import BATCH, KEYS, report
from promptgps_client import Selector

home = Path(sys.argv[4])
selector = Selector(sys.argv[1], run=sys.argv[2], batch_size=BATCH, prompts=KEYS, \
spool=home / "spool", deadline=1.0)
journal = home / "journal.jsonl"
if (home / "state.json").exists():
    selector.load_state_dict(json.loads((home / "state.json").read_text()))
with journal.open("a") as notes:
    while True:
        version = selector.state_dict()["sequence"]
        batch = selector.next_batch(version)
        print(json.dumps(["reports", version, batch.draw_id]), file=notes, flush=True)
        report(selector, batch.draw_id, version)
        print(json.dumps(["reported", version, batch.draw_id]), file=notes, flush=True)
        (home / "new.json").write_text(json.dumps(selector.state_dict()))
        os.replace(home / "new.json", home / "state.json")
"""


@pytest.mark.timeout(280)
def test_a_trainer_that_is_killed_again_and_again_reports_everything_once(
    service: Service, tmp_path: Path
) -> None:
    home = tmp_path / "trainer"
    luck = random.Random(5)
    home.mkdir()
    journal = home / "journal.jsonl"

    def reported() -> int:
        return journal.read_text().count('"reported"') if journal.exists() else 0

    arguments = [sys.executable, "-c", TRAINER, service.url, service.run, ROOT, str(home)]
    for life in range(8):
        if life == 3:
            service.kill()
        if life == 5:
            service.up()
        before = reported()
        with (home / "errors").open("ab") as errors:
            trainer = subprocess.Popen(arguments, env=environment(), stderr=errors)
        try:
            wait_for(
                lambda before=before: reported() > before + 3,
                60.0,
                f"reports {(home / 'errors').read_text()}",
            )
            time.sleep(luck.random() / 20)  # anywhere in the loop
        finally:
            trainer.kill()
            trainer.wait()
    with selector_of(service, home / "spool") as last:
        assert last.flush(60.0)
        counters = last.counters
    assert (
        counters["reports_refused"]
        == counters["reports_dropped"]
        == counters["outcomes_conflicting"]
        == 0
    )
    notes = [json.loads(line) for line in journal.read_text().splitlines() if line.endswith("]")]
    certain = {line for what, *told in notes if what == "reported" for line in lines_of(*told)}
    begun = {line for what, *told in notes if what == "reports" for line in lines_of(*told)}
    log = Counter(service.log())
    assert set(log.values()) == {1}
    assert certain <= set(log) <= begun
    assert any(isinstance(line[0], str) for line in certain), "no life fell back"
    assert any(isinstance(line[0], int) for line in certain)


def lines_of(version: int, draw_ids: list[str]) -> list[Line]:
    rollouts = [-1] if version % 2 else range(ROLLOUTS)
    return [named(draw_id, rollout, version) for draw_id in draw_ids for rollout in rollouts]


# ---- the trainer's disk is full ------------------------------------------------------------------

FULL = """
import os, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tests.client.test_selector_outage import BATCH, KEYS, report
from promptgps_client import Selector

selector = Selector(sys.argv[1], run=sys.argv[2], batch_size=BATCH, prompts=KEYS, \
spool=sys.argv[4], deadline=30.0)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
for version in range(6):
    report(selector, selector.next_batch(version).draw_id, version)
os.kill(os.getpid(), 9)
"""


def test_without_disk_a_report_is_delivered_before_it_returns(
    service: Service, tmp_path: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FULL, service.url, service.run, ROOT, str(tmp_path / "spool")],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert ended.stderr.count("a report is only in memory") == 6
    issued = [f"d-{number}" for number in range(6 * BATCH)]
    batches = [issued[version * BATCH : (version + 1) * BATCH] for version in range(6)]
    assert service.log() == [
        line for version, batch in enumerate(batches) for line in lines_of(version, batch)
    ]


# ---- ranks, waiting, prefetch --------------------------------------------------------------------


def test_ranks_draw_the_same_and_each_reports_its_part(service: Service, tmp_path: Path) -> None:
    world = 3
    expected: list[Line] = []
    with (
        selector_of(service, tmp_path / "0") as first,
        selector_of(service, tmp_path / "1") as second,
        selector_of(service, tmp_path / "2") as third,
    ):
        ranks = (first, second, third)
        for version in range(4):
            batches = [selector.next_batch(version) for selector in ranks]
            assert batches[0].draw_id == batches[1].draw_id == batches[2].draw_id
            assert sorted(batch.source for batch in batches) == ["replay", "replay", "service"]
            for rank, selector in enumerate(ranks):
                part = batches[rank].part(rank, world)
                expected += report(selector, part.draw_id, version)
        assert all(selector.flush() for selector in ranks)
        states = [selector.state_dict() for selector in ranks]
        assert states[0] == states[1] == states[2]
    assert sorted(service.log(), key=str) == sorted(expected, key=str)


@pytest.mark.parametrize("prefetch", [False, True])
def test_waiting_for_the_model_works_with_and_without_prefetch(
    service: Service, tmp_path: Path, prefetch: bool
) -> None:
    with selector_of(
        service,
        tmp_path / "spool",
        deadline=30.0,
        wait_seconds=30.0,
        prefetch=prefetch,
        fallback="scores",
    ) as selector:
        drawn = []
        for version in range(8):
            batch = selector.next_batch(version)
            assert (batch.source, batch.sequence) == ("service", version)
            drawn += batch.draw_id
            report(selector, batch.draw_id, version)
        assert len(set(drawn)) == len(drawn)
    clocks = service.query(
        "policy_version, trained_through FROM selections WHERE run_id = {run} ORDER BY ordinal"
    )
    if prefetch:  # asked when the batch before was handed out, for the policy of then
        assert [row.policy_version for row in clocks][:8] == [0, *range(7)]
    else:
        assert [row.policy_version for row in clocks] == list(range(8))
        lines = [BATCH * (1 if version % 2 else ROLLOUTS) for version in range(8)]
        assert [row.trained_through for row in clocks] == [
            sum(lines[:version]) for version in range(8)
        ]

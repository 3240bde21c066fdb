"""Many threads of two processes on one run: no draw twice, no outcome lost.

And the model learns all the same.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from promptgps_service.flow.context import Context
from promptgps_service.flow.open_run import describe_run
from promptgps_service.flow.trainer import Learning

from tests.databases import opened_context
from tests.flow.driving import add, log_length, open_run, report, report_groups, select, settle

THREADS = 8
SERVING = Learning(enabled=False, groups=1, seconds=0.0)


def test_threads_that_select_and_report_at_once_lose_nothing(
    context: Context, database_url: str
) -> None:
    add(context, 80)
    open_run(context)
    rounds = 6

    def work(process: Context) -> list[str]:
        drawn = []
        for _ in range(rounds):
            batch = select(process, 3)
            drawn += batch.draws.draw_id
            assert report_groups(process, batch).stored == 3
            assert report_groups(process, batch).duplicates == 3  # sent again by an anxious client
        return drawn

    with (
        opened_context(database_url, learning=SERVING) as other,
        ThreadPoolExecutor(THREADS) as threads,
    ):
        drawn = [
            draw for ids in threads.map(work, [context, other] * (THREADS // 2)) for draw in ids
        ]
    total = THREADS * rounds * 3
    assert len(set(drawn)) == len(drawn) == total
    assert log_length(context) == total
    select(context, 1)  # takes in what the other process has stored
    assert settle(context).trained_through == total
    state = context.desk("run").state
    assert float(state.trials.sum()) == 8 * total
    assert int(state.traffic.open.sum()) == 1


def test_a_process_that_starts_while_another_serves_reads_a_whole_state(
    context: Context, database_url: str
) -> None:
    add(context, 40)
    open_run(context)
    started = threading.Event()

    def serve() -> int:
        stored = 0
        while not started.is_set():
            stored += report_groups(context, select(context, 1)).stored
        return stored

    with ThreadPoolExecutor(3) as threads:
        jobs = [threads.submit(serve) for _ in range(3)]
        try:
            for _ in range(12):
                with opened_context(database_url, learning=SERVING) as other:
                    state = other.desk("run").state
                    with state.lock:  # it is followed on
                        assert state.draws >= state.log_position == int(state.trials.sum()) / 8
        finally:
            started.set()
        stored = sum(job.result() for job in jobs)
    assert log_length(context) == stored


def test_one_report_sent_by_many_threads_counts_once(context: Context) -> None:
    add(context, 40)
    open_run(context)
    batch = select(context, 20)
    together = threading.Barrier(THREADS)

    def send(_: int) -> tuple[int, int]:
        together.wait(timeout=30)
        answer = report_groups(context, batch)
        return answer.stored, answer.duplicates

    with ThreadPoolExecutor(THREADS) as threads:
        answers = list(threads.map(send, range(THREADS)))
    assert sorted(answers) == [(0, 20)] * (THREADS - 1) + [(20, 0)]
    assert log_length(context) == 20


def test_contradicting_reports_at_once_leave_one_truth(context: Context) -> None:
    add(context, 40)
    open_run(context)
    draws = select(context, 10).draws.draw_id

    def send(successes: int) -> tuple[int, int]:
        answer = report(context, draw_id=draws, successes=[successes] * 10, trials=[8] * 10)
        return answer.stored, len(answer.conflicts)

    with ThreadPoolExecutor(THREADS) as threads:
        answers = list(threads.map(send, range(THREADS)))
    assert sorted(answers) == [(0, 10)] * (THREADS - 1) + [(10, 0)]
    assert log_length(context) == 10


def test_selecting_goes_on_while_the_pool_grows_and_the_model_learns(context: Context) -> None:
    add(context, 30)
    open_run(context)
    stop = threading.Event()

    def grow() -> None:
        for first in range(30, 90, 5):
            add(context, 5, first=first)
        stop.set()

    def train() -> int:
        stored = 0
        while not stop.is_set() or stored == 0:
            stored += report_groups(context, select(context, 4)).stored
        return stored

    with ThreadPoolExecutor(3) as threads:
        jobs = [threads.submit(train), threads.submit(train)]
        threads.submit(grow).result()
        stored = sum(job.result() for job in jobs)
    assert settle(context).trained_through == stored == log_length(context)
    assert len(set(select(context, 90).draws.prompt)) == 90
    assert describe_run(context, "run").prompts == 90


def test_a_process_that_closes_in_the_middle_of_learning_has_stored_everything(
    database_url: str,
) -> None:
    with opened_context(database_url) as context:
        add(context, 60)
        open_run(context)
        for _ in range(5):
            report_groups(context, select(context, 8))
        context.desk("run").trainer.wake(40)
    with opened_context(database_url) as after:
        assert settle(after).trained_through == 40
        with after.store.read() as unit:
            steps = unit.versions.metrics(unit.runs.get("run").id)
        # every outcome was learned from exactly once
        assert sum(step["rollouts"] for _, _, step in steps) == 320

"""Any sequence of what a run can meet.

Selections, reports, repetitions, contradictions, growth, restarts, snapshots and restores.

The service is held against plain dictionaries.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from promptgps_client.wire import Batch, Restore, TakeSnapshot
from promptgps_service.errors import Conflict, Invalid, NotFound
from promptgps_service.flow.context import Context
from promptgps_service.flow.open_run import describe_run
from promptgps_service.flow.restore import restore_run
from promptgps_service.flow.snapshot import list_snapshots, take_snapshot
from promptgps_service.store.records import STATUS_CODES
from sqlalchemy import text

from tests.databases import copied_file, opened_context, postgres_database
from tests.flow.driving import WAIT, add, log_length, open_run, report, select, settle

ROLLOUTS = 3
GROUP = -1
NEVER = "d1-999999"
Line = tuple[float, int, float | None, int]  # successes, trials, reward, status
Database = Callable[[], AbstractContextManager[str]]

tags = st.sampled_from(["a", "b", "c"])
# of draws, taken modulo their number
places = st.lists(st.integers(0, 10_000), min_size=1, max_size=6)
wholes = [(won, ROLLOUTS) for won in range(ROLLOUTS + 1)]
parts = st.sampled_from([(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), *wholes, (3, 5)])
groups = st.lists(st.tuples(st.integers(0, 10_000), parts), min_size=1, max_size=6)
rollouts = st.lists(
    st.tuples(
        st.integers(0, 10_000),
        st.integers(0, ROLLOUTS - 1),
        st.sampled_from([0.0, 1.0]),
        st.sampled_from(["ok", "ok", "ok", *STATUS_CODES]),
    ),
    min_size=1,
    max_size=8,
)


KNOWN = "known"
CONFLICT = "conflict"


def judged(had: list[tuple[int, Line]], rollout: int, line: Line) -> Line | str:
    """What a line adds to those that a draw has had."""
    won, of, *rest = line
    if not of:
        seen = [each for each, _ in had if GROUP in (rollout, each) or each == rollout]
        return KNOWN if seen else line
    told = [(each, other) for each, other in had if other[1]]
    all_won, all_of = (sum(other[column] for _, other in told) for column in (0, 1))
    in_groups = [other for each, other in told if each == GROUP]
    group_won, group_of = (sum(other[column] for other in in_groups) for column in (0, 1))
    if rollout != GROUP:
        same = [other for each, other in told if each == rollout]
        if same:
            return KNOWN if same == [line] else CONFLICT
        if not in_groups or all_of < ROLLOUTS:
            return line
        return KNOWN if 0 <= group_won - won <= group_of - of else CONFLICT
    groups = any(each == GROUP for each, _ in had)
    if line in in_groups or (not groups and (won, of) == (all_won, all_of)):
        return KNOWN
    if not told or all_of + of <= ROLLOUTS:
        return line
    if of > all_of and 0 <= won - all_won <= of - all_of:
        return (won - all_won, of - all_of, *rest)  # type: ignore[return-value]
    return KNOWN if of <= all_of and 0 <= all_won - won <= all_of - of else CONFLICT


@dataclass
class Story:
    """A run up to a moment, as a careful clerk would have written it down."""

    # sequence: size asked for, answer
    batches: dict[int, tuple[int, Batch]] = field(default_factory=dict)
    draws: list[tuple[str, str]] = field(default_factory=list)  # draw id, prompt
    # of each draw: rollout, line
    known: dict[str, list[tuple[int, Line]]] = field(default_factory=dict)
    log: int = 0
    counts: dict[str, tuple[float, int]] = field(default_factory=dict)

    def copy(self) -> Story:
        known = {draw: list(had) for draw, had in self.known.items()}
        return Story(dict(self.batches), list(self.draws), known, self.log, dict(self.counts))


class LogMachine(RuleBasedStateMachine):
    """The service on one side, the clerk on the other."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.url = self.stack.enter_context(database())
        self.process = ExitStack()
        self.context = self.open()
        self.prompts = 0
        self.now = Story()
        # tag: the run then, and whether all of it was learned
        self.marks: dict[str, tuple[Story, bool]] = {}
        self.epoch = 0
        self.superseded: list[str] = []  # draw ids
        self.late: dict[str, list[tuple[int, Line]]] = {}  # of superseded draws
        self.kept = 0  # superseded outcomes

    def open(self) -> Context:
        return self.process.enter_context(opened_context(self.url))

    def teardown(self) -> None:
        try:
            if self.prompts:
                assert settle(self.context).trained_through == self.now.log
        finally:
            self.process.close()
            self.stack.close()

    # ---- what a trainer does ---------------------------------------------------------------------

    @initialize()
    def start(self) -> None:
        self.grow(9)
        open_run(self.context, rollouts_per_prompt=ROLLOUTS, selection={"uniform_share": 0.3})

    @rule(more=st.integers(1, 4))
    def grow(self, more: int) -> None:
        assert add(self.context, more, first=self.prompts).total == self.prompts + more
        self.prompts += more

    @rule(size=st.integers(1, 7), sequence=st.none() | st.integers(0, 30))
    def select(self, size: int, sequence: int | None) -> None:
        if sequence in self.now.batches:
            self.ask_again(sequence, size)
            return
        batch = select(self.context, size, sequence=sequence)
        assert not batch.replayed
        assert batch.sequence == (
            max(self.now.batches, default=-1) + 1 if sequence is None else sequence
        )
        assert len(set(batch.draws.prompt)) == len(batch.draws.draw_id) == size
        assert not {*(draw for draw, _ in self.now.draws), *self.superseded} & set(
            batch.draws.draw_id
        )
        waiting = {prompt for draw, prompt in self.now.draws if not self.answered(draw)}
        if not any("pending" in warning for warning in batch.warnings):
            assert waiting.isdisjoint(batch.draws.prompt)
        self.now.batches[batch.sequence] = size, batch
        self.now.draws += zip(batch.draws.draw_id, batch.draws.prompt, strict=True)

    def ask_again(self, sequence: int, size: int) -> None:
        asked, first = self.now.batches[sequence]
        if asked == size:
            assert select(self.context, size, sequence=sequence) == first.model_copy(
                update={"replayed": True}
            )
        else:
            with pytest.raises(Conflict):
                select(self.context, size, sequence=sequence)

    @precondition(lambda self: self.now.batches)
    @rule(place=st.integers(0, 10_000))
    def replay(self, place: int) -> None:
        sequence = sorted(self.now.batches)[place % len(self.now.batches)]
        self.ask_again(sequence, self.now.batches[sequence][0])

    @rule()
    def ask_for_more_than_there_is(self) -> None:
        with pytest.raises(Invalid):
            select(self.context, self.prompts + 1)

    @precondition(lambda self: self.now.draws)
    @rule(rows=groups)
    def report_groups(self, rows: list[tuple[int, tuple[int, int]]]) -> None:
        named = [(self.now.draws[place % len(self.now.draws)], said) for place, said in rows]
        answer = report(
            self.context,
            draw_id=[draw for (draw, _), _ in named],
            successes=[won for _, (won, _) in named],
            trials=[of for _, (_, of) in named],
        )
        lines = [
            (draw, prompt, GROUP, (float(won), of, None, 0)) for (draw, prompt), (won, of) in named
        ]
        self.compare(answer, lines)

    @precondition(lambda self: self.superseded)
    @rule(rows=groups, standing=st.integers(0, 10_000), successes=st.integers(0, ROLLOUTS))
    def report_late(
        self, rows: list[tuple[int, tuple[int, int]]], standing: int, successes: int
    ) -> None:
        """Outcomes of superseded draws, and one more where a draw stands: it alone is news."""
        late = [(self.superseded[place % len(self.superseded)], *said) for place, said in rows]
        mine = self.now.draws[standing % len(self.now.draws) :][:1] if self.now.draws else []
        named = [*((draw, successes, ROLLOUTS) for draw, _ in mine), *late]
        answer = report(
            self.context,
            draw_id=[draw for draw, *_ in named],
            successes=[won for _, won, _ in named],
            trials=[of for *_, of in named],
        )
        self.compare(
            answer,
            [(*draw, GROUP, (float(successes), ROLLOUTS, None, 0)) for draw in mine],
            late=len(late),
        )
        for draw, won, of in late:
            had = self.late.setdefault(draw, [])
            news = judged(had, GROUP, (float(won), of, None, 0))
            if not isinstance(news, str):
                had.append((GROUP, news))
                self.kept += 1

    @precondition(lambda self: self.now.draws)
    @rule(rows=rollouts)
    def report_rollouts(self, rows: list[tuple[int, int, float, str]]) -> None:
        named = [(self.now.draws[place % len(self.now.draws)], *rest) for place, *rest in rows]
        answer = report(
            self.context,
            draw_id=[draw for (draw, _), *_ in named],
            rollout_index=[index for _, index, *_ in named],
            reward=[reward for _, _, reward, _ in named],
            status=[status for *_, status in named],
        )
        lines = []
        for (draw, prompt), index, reward, status in named:
            counts = status in ("ok", "truncated")
            line = (reward if counts else 0.0, int(counts), reward, STATUS_CODES[status])
            lines.append((draw, prompt, index, line))
        self.compare(answer, lines)

    @rule(rows=places)
    def report_by_key(self, rows: list[int]) -> None:
        keys = [f"pool-{place % 9}" for place in rows]
        answer = report(
            self.context, prompt=keys, successes=[1] * len(keys), trials=[2] * len(keys)
        )
        assert (answer.stored, answer.duplicates, answer.conflicts) == (len(keys), 0, [])
        for key in keys:
            self.count(key, 1.0, 2)

    @rule(rows=places)
    def report_what_was_never_drawn(self, rows: list[int]) -> None:
        ids = (
            [self.now.draws[place % len(self.now.draws)][0] for place in rows]
            if self.now.draws
            else []
        )
        with pytest.raises(NotFound):
            report(
                self.context,
                draw_id=[*ids, NEVER],
                successes=[0] * (len(ids) + 1),
                trials=[1] * (len(ids) + 1),
            )

    @rule()
    def restart(self) -> None:
        self.process.close()
        self.context = self.open()

    @rule()
    def wait_for_the_model(self) -> None:
        assert settle(self.context).trained_through == self.now.log

    # ---- checkpoints -----------------------------------------------------------------------------

    @rule(tag=tags, learned=st.booleans())
    def mark(self, tag: str, learned: bool) -> None:
        if learned:
            settle(self.context)
        made, new = take_snapshot(self.context, "run", TakeSnapshot(tag=tag))
        assert new == (tag not in self.marks)
        then, _ = self.marks.setdefault(tag, (self.now.copy(), learned))
        assert (made.log_position, made.draws, made.selections) == (
            then.log,
            len(then.draws),
            len(then.batches),
        )

    @precondition(lambda self: self.marks)
    @rule(place=st.integers(0, 10_000))
    def go_back(self, place: int) -> None:
        self.put_back(list(self.marks)[place % len(self.marks)])

    @rule(tag=tags)
    def go_back_to_what_does_not_stand(self, tag: str) -> None:
        if tag not in self.marks:
            with pytest.raises(NotFound):
                restore_run(self.context, "run", Restore(tag=tag), None)

    @precondition(lambda self: any(learned for _, learned in self.marks.values()))
    @rule(place=st.integers(0, 10_000), size=st.integers(1, 7))
    def live_it_again(self, place: int, size: int) -> None:
        learned = [tag for tag, (_, learned) in self.marks.items() if learned]
        tag = learned[place % len(learned)]
        drawn = []
        for _ in range(2):
            self.put_back(tag)
            sequence = max(self.now.batches, default=-1) + 1
            batch = select(self.context, size, sequence=sequence, wait_seconds=WAIT)
            self.now.batches[sequence] = size, batch
            self.now.draws += zip(batch.draws.draw_id, batch.draws.prompt, strict=True)
            drawn.append(batch.draws.model_dump(exclude={"draw_id"}))
        assert drawn[0] == drawn[1]

    def put_back(self, tag: str) -> None:
        then, _ = self.marks[tag]
        gone = self.now.draws[len(then.draws) :]
        later = list(self.marks)[list(self.marks).index(tag) + 1 :]
        moved = bool(gone) or self.now.log > then.log
        answer = restore_run(self.context, "run", Restore(tag=tag), None)
        self.epoch += moved
        assert (answer.epoch, answer.log_position, answer.draws) == (
            self.epoch,
            then.log,
            len(then.draws),
        )
        counted = answer.superseded
        assert (counted.draws, counted.outcomes) == (len(gone), self.now.log - then.log)
        assert counted.snapshots == (len(later) if moved else 0)
        self.superseded += [draw for draw, _ in gone]
        self.kept += self.now.log - then.log
        self.late |= {draw: self.now.known.get(draw, []) for draw, _ in gone}
        if moved:
            for each in later:
                del self.marks[each]
        self.now = then.copy()

    # ---- what the clerk writes down --------------------------------------------------------------

    def answered(self, draw: str) -> set[int]:
        return {rollout for rollout, _ in self.now.known.get(draw, [])}

    def count(self, prompt: str, successes: float, trials: int) -> None:
        had = self.now.counts.get(prompt, (0.0, 0))
        self.now.counts[prompt] = had[0] + successes, had[1] + trials
        self.now.log += 1

    def compare(
        self, answer: Any, lines: list[tuple[str, str, int, Line]], *, late: int = 0
    ) -> None:
        stored = 0
        duplicates = 0
        conflicts = []
        for row, (draw, prompt, rollout, line) in enumerate(lines):
            had = self.now.known.setdefault(draw, [])
            news = judged(had, rollout, line)
            if news == KNOWN:
                duplicates += 1
            elif isinstance(news, str):
                conflicts.append(row)
            else:
                stored += 1
                had.append((rollout, news))
                self.count(prompt, news[0], news[1])
        assert (answer.stored, answer.duplicates, answer.conflicts) == (
            stored,
            duplicates,
            conflicts,
        )
        assert answer.superseded == late
        assert answer.log_position == self.now.log

    # ---- what must hold after every step ---------------------------------------------------------

    @precondition(lambda self: self.prompts)
    @invariant()
    def the_log_is_gapless_and_of_the_right_length(self) -> None:
        assert log_length(self.context) == self.now.log

    @precondition(lambda self: self.prompts)
    @invariant()
    def counts_and_pending_are_those_of_the_log(self) -> None:
        state = self.context.desk("run").state
        assert state.draws == len(self.now.draws)
        waiting: dict[str, int] = {}
        for draw, prompt in self.now.draws:
            waiting[prompt] = waiting.get(prompt, 0) + (not self.answered(draw))
        for row in range(state.rows):
            key = f"pool-{row}"
            assert (float(state.successes[row]), int(state.trials[row])) == self.now.counts.get(
                key, (0.0, 0)
            )
            assert int(state.traffic.open[row]) == waiting.get(key, 0)

    @precondition(lambda self: self.prompts)
    @invariant()
    def nothing_that_was_put_back_is_deleted(self) -> None:
        with self.context.store.read() as unit:
            ((outcomes,),) = unit.connection.execute(
                text("SELECT count(*) FROM superseded_outcomes")
            ).all()
            ((draws,),) = unit.connection.execute(
                text("SELECT sum(size) FROM superseded_selections")
            ).all()
        assert (outcomes, draws or 0) == (self.kept, len(self.superseded))
        told = list_snapshots(self.context, "run")
        assert [each.tag for each in told.snapshots if not each.superseded] == list(self.marks)
        assert (
            told.epoch
            == len(told.restores)
            == describe_run(self.context, "run").epoch
            == self.epoch
        )


def machine_settings(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def test_any_story_on_sqlite(sqlite_template: Path, tmp_path: Path) -> None:
    numbers = itertools.count()

    @contextmanager
    def database() -> Iterator[str]:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        yield copied_file(sqlite_template, folder)
        shutil.rmtree(folder)

    run_state_machine_as_test(lambda: LogMachine(database), settings=machine_settings(30))


def test_any_story_on_postgresql(postgres_server: str) -> None:
    def database() -> AbstractContextManager[str]:
        return postgres_database(postgres_server)

    run_state_machine_as_test(lambda: LogMachine(database), settings=machine_settings(8))

"""What a report adds to what is known of its draws: evidence.

Each piece counts once, whatever the order and however often it comes. What says nothing (a
time-out, 0 of 0) is kept only where nothing is known, and gives way. Of a group of n rollouts
reports may come in parts: as long as they fit beside each other they add up, and identical ones are
one. A report that does not fit beside what is known, but holds it, is the whole of it, and only the
rest is news; one that is held by what is known is no news. All else is a contradiction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypeAlias

from promptgps_client.wire import ROUNDING

from promptgps_service.store.records import GROUP, OutcomeRecord


class Verdict(Enum):
    """Why a line of a report is not stored."""

    DUPLICATE = "it says nothing that is not known"
    CONFLICT = "it contradicts what is known"


Line: TypeAlias = tuple[int, OutcomeRecord, int]  # row of the report, what it says, n of its draw


@dataclass
class Sorted:
    """A report against the log.

    Attributes:
        fresh: lines to be stored, in the order of the report.
        duplicates: how many rows say nothing new.
        conflicts: rows that contradict the log or an earlier row.
    """

    fresh: list[OutcomeRecord] = field(default_factory=list)
    duplicates: int = 0
    conflicts: list[int] = field(default_factory=list)


def sort_out(known: Iterable[OutcomeRecord], report: Iterable[Line]) -> Sorted:
    """Hold a report against what is known.

    Args:
        known: every stored line of the draws that the report is about.
        report: its lines; those without a draw are always news.
    """
    draws: defaultdict[int | None, _Draw] = defaultdict(_Draw)
    for line in known:
        draws[line.draw].add(line)

    answer = Sorted()
    for row, line, rollouts in report:
        if line.draw is None:
            answer.fresh.append(line)
            continue

        draw = draws[line.draw]
        news = draw.group(line, rollouts) if line.rollout == GROUP else draw.rollout(line, rollouts)
        if news is Verdict.DUPLICATE:
            answer.duplicates += 1
        elif news is Verdict.CONFLICT:
            answer.conflicts.append(row)
        else:
            draw.add(news)
            answer.fresh.append(news)

    return answer


class _Draw:
    """What is known of one draw: single rollouts by index, reports of groups, sums of both."""

    __slots__ = ("group_successes", "group_trials", "groups", "rollouts", "successes", "trials")

    def __init__(self) -> None:
        self.rollouts: dict[int, OutcomeRecord] = {}
        self.groups: list[OutcomeRecord] = []
        self.successes = 0.0
        self.trials = 0
        self.group_successes = 0.0
        self.group_trials = 0

    def add(self, line: OutcomeRecord) -> None:
        """Count a line that is stored."""
        self.successes += line.successes
        self.trials += line.trials

        if line.rollout == GROUP:
            self.groups.append(line)
            self.group_successes += line.successes
            self.group_trials += line.trials
            return

        before = self.rollouts.get(line.rollout)
        if before is None or before.part < line.part:
            self.rollouts[line.rollout] = line

    def rollout(self, line: OutcomeRecord, n: int) -> OutcomeRecord | Verdict:
        """What a single rollout adds."""
        known = self.rollouts.get(line.rollout)
        if line.trials == 0:
            return line if known is None and not self.groups else Verdict.DUPLICATE
        if known is not None and known.trials > 0:
            return Verdict.DUPLICATE if line.same_as(known) else Verdict.CONFLICT

        if self.group_trials == 0 or self.trials + 1 <= n:
            return line if known is None else replace(line, part=known.part + 1)

        held = _holds(self.group_successes, self.group_trials, line.successes, line.trials)
        return Verdict.DUPLICATE if held else Verdict.CONFLICT

    def group(self, line: OutcomeRecord, n: int) -> OutcomeRecord | Verdict:
        """What a report of a group, or of a part of it, adds."""
        if line.trials == 0:
            return line if not self.rollouts and not self.groups else Verdict.DUPLICATE
        if self._has_come(line):
            return Verdict.DUPLICATE

        part = len(self.groups)
        if self.trials == 0 or self.trials + line.trials <= n:
            return replace(line, part=part) if part else line

        if line.trials > self.trials and _holds(
            line.successes, line.trials, self.successes, self.trials
        ):
            rest = line.trials - self.trials
            successes = min(max(line.successes - self.successes, 0.0), float(rest))
            return replace(line, successes=successes, trials=rest, part=part)

        held = _holds(self.successes, self.trials, line.successes, line.trials)
        return Verdict.DUPLICATE if held else Verdict.CONFLICT

    def _has_come(self, line: OutcomeRecord) -> bool:
        """Whether the same was said before, by a group's report or by single rollouts together."""
        if not self.groups:
            said = line.trials, line.successes
            return self.trials == said[0] and abs(self.successes - said[1]) <= ROUNDING
        return any(line.same_as(other) for other in self.groups)


def _holds(successes: float, trials: int, part_successes: float, part_trials: int) -> bool:
    """Whether so many successes of trials can have the others among them."""
    won = successes - part_successes
    rest = trials - part_trials
    return rest >= 0 and -ROUNDING <= won <= rest + ROUNDING

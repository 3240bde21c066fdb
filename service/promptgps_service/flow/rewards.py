"""What raw rewards mean in a run: successes in [0, 1], or a refusal that names every wrong row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from promptgps_client.wire import ROUNDING, Reward, meant_value

from promptgps_service.errors import Fault
from promptgps_service.store.records import OutcomeRecord

ROWS_TOLD = 5  # of rewards that were cut


@dataclass
class Understood:
    """Rewards as they are meant.

    Attributes:
        success: in [0, 1]; 0 where the row says nothing.
        faults: of every row that the run cannot take, in the order of rows.
        warnings: about what was taken and yet may not be meant.
    """

    success: list[float]
    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def understand(
    reward: Reward, raw: Sequence[float | None], standing: Sequence[bool], *, stored: bool
) -> Understood:
    """Read the rewards of a report.

    Args:
        reward: the run's.
        raw: rewards; None where a row says nothing about difficulty.
        standing: whether the row's draw stands. What a restore has superseded shows nothing of the
            run as it is.
        stored: whether the run has outcomes, so that its reward cannot be changed any more.
    """
    if reward.kind == "binary":
        return _binary(reward, raw, standing, stored=stored)
    answer = Understood([0.0 if value is None else reward.success(value) for value in raw])
    if reward.kind == "affine":
        answer.warnings = _cut(reward, raw)
    return answer


def decided(reward: Reward, fresh: Sequence[OutcomeRecord]) -> Reward:
    """The run's reward once new lines have shown which two values a binary one has."""
    if reward.kind != "binary" or reward.values is not None:
        return reward
    for line in fresh:
        if line.reward is not None and line.trials > 0 and line.successes == 0:
            values = [meant_value(line.reward) or 0.0, 1.0]
            return reward.model_copy(update={"values": values})

    return reward


def _binary(
    reward: Reward, raw: Sequence[float | None], standing: Sequence[bool], *, stored: bool
) -> Understood:
    success = [0.0] * len(raw)
    faults: list[Fault] = []
    failures: dict[float, int] = {}  # value of a failure: the first row that has it
    if reward.values is not None:
        failures[reward.values[0]] = -1

    for row, value in enumerate(raw):
        if value is None:
            continue

        meant = meant_value(value)
        if meant is None:
            faults.append(_refused(f"{value!r} is {reward.expected}", row, stored=stored))
        elif meant > 0:
            success[row] = 1.0
        elif standing[row]:
            failures.setdefault(meant, row)
            first = next(iter(failures))
            if meant != first:
                faults += _contradictions(reward, raw, failures[first], row, faults, stored=stored)

    return Understood(success, sorted(faults, key=lambda fault: fault.row or 0))


def _contradictions(
    reward: Reward,
    raw: Sequence[float | None],
    first: int,
    row: int,
    so_far: Sequence[Fault],
    *,
    stored: bool,
) -> list[Fault]:
    """A failure of another value than the run's, or than the report's first, then named too."""
    if first < 0:
        return [_refused(f"{raw[row]!r} is {reward.expected}", row, stored=stored)]
    both = (
        f"row {first} has {raw[first]!r} and row {row} has {raw[row]!r}: "
        "a failure is 0 or -1, not both"
    )
    named = {fault.row for fault in so_far}
    return [_refused(both, each, stored=stored) for each in (first, row) if each not in named]


def _refused(what: str, row: int, *, stored: bool) -> Fault:
    other = "a reward of kind `threshold` or `affine`"
    if stored:
        todo = f"for other values open a run with {other}"
    else:
        todo = (
            f"for other values give the run {other}: PATCH `reward`, as long as nothing is stored"
        )

    return Fault("reward", f"{what}; {todo}", row)


def _cut(reward: Reward, raw: Sequence[float | None]) -> list[str]:
    """A warning where rewards lie farther outside [low, high] than rounding explains."""
    assert reward.low is not None
    assert reward.high is not None
    margin = ROUNDING * (reward.high - reward.low)
    low = reward.low - margin
    high = reward.high + margin
    outside = [
        row for row, value in enumerate(raw) if value is not None and not low <= value <= high
    ]
    if not outside:
        return []

    shown = ", ".join(f"{raw[row]!r} in row {row}" for row in outside[:ROWS_TOLD])
    more = f" and {len(outside) - ROWS_TOLD} more" if len(outside) > ROWS_TOLD else ""
    ends = f"[{reward.low!r}, {reward.high!r}]"

    return [f"rewards outside {ends} counted as its ends: {shown}{more}"]

"""What rewards mean, by itself: a report is understood, or every row that is wrong is named."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from promptgps_client.wire import ROUNDING, Reward
from promptgps_service.flow.rewards import understand


@given(
    st.sampled_from([[0.0, 1.0], [-1.0, 1.0], None]),
    st.lists(st.sampled_from([-1.0, 0.0, 1.0]) | st.floats(-2, 2) | st.none(), max_size=20),
    st.floats(-ROUNDING, ROUNDING),
)
def test_a_report_is_understood_or_every_wrong_row_is_named(
    known: list[float] | None, raw: list[float | None], off: float
) -> None:
    raw = [None if value is None else value + off / 2 for value in raw]
    told = understand(Reward(values=known), raw, [True] * len(raw), stored=False)

    def near(value: float, *targets: float) -> bool:
        return any(abs(value - target) <= ROUNDING for target in targets)

    wrong = {
        row
        for row, value in enumerate(raw)
        if value is not None and not near(value, *(known or [-1.0, 0.0, 1.0]))
    }
    named = {fault.row for fault in told.faults}
    if known is None:
        failures = {
            at for at in (0.0, -1.0) if any(value is not None and near(value, at) for value in raw)
        }
        assert wrong <= named
        assert (named == wrong) == (len(failures) < 2)
    else:
        assert named == wrong
    for row, value in enumerate(raw):
        if row not in named:
            assert told.success[row] == float(value is not None and near(value, 1.0))

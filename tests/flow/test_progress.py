"""How far a run has come, as a trainer that starts asks for it: is it the first one here?"""

from __future__ import annotations

from promptgps_client.wire import Progress, ReportOutcomes, Restore, TakeSnapshot
from promptgps_service.flow.context import Context
from promptgps_service.flow.open_run import describe_run, list_runs
from promptgps_service.flow.record import record_outcomes
from promptgps_service.flow.restore import restore_run
from promptgps_service.flow.snapshot import take_snapshot

from tests.flow.driving import add, open_run, report_groups, select


def progress(context: Context) -> Progress:
    found = describe_run(context, "run").progress
    assert found is not None
    return found


def test_only_outcomes_of_draws_count(context: Context) -> None:
    add(context, 30)
    opened = open_run(context)
    fresh = Progress(next_sequence=0, policy_version=None, reported_draws=0, reporting_for=None)
    assert opened.progress == progress(context) == fresh

    by_key = {
        "run": "run",
        "prompt": ["pool-1", "pool-2"],
        "successes": [1.0, 2.0],
        "trials": [4, 4],
    }
    record_outcomes(context, ReportOutcomes.model_validate(by_key), "offline")
    assert progress(context) == fresh

    select(context, 4, sequence=0, policy_version=0)
    batch = select(context, 4, sequence=7, policy_version=5)
    drawn = progress(context)
    assert (drawn.next_sequence, drawn.policy_version) == (8, 5)
    assert (drawn.reported_draws, drawn.reporting_for) == (0, None)

    report_groups(context, batch)
    reported = progress(context)
    assert reported.reported_draws == 8
    assert reported.reporting_for is not None
    assert 0 <= reported.reporting_for < 60
    assert [run.progress for run in list_runs(context).runs] == [None]


def test_what_a_restore_has_superseded_does_not_count(context: Context) -> None:
    add(context, 30)
    open_run(context)
    take_snapshot(context, "run", TakeSnapshot(tag="start"))
    report_groups(context, select(context, 4, sequence=0, policy_version=3))
    restore_run(context, "run", Restore(tag="start"), None)
    again = progress(context)
    assert (again.next_sequence, again.reported_draws, again.reporting_for) == (0, 0, None)

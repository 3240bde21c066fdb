"""A restart is not noticed: the same draws again, and the next ones as if nothing had happened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from promptgps_client.wire import Batch
from promptgps_service.flow.context import Context
from promptgps_service.flow.open_run import ChangeRun, change_run, describe_run

from tests.databases import copied_file, opened_context, postgres_database
from tests.flow.driving import add, open_run, report, report_groups, select, settle, step

STRATEGIES = [
    {"strategy": "promptgps"},
    {"strategy": "promptgps", "diversity": 0.5, "history_steps": 2, "uniform_share": 0.2},
    {"strategy": "mopps"},
    {"strategy": "uniform"},
    {"strategy": "promptgps", "predictor": "constant", "utility": "thompson", "retire_above": 0.8},
]


@pytest.fixture(params=("sqlite", "postgresql"))
def two_urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Two empty databases of one kind."""
    if request.param == "sqlite":
        template = request.getfixturevalue("sqlite_template")
        (tmp_path / "second").mkdir()
        yield copied_file(template, tmp_path), copied_file(template, tmp_path / "second")
    else:
        server = request.getfixturevalue("postgres_server")
        with postgres_database(server) as first, postgres_database(server) as second:
            yield first, second


def drive(context: Context, steps: range) -> list[Batch]:
    return [step(context, 8, sequence=number, policy_version=number) for number in steps]


def same_draws(one: Batch, other: Batch) -> None:
    assert one.draws.prompt == other.draws.prompt
    assert one.draws.predicted_success == other.draws.predicted_success
    assert one.draws.uncertainty == other.draws.uncertainty
    assert (one.model_version, one.trained_through) == (other.model_version, other.trained_through)
    assert one.warnings == other.warnings


@pytest.mark.parametrize(
    "selection", STRATEGIES, ids=[str(number) for number in range(len(STRATEGIES))]
)
def test_a_run_that_was_interrupted_draws_what_an_uninterrupted_one_draws(
    two_urls: tuple[str, str], selection: dict[str, object]
) -> None:
    whole_url, broken_url = two_urls
    with opened_context(whole_url) as whole:
        add(whole, 60)
        open_run(whole, selection=selection)
        expected = drive(whole, range(9))
    with opened_context(broken_url) as before:
        add(before, 60)
        open_run(before, selection=selection)
        drive(before, range(3))
    with opened_context(broken_url) as between:  # opened and closed without doing anything
        between.open_all()
    with opened_context(broken_url) as after:
        drive(after, range(3, 6))
    with opened_context(broken_url) as again:
        drive(again, range(6, 9))
        for number, batch in enumerate(expected):
            replayed = select(again, 8, sequence=number, policy_version=number)
            assert replayed.replayed
            same_draws(replayed, batch)


def test_a_restart_before_the_model_has_learned_learns_what_was_acknowledged(
    database_url: str,
) -> None:
    with opened_context(database_url) as before:
        add(before, 60)
        open_run(before)
        for number in range(4):
            report_groups(before, select(before, 8, sequence=number))
        position = before.desk("run").state.log_position
    with opened_context(database_url) as after:
        after.open_all()
        assert settle(after).trained_through == position == 32


def test_counts_pending_and_predictions_come_back_exactly(database_url: str) -> None:
    with ExitStack() as stack:
        before = stack.enter_context(opened_context(database_url))
        add(before, 40)
        open_run(before)
        for number in range(3):
            step(before, 8, policy_version=number)
        waiting = select(before, 5)
        report(
            before, draw_id=waiting.draws.draw_id[:1] * 2, rollout_index=[0, 3], reward=[1.0, 0.0]
        )
        report(before, prompt=["pool-0", "pool-39"], successes=[1, 2], trials=[3, 3])
        settle(before)
        after = stack.enter_context(opened_context(database_url))
        one = before.desk("run").state
        other = after.desk("run").state
        assert torch.equal(one.successes, other.successes)
        assert torch.equal(one.trials, other.trials)
        assert torch.equal(one.traffic.open, other.traffic.open)
        assert torch.equal(one.traffic.last_draw, other.traffic.last_draw)
        assert torch.equal(one.traffic.last_clock, other.traffic.last_clock)
        assert torch.equal(one.identity, other.identity)
        assert one.issued.reported.view.tolist() == other.issued.reported.view.tolist()
        assert one.table is not None
        assert other.table is not None
        assert torch.equal(one.table.posterior.mean, other.table.posterior.mean)
        assert torch.equal(one.table.posterior.std, other.table.posterior.std)


@pytest.mark.parametrize("selection", STRATEGIES[:3], ids=["promptgps", "diverse", "mopps"])
def test_a_restart_after_the_pool_has_grown_keeps_what_was_learned(
    database_url: str, selection: dict[str, object]
) -> None:
    with opened_context(database_url) as before:
        add(before, 40)
        open_run(before, selection=selection)
        drive(before, range(3))
        settle(before)
        add(before, 25, first=40)
        grown = select(before, 8, sequence=3)
        served = before.desk("run").state.table
    with opened_context(database_url) as after:
        found = after.desk("run").state.table
        assert served is not None
        assert found is not None
        assert (found.model_version, found.trained_through, found.rows) == (
            grown.model_version,
            24,
            65,
        )
        torch.testing.assert_close(found.posterior.mean, served.posterior.mean, rtol=0, atol=1e-6)
        assert select(after, 8, sequence=3).draws.prompt == grown.draws.prompt
        report_groups(after, grown)
        assert settle(after).trained_through == 32


def test_a_restart_after_the_pool_has_grown_unseen_draws_from_the_new_prompts(
    database_url: str,
) -> None:
    with opened_context(database_url) as before:
        add(before, 20)
        open_run(before)
        drive(before, range(2))
        add(before, 20, first=20)
    with opened_context(database_url) as after:
        batch = select(after, 40, sequence=9)
        assert len(set(batch.draws.prompt)) == 40


def test_settings_that_were_changed_stay_changed(database_url: str) -> None:
    with opened_context(database_url) as before:
        add(before, 20)
        open_run(before)
        changed = change_run(
            before,
            "run",
            ChangeRun.model_validate(
                {"rollouts_per_prompt": 4, "selection": {"predictor": "beta", "cooldown": 2}}
            ),
        )
    with opened_context(database_url) as after:
        assert describe_run(after, "run") == changed
        assert select(after, 2).draws.rollouts == [4, 4]

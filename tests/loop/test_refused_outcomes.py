"""What the service will never take reaches the loop; what is good beside it is delivered."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from promptgps_client import NotFound, OutcomesRefused, PromptGPS, Selector

from tests.server import Server, wait_for

from .conftest import BATCH, KEYS, ROLLOUTS, Make, add_pool, report, train


def rewarded(selector: Selector, version: int, rewards: list[float]) -> None:
    """Report a batch rollout by rollout, with these rewards for the rollouts of each draw."""
    batch = selector.next_batch(version)
    flat = [draw_id for draw_id in batch.draw_id for _ in rewards]
    selector.report(flat, reward=rewards * len(batch), policy_version=version)


def refused(spool: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (spool / "refused.jsonl").read_text().splitlines()]


# ---- nothing is learned: the loop is told --------------------------------------------------------


@pytest.mark.parametrize(
    ("rewards", "told"),
    [
        ([0.1, 0.9, 0.35, 0.7], "reward: 0.1 is"),
        ([5.0, 7.0, 5.0, 7.0], "reward: 5.0 is"),
        ([1.0, 0.5, 0.5, 0.5], "reward: 0.5 is"),
    ],
)
@pytest.mark.parametrize("ahead", [False, True])
def test_rewards_that_the_run_does_not_take_stop_the_loop_at_its_next_step(
    make: Make,
    tmp_path: Path,
    client: PromptGPS,
    run: str,
    rewards: list[float],
    told: str,
    ahead: bool,
) -> None:
    selector = make(spool=tmp_path / "spool", prefetch=ahead)

    def loop() -> None:
        for step in range(3):
            rewarded(selector, step, rewards)

    with pytest.raises(OutcomesRefused, match=told) as raised:
        loop()
    assert selector.counters["batches_service"] <= 2
    wrong = [reward for reward in rewards if reward != 1.0]
    assert raised.value.rows == len(wrong) * BATCH
    assert raised.value.kept == str(tmp_path / "spool" / "refused.jsonl")
    assert str(tmp_path / "spool" / "refused.jsonl") in str(raised.value)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
    assert client.run(run).log_position == (len(rewards) - len(wrong)) * BATCH


def test_a_report_tells_of_the_one_before_it_and_is_kept_itself(
    make: Make, client: PromptGPS, run: str
) -> None:
    selector = make()
    batch = selector.next_batch(0)
    selector.report(batch.draw_id[:2], successes=[0.5, 0.5], trials=[ROLLOUTS] * 2)
    wait_for(lambda: selector.counters["outcomes_refused"] == 2, 20.0, "the refusal")
    with pytest.raises(OutcomesRefused):
        selector.report(batch.draw_id[2:], successes=[1.0, 2.0], trials=[ROLLOUTS] * 2)
    assert selector.flush()
    assert client.run(run).log_position == 2
    report(selector, selector.next_batch(1), 1)  # told once


def test_draws_of_another_run_are_told(make: Make, client: PromptGPS, run: str) -> None:
    client.create_run(name=f"{run}-other", pool=run)
    strangers = client.select_batch(run=f"{run}-other", batch_size=BATCH, sequence=0).draws.draw_id
    selector = make()
    selector.next_batch(0)
    selector.report(strangers, successes=[1.0] * BATCH, trials=[ROLLOUTS] * BATCH)
    with pytest.raises(OutcomesRefused, match="draw_id"):
        selector.next_batch(1)


def test_at_the_end_it_is_in_the_log(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    selector = make()
    rewarded(selector, 0, [0.5] * ROLLOUTS)
    selector.close()
    assert f"{BATCH * ROLLOUTS} outcomes reported to run" in caplog.text


# ---- single rows ---------------------------------------------------------------------------------


def test_one_wrong_row_among_hundreds_costs_only_itself(
    client: PromptGPS, server: Server, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = [f"k{row}" for row in range(300)]
    add_pool(client, name, keys)
    client.create_run(name=name, pool=name, rollouts_per_prompt=ROLLOUTS, selection={"cooldown": 0})
    with Selector(
        server.url, run=name, batch_size=300, prompts=keys, spool=tmp_path, deadline=10
    ) as selector:
        for step in range(3):
            batch = selector.next_batch(step)
            solved: list[float] = [float(row % 5) for row in range(300)]
            solved[77 + step] = 1.5  # no whole number of successes
            draw_ids = list(batch.draw_id)
            draw_ids[200] = "d0-12345"
            selector.report(
                draw_ids, successes=solved, trials=[ROLLOUTS] * 300, policy_version=step
            )
            assert selector.flush()
        assert selector.counters["outcomes_refused"] == 6
        assert selector.counters["outcomes_stored"] == 3 * 298
    kept = refused(tmp_path)
    assert (
        sorted(
            row for line in kept for row in line["successes"] if line["draw_id"] != ["d0-12345"]
        )[-1]
        == 1.5
    )
    assert all(line["run"] == name and line["refused"] for line in kept)
    assert "a report is refused and kept" in caplog.text
    assert client.run(name).log_position == 3 * 298


def test_a_high_share_that_stays_is_told_again(make: Make) -> None:
    selector = make()
    train(selector, 1)

    def loop() -> None:
        for step in range(1, 12):
            draw_ids = selector.next_batch(step).draw_id
            selector.report(draw_ids, successes=[0.5, 1.0, 1.0, 1.0], trials=[ROLLOUTS] * BATCH)

    with pytest.raises(OutcomesRefused):
        loop()
    assert 7 <= selector.counters["outcomes_refused"] <= 9


def test_rows_that_cannot_be_sent_are_set_aside_as_those_that_are_refused(
    make: Make, client: PromptGPS, run: str, tmp_path: Path
) -> None:
    selector = make(spool=tmp_path / "spool")
    train(selector, 1)
    batch = selector.next_batch(1)
    selector.report(
        batch.draw_id, successes=[1.0, 9.0, 2.0, -1.0], trials=[ROLLOUTS] * BATCH, policy_version=1
    )
    assert selector.flush()
    assert client.run(run).log_position == BATCH + 2
    (line,) = refused(tmp_path / "spool")
    assert (line["draw_id"], line["successes"]) == (
        [batch.draw_id[1], batch.draw_id[3]],
        [9.0, -1.0],
    )
    assert "row 1: 9.0 of 4: more successes than trials" in line["refused"]


def test_what_was_refused_can_be_mended_and_sent_again(
    make: Make, client: PromptGPS, run: str, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    selector = make(spool=spool)
    train(selector, 1)
    state = selector.state_dict()
    batch = selector.next_batch(1)
    selector.report(
        batch.draw_id, successes=[1.0, 1.5, 2.0, 9.0], trials=[ROLLOUTS] * BATCH, policy_version=1
    )
    assert selector.flush()
    selector.close()
    assert client.run(run).log_position == BATCH + 2
    text = (spool / "refused.jsonl").read_text().replace("1.5", "1.0").replace("9.0", "4.0")
    (spool / "refused.jsonl").unlink()
    (spool / "1.jsonl").write_text(text)
    again = make(spool=spool)
    again.load_state_dict(state)
    assert again.flush()
    assert client.run(run).log_position == 2 * BATCH
    assert not (spool / "refused.jsonl").exists()
    # and still wrong, it is kept once more, and the loop is not stopped for what is not its own
    again.close()
    (spool / "1.jsonl").write_text(text.replace("4.0", "3.5").replace(batch.draw_id[3], "d0-99"))
    third = make(spool=spool)
    third.load_state_dict(state)
    assert third.flush()
    third.next_batch(1)
    assert {line["draw_id"][0] for line in refused(spool)} >= {"d0-99"}


def test_rows_of_local_draws_are_set_aside_by_themselves_too(
    make: Make, client: PromptGPS, run: str, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    away = make(
        service="http://127.0.0.1:9",
        spool=spool,
        deadline=0.2,
        prompts=[*KEYS[:5], "stranger"],
        batch_size=6,
    )
    batch = away.next_batch(0)
    assert batch.source == "fallback"
    flat = [draw_id for draw_id in batch.draw_id for _ in range(ROLLOUTS)]
    rewards = [float(row % 2) for row in range(len(flat))]
    wrong = batch.draw_id.index(next(one for one in batch.draw_id if not one.endswith("stranger")))
    rewards[wrong * ROLLOUTS] = 0.25
    away.report(flat, reward=rewards)
    away.close()
    later = make(spool=spool)
    assert later.flush()
    # a group for each draw, but for the one that nobody knows
    assert client.run(run).log_position == 5
    kept = refused(spool)
    assert (
        sum(len(line["local_id"]) for line in kept)
        == later.counters["outcomes_refused"]
        == 1 + ROLLOUTS
    )
    # the same again after a crash is the same: nothing counts twice
    assert later.counters["outcomes_stored"] == 5


# ---- a run that rests, or is gone ----------------------------------------------------------------


def test_reports_to_a_run_that_rests_wait_until_it_is_opened(
    make: Make, client: PromptGPS, run: str
) -> None:
    selector = make()
    train(selector, 1)
    batch = selector.next_batch(1)
    client.archive_run(run)
    report(selector, batch, 1)
    assert not selector.flush(20.0)
    local = selector.next_batch(2)
    assert local.source == "fallback"
    assert "archived" in local.warnings[0]
    report(selector, local, 2)
    client.reopen_run(run)
    assert selector.flush(20.0)
    assert selector.counters["outcomes_refused"] == selector.counters["reports_waiting"] == 0
    assert client.run(run).log_position == 3 * BATCH
    assert selector.next_batch(3).source == "service"


def test_reports_to_a_run_that_is_gone_are_refused_and_keep_no_others_up(
    make: Make, client: PromptGPS, run: str, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    old = make(service="http://127.0.0.1:9", run="never-there", spool=spool, deadline=0.2)
    report(old, old.next_batch(0), 0)
    old.close()
    selector = make(spool=spool)
    train(selector, 2)
    assert client.run(run).log_position == 2 * BATCH
    assert [line["run"] for line in refused(spool)] == ["never-there"]
    with pytest.raises(NotFound):
        client.run("never-there")

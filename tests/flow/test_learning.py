"""Learning: versions grow, the log is read to its end, predictions move towards what was seen."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from promptgps_client.wire import ChangeRun, CreatePool, PredictDifficulty
from promptgps_service.errors import Invalid, NotFound
from promptgps_service.flow import trainer as trainer_module
from promptgps_service.flow.context import Context
from promptgps_service.flow.metrics import run_metrics
from promptgps_service.flow.open_run import change_run, describe_run
from promptgps_service.flow.predict import predict_difficulty
from promptgps_service.flow.prompt_columns import PromptChunk
from promptgps_service.flow.register import add_prompts, create_pool
from promptgps_service.flow.trainer import Learning
from promptgps_service.store.unit import Unit

from tests.databases import opened_context
from tests.flow.driving import add, open_run, report, report_groups, select, settle, step, vectors

# learns only when somebody waits or a step is whole
LAZY = Learning(enabled=True, groups=10_000, seconds=3600.0)


def change(context: Context, **selection: object) -> None:
    change_run(context, "run", ChangeRun.model_validate({"selection": selection}))


def predicted(context: Context, keys: list[str]) -> list[float]:
    return predict_difficulty(context, PredictDifficulty(run="run", keys=keys)).success_mean


def test_the_model_version_grows_and_reaches_the_head_of_the_log(context: Context) -> None:
    add(context, 60)
    open_run(context)
    batches = [step(context, 16) for _ in range(5)]
    assert [batch.trained_through for batch in batches] == [0, 16, 32, 48, 64]
    versions = [batch.model_version for batch in batches]
    assert versions[0] == 0
    assert versions == sorted(set(versions))
    assert settle(context).trained_through == describe_run(context, "run").log_position == 80


def test_a_whole_step_is_learned_from_without_being_asked(database_url: str) -> None:
    with opened_context(database_url, learning=LAZY) as context:
        add(context, 30)
        open_run(context)
        report_groups(context, select(context, 8))
        assert context.desk("run").state.wait_learned(8, 30.0)


def test_what_is_learned_is_served_once_it_is_stored_whoever_holds_the_device_then(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()
    let_go = threading.Event()

    def hold() -> Iterator[None]:
        begun.set()
        let_go.wait(60.0)
        yield

    def publish(unit: Unit, *what: Any) -> None:
        context.queue.submit("another run", "hold", hold)
        assert begun.wait(30.0)
        publish_for_real(unit, *what)

    publish_for_real = trainer_module.publish
    monkeypatch.setattr(trainer_module, "publish", publish)
    add(context, 30)
    open_run(context)
    try:
        report_groups(context, select(context, 8))
        assert context.desk("run").state.wait_learned(8, 30.0)
        assert select(context, 1).trained_through == 8
    finally:
        let_go.set()
    monkeypatch.undo()
    assert step(context, 8).model_version == 1


def test_a_part_of_a_step_waits_for_the_rest_until_somebody_asks(database_url: str) -> None:
    with opened_context(database_url, learning=LAZY) as context:
        add(context, 30)
        open_run(context)
        batch = select(context, 8)
        report(context, draw_id=batch.draws.draw_id[:3], successes=[1] * 3, trials=[8] * 3)
        impatient = select(context, 1)
        assert (impatient.model_version, impatient.trained_through) == (0, 0)
        assert select(context, 1, wait_seconds=30.0).trained_through == 3


def test_a_part_of_a_step_is_learned_from_after_its_time(context: Context) -> None:
    add(context, 30)
    open_run(context)
    batch = select(context, 8)
    report(context, draw_id=batch.draws.draw_id[:3], successes=[1] * 3, trials=[8] * 3)
    assert context.desk("run").state.wait_learned(3, 30.0)


def test_a_process_that_does_not_learn_says_so_when_asked_to_wait(database_url: str) -> None:
    with opened_context(
        database_url, learning=Learning(enabled=False, groups=1, seconds=0.0)
    ) as context:
        add(context, 30)
        open_run(context)
        report_groups(context, select(context, 8))
        batch = select(context, 2, wait_seconds=0.2)
        assert batch.trained_through == 0
        assert "had not learned" in batch.warnings[0]


@pytest.mark.parametrize("predictor", ["hierarchical", "beta", "bots", "constant"])
def test_predictions_move_towards_what_was_seen(context: Context, predictor: str) -> None:
    add(context, 20)
    open_run(context, selection={"predictor": predictor})
    good = [f"pool-{n}" for n in range(10)]
    bad = [f"pool-{n}" for n in range(10, 20)]
    for _ in range(4):
        report(context, prompt=good + bad, successes=[8] * 10 + [0] * 10, trials=[8] * 20)
        settle(context)
    best = min(predicted(context, good))
    worst = max(predicted(context, bad))
    if predictor == "constant":
        assert best == worst == pytest.approx(0.5, abs=0.1)
    else:
        assert best > 0.75 > 0.25 > worst


def test_bots_knows_prompts_never_tried_by_the_offline_rates_of_the_pool(context: Context) -> None:
    add(context, 40, prior=[(15.0, 16.0), (1.0, 16.0)] * 15 + [None] * 10)
    open_run(context, selection={"predictor": "bots", "predictor_parameters": {"weight": 0.5}})
    for _ in range(4):  # as good as the reference on what is tried
        report(context, prompt=["pool-0", "pool-1"], successes=[8, 0], trials=[8, 8])
        settle(context)
    easy, hard, unknown = (
        predicted(context, [key])[0] for key in ("pool-28", "pool-29", "pool-35")
    )
    assert easy > 0.7 > unknown > 0.3 > hard
    assert unknown == 0.5


def test_every_step_leaves_its_metrics(context: Context) -> None:
    add(context, 60)
    open_run(context)
    for number in range(4):
        step(context, 40, policy_version=number)
    settle(context)
    metrics = run_metrics(context, "run")
    assert metrics.steps == 4
    assert metrics.series["clock"] == [0.0, 1.0, 2.0, 3.0]
    assert metrics.series["prompts"] == [40.0] * 4
    assert metrics.series["rollouts"] == [320.0] * 4
    assert metrics.series["trained_through"] == [40.0, 80.0, 120.0, 160.0]
    assert {len(column) for column in metrics.series.values()} == {4}
    assert all(
        value is None or math.isfinite(value)
        for column in metrics.series.values()
        for value in column
    )


def test_everybody_is_scored_on_the_uniform_picks_where_there_are_some(context: Context) -> None:
    add(context, 60)
    open_run(context, selection={"uniform_share": 0.5})
    step(context, 20)
    change(context, uniform_share=0.0)
    step(context, 20)
    settle(context)
    series = run_metrics(context, "run").series
    assert series["uniform_prompts"][0] > 0 == series["uniform_prompts"][1]
    for name in ("hierarchical", "beta", "ridge", "constant"):
        for score in ("log_loss", "brier"):
            with_some, without = series[f"{name}.uniform_{score}"]
            assert 0 < with_some < 1
            assert without is None
            assert series[f"{name}.{score}"][1] is not None
    assert series["uniform_log_loss"] == series["hierarchical.uniform_log_loss"]


def test_a_fit_that_diverges_is_not_served_and_the_metrics_say_so(context: Context) -> None:
    add(context, 60)
    # no net survives steps as large as this
    parameters = {"width": 8, "iterations": 3, "rate": 4096.0}
    open_run(context, selection={"predictor": "neural", "predictor_parameters": parameters})
    for number in range(3):
        step(context, 30, policy_version=number)
    assert settle(context).trained_through == 90
    metrics = run_metrics(context, "run")
    assert metrics.predictor == "neural"
    assert metrics.served in {"beta", "ridge", "constant"}
    assert metrics.series["neural.failed"] == [1.0, 1.0, 1.0]
    assert metrics.series["constant.failed"] == [0.0, 0.0, 0.0]
    # at first nothing was known against it
    assert metrics.series["neural.served"] == [1.0, 0.0, 0.0]
    assert all(0 < rate < 1 for rate in predicted(context, [f"pool-{n}" for n in range(60)]))


@pytest.mark.parametrize(
    ("predictor", "parameters", "vitals"),
    [
        (
            "neural",
            {"width": 8, "iterations": 3},
            ["neural.latent_information", "neural.latent_kl"],
        ),
        ("stack", {"members": "beta,ridge"}, ["stack.weight.beta", "stack.weight.ridge"]),
    ],
)
def test_what_a_predictor_tells_of_itself_is_in_the_metrics(
    context: Context, predictor: str, parameters: dict[str, object], vitals: list[str]
) -> None:
    add(context, 60)
    open_run(context, selection={"predictor": predictor, "predictor_parameters": parameters})
    for number in range(2):
        step(context, 30, policy_version=number)
    settle(context)
    series = run_metrics(context, "run").series
    for name in vitals:
        assert len(series[name]) == 2
        assert all(value is not None and value >= 0 for value in series[name])


@pytest.mark.parametrize("predictor", ["hierarchical", "beta", "constant"])
def test_a_step_of_one_prompt_and_one_rollout_is_learned_from(
    context: Context, predictor: str
) -> None:
    # No rank correlation, no group to be mixed: metrics without a value must not stop the learning.
    add(context, 5)
    open_run(context, rollouts_per_prompt=1, selection={"predictor": predictor})
    for success in (0, 1, 1, 0):
        batch = select(context, 1, wait_seconds=30.0)
        report(context, draw_id=batch.draws.draw_id, successes=[success], trials=[1])
    assert settle(context).trained_through == 4


def test_another_predictor_learns_the_whole_log_anew(context: Context) -> None:
    add(context, 60)
    open_run(context)
    for number in range(4):
        step(context, 16, policy_version=number)
    before = settle(context)
    change(context, predictor="beta")
    after = settle(context)
    assert after.trained_through == before.trained_through == 64
    assert after.model_version > before.model_version
    state = context.desk("run").state
    # Beta(1, 1) and the whole record of every prompt
    expected = (state.successes + 1) / (state.trials + 2)
    assert predicted(context, [f"pool-{n}" for n in range(60)]) == pytest.approx(
        expected.tolist(), abs=1e-9
    )


def test_a_predictor_that_comes_back_learns_as_if_it_had_never_left(context: Context) -> None:
    add(context, 60)
    open_run(context)
    for number in range(3):
        step(context, 40, policy_version=number)
    settle(context)
    keys = [f"pool-{n}" for n in range(60)]
    before = predicted(context, keys)
    for predictor in ("constant", "hierarchical"):
        change(context, predictor=predictor)
        settle(context)
    assert predicted(context, keys) == pytest.approx(before, abs=1e-9)


def test_a_change_that_leaves_the_predictor_alone_keeps_the_version(context: Context) -> None:
    add(context, 60)
    open_run(context)
    step(context, 16)
    before = settle(context)
    change(context, utility="target", target=0.7)
    after = settle(context)
    assert (after.model_version, after.trained_through) == (
        before.model_version,
        before.trained_through,
    )
    assert (after.selection.utility, after.selection.target) == ("target", 0.7)
    assert after.selection.cooldown == before.selection.cooldown


def test_solved_prompts_retire_once_they_were_visited(context: Context) -> None:
    add(context, 30)
    open_run(context, selection={"predictor": "beta", "retire_above": 0.8, "cooldown": 0})
    solved = [f"pool-{n}" for n in range(10)]
    report(context, prompt=[*solved, "pool-10"], successes=[16] * 10 + [8], trials=[16] * 11)
    settle(context)
    batch = select(context, 20)
    assert set(batch.draws.prompt).isdisjoint(solved)
    short = select(context, 5, candidates=solved)  # better than nothing, but said
    assert any("retired" in warning for warning in short.warnings)
    change(context, retire_above=None)
    assert [w for w in select(context, 5, candidates=solved[5:]).warnings if "retired" in w] == []


def test_one_run_starts_from_what_another_has_learned(context: Context) -> None:
    add(context, 40)
    open_run(context, name="first")
    for _ in range(2):
        report(context, run="first", prompt=["pool-0", "pool-1"], successes=[8, 0], trials=[8, 8])
        settle(context, "first")
    open_run(context, warm_start_from="first")
    known = predict_difficulty(context, PredictDifficulty(run="first", keys=["pool-0", "pool-1"]))
    warm = predict_difficulty(context, PredictDifficulty(run="run", keys=["pool-0", "pool-1"]))
    # the policy is another: believed, with doubt
    assert known.success_mean[0] > warm.success_mean[0] > 0.8
    assert known.success_mean[1] < warm.success_mean[1] < 0.2
    assert min(warm.success_std) > max(known.success_std)
    assert describe_run(context, "run").log_position == 0


def test_a_run_starts_from_one_whose_pool_was_smaller_then(context: Context) -> None:
    add(context, 40)
    open_run(context, name="first")
    report(context, run="first", prompt=["pool-0", "pool-1"], successes=[8, 0], trials=[8, 8])
    settle(context, "first")
    add(context, 10, first=40)
    open_run(context, warm_start_from="first")
    warm = predicted(context, ["pool-0", "pool-1"])
    assert warm[0] > warm[1] + 0.1


def told_by_the_vectors(context: Context, run: str, pool: str, count: int) -> None:
    """Report what a policy does that solves a prompt by the sign of its vector's first entry."""
    keys = [f"{pool}-{number}" for number in range(count)]
    successes = [7.0 if vectors([key])[0, 0] > 0 else 1.0 for key in keys]
    report(context, run=run, prompt=keys, successes=successes, trials=[8] * count)
    settle(context, run)


def test_a_run_over_another_pool_starts_with_what_texts_and_vectors_mean(context: Context) -> None:
    add(context, 200, pool="elsewhere")
    add(context, 60)
    open_run(context, name="first", pool="elsewhere")
    told_by_the_vectors(context, "first", "elsewhere", 200)
    open_run(context, warm_start_from="first")
    keys = [f"pool-{number}" for number in range(60)]
    easy = vectors(keys)[:, 0] > 0
    warm = np.array(predicted(context, keys))
    assert warm[easy].mean() > warm[~easy].mean() + 0.2
    step(context, 8)
    assert np.array(predicted(context, keys))[easy].mean() > warm[~easy].mean() + 0.1


def test_the_state_that_a_run_started_from_is_its_own(database_url: str) -> None:
    with opened_context(database_url) as context:
        add(context, 30)
        open_run(context, name="first")
        told_by_the_vectors(context, "first", "pool", 20)
        open_run(context, warm_start_from="first")
        before = predicted(context, ["pool-0", "pool-1"])
        told_by_the_vectors(context, "first", "pool", 30)
    with opened_context(database_url) as context:
        assert predicted(context, ["pool-0", "pool-1"]) == before


def test_offline_pass_rates_tell_prompts_apart_before_any_outcome(context: Context) -> None:
    add(context, 3, prior=[(8.0, 8.0), (0.0, 8.0), None])
    open_run(context)
    easy, hard, unknown = predicted(context, ["pool-0", "pool-1", "pool-2"])
    assert easy > unknown + 0.1 > hard + 0.2


def test_a_warm_start_from_what_does_not_fit_is_refused(context: Context) -> None:
    add(context, 10)
    create_pool(context, CreatePool(name="elsewhere"))
    add_prompts(context, "elsewhere", [PromptChunk(0, keys=None, texts=["a text", "another"])])
    open_run(context, name="first", pool="elsewhere")
    open_run(context, name="second", selection={"predictor": "beta"})
    open_run(context, name="third")
    with pytest.raises(NotFound):
        open_run(context, warm_start_from="nobody")
    for source in ("first", "second", "third"):
        with pytest.raises(Invalid) as refused:
            open_run(context, warm_start_from=source)
        assert refused.value.faults[0].field == "warm_start_from"

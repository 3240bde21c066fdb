"""The endpoints: each function here is a method of both clients.

The method has the function's signature and docstring.

A function turns its arguments into a `Call`, checked against the wire vocabulary, without any
network. None is not sent, so that the service's defaults apply; only inside `selection` it is,
since there it can be a value (`candidate_factor=None` is the whole pool).

Columns are of any kind that `columns.py` names: lists, iterators, arrays and series of any library.
Every call can raise each branch of `errors.py`; "Raises" names only what is particular.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlencode

from promptgps_client import wire
from promptgps_client.answers import joined
from promptgps_client.call import Call, Paged, Retry
from promptgps_client.call import act as _act
from promptgps_client.call import get as _get
from promptgps_client.call import named as _named
from promptgps_client.call import read_as as _as
from promptgps_client.call import read_fields as _read
from promptgps_client.call import send as _send
from promptgps_client.columns import (
    KEY_SET,
    KINDS,
    Array,
    Gaps,
    Integers,
    Keys,
    NoColumn,
    Numbers,
    Strings,
    Vectors,
    agree,
    parts,
    rows_of,
)
from promptgps_client.errors import invalid_request
from promptgps_client.files import UnknownFile, body_of
from promptgps_client.wire import (
    Calibration,
    Embedding,
    Objective,
    OnEqualContent,
    OutcomesSoFar,
    PoolShare,
    ProblemFault,
    Reward,
    Selection,
    Status,
)

Fields: TypeAlias = Mapping[str, Any]

NO_ORDER = "a set has no order to which a column of pools could belong; give a list"
_log = logging.getLogger(__name__)

# ---- pools ---------------------------------------------------------------------------------------


def create_pool(name: str, *, embedding: Embedding | Fields | None = None) -> Call[wire.Pool]:
    """Make a pool, or get the one that is there with the same content.

    Args:
        name: 1 to 128 letters, digits, `.`, `_`, `-`.
        embedding: How prompts become vectors; default WordLlama. For vectors of your own
            `{"kind": "given", "dimension": 384}`.

    Raises:
        Conflict: The name is taken by a pool with another embedding.
    """
    return _send(
        "POST", "/pools", wire.CreatePool, wire.Pool, {"name": name, "embedding": embedding}
    )


def pools() -> Call[wire.Pools]:
    """Every pool, by name."""
    return _get("/pools", wire.Pools)


def pool(name: str) -> Call[wire.Pool]:
    """One pool.

    Raises:
        NotFound: There is none of this name.
    """
    return _get(f"/pools/{_named('name', name)}", wire.Pool)


def add_prompts(
    pool: str,
    *,
    keys: Keys | None = None,
    texts: Strings | None = None,
    vectors: Vectors | None = None,
    domains: Iterable[str | None] | Array | None = None,
    prior_successes: Gaps | None = None,
    prior_trials: Gaps | None = None,
    on_equal_content: OnEqualContent | None = None,
) -> Iterator[Call[wire.PromptsAdded]]:
    """Add prompts in columns of equal length; `texts`, `vectors` or both.

    What the pool has is passed over.

    Long columns go out in requests of at most 20,000 rows and about 32 MB, and the answers are
    summed. Should a later one fail, the earlier ones are stored; adding everything again is free.

    Args:
        pool: The pool's name.
        keys: Your own ids; a whole number is its decimal string. Prompts with different keys are
            different, whatever their content. Default: a hash of the content.
        texts: The prompts.
        vectors: One embedding for each row, of the pool's dimension.
        domains: A name for each row, for quotas; None where it has none.
        prior_successes: Successes of an offline pass rate, with `prior_trials`.
        prior_trials: Trials of it.
        on_equal_content: Of a key whose content another key has already: `keep` it as a prompt of
            its own, the default where keys are given, or `merge` it, so that it is another name of
            that prompt.

    Raises:
        Conflict: A key stands for another content already.
        InvalidRequest: Rows are counted from the beginning of your columns, not of a request.
    """
    path = f"/pools/{_named('pool', pool)}/prompts"
    small = {
        "keys": keys,
        "texts": texts,
        "domains": domains,
        "prior_successes": prior_successes,
        "prior_trials": prior_trials,
    }

    columns = _read(f"POST {path}", small, KINDS)
    whole = {} if on_equal_content is None else {"on_equal_content": on_equal_content}
    if vectors is not None:
        try:
            columns["vectors"] = rows_of(vectors)
        except NoColumn as fault:
            told = ProblemFault(field="vectors", row=fault.row, detail=fault.detail)
            raise invalid_request(f"POST {path}", told) from fault

    if not columns or not agree(columns):  # then the wire model says which column is wrong
        yield _send("POST", path, wire.AddPrompts, wire.PromptsAdded, columns | whole, kinds=KINDS)
        return

    for part in parts(columns):
        rows = {name: column[part] for name, column in columns.items()} | whole
        yield _send(
            "POST",
            path,
            wire.AddPrompts,
            wire.PromptsAdded,
            rows,
            kinds=KINDS,
            first_row=part.start,
        )


def add_prompts_file(
    pool: str,
    path: str | Path,
    *,
    key: str | None = None,
    text: str | None = None,
    domain: str | None = None,
    vector: str | None = None,
    prior_successes: str | None = None,
    prior_trials: str | None = None,
    on_equal_content: OnEqualContent | None = None,
) -> Call[wire.PromptsAdded]:
    """Add prompts from a file.

    It may be `.jsonl`, `.json`, `.parquet`, `.arrow`, `.feather`, `.csv`, and such as `.jsonl.gz`.

    The file is sent as it is, but for records in a `.json` list, which become lines. Without names
    the file's columns are called as in JSON Lines (`key`, `text`, `domain`, …). A name may be a
    path into structs: `extra_info.index`. Columns that are of no use are passed over; the answer
    names them, and the log. It comes when all of the file is embedded and stored: give a large one
    time with `client.with_options(timeout=...)`.

    Args:
        pool: The pool's name.
        path: The file. A retry reads it again from the start.
        key: Name of the column with the keys.
        text: Of the texts; it may hold chats.
        domain: Of the domains.
        vector: Of the embeddings.
        prior_successes: Of the successes of offline pass rates.
        prior_trials: Of their trials.
        on_equal_content: As in `add_prompts`.

    Raises:
        OSError: The file cannot be read.
        InvalidRequest: Another ending, or a row that the service refuses.
    """
    target = f"/pools/{_named('pool', pool)}/prompts"
    names = {
        "key": key,
        "text": text,
        "domain": domain,
        "vector": vector,
        "prior_successes": prior_successes,
        "prior_trials": prior_trials,
        "on_equal_content": on_equal_content,
    }

    query = urlencode({name: value for name, value in names.items() if value is not None})
    try:
        body, headers = body_of(path)
    except UnknownFile as fault:
        raise invalid_request(
            f"POST {target}", ProblemFault(field="path", detail=str(fault))
        ) from fault

    address = f"{target}?{query}" if query else target
    return Call(method="POST", path=address, read=_added_of(path), body=body, headers=headers)


def _added_of(path: str | Path) -> Callable[[bytes], wire.PromptsAdded]:
    """Reads the answer to a file; what of it was passed over is logged."""
    read = _as(wire.PromptsAdded)

    def added(body: bytes) -> wire.PromptsAdded:
        answer = read(body)
        if answer.ignored_columns:
            _log.warning("%s: columns passed over: %s", path, ", ".join(answer.ignored_columns))
        return answer

    return added


# ---- runs ----------------------------------------------------------------------------------------


def create_run(
    *,
    name: str,
    pool: str | None = None,
    pools: Sequence[PoolShare | Fields] | None = None,
    rollouts_per_prompt: int = 8,
    reward: Reward | Fields | None = None,
    seed: int = 0,
    warm_start_from: str | None = None,
    selection: Selection | Fields | None = None,
) -> Call[wire.Run]:
    """Open a run, or get the one that is there if it is as asked, so that a trainer may restart.

    It is compared with what the run is now, after every `change_run` and `restore`.

    Args:
        name: 1 to 128 letters, digits, `.`, `_`, `-`.
        pool: The pool to draw from; or
        pools: several, each `{"pool": name}` with an exact `quota` of the draws or a `weight`.
        rollouts_per_prompt: n, the rollouts in a group, 1 to 4096.
        reward: How raw rewards become successes in [0, 1]; default: they are 0 or 1, or −1 or 1, as
            reports show.
        seed: Of every random choice of the run.
        warm_start_from: A run whose fitted model this one starts from.
        selection: How batches are chosen; `{"strategy": "uniform"}` for a baseline. The answer has
            it all.

    Raises:
        Conflict: The name is taken by a run with other settings; the message has both values of
            each, and says which can be changed.
        NotFound: No such pool, or no such run to start from.
    """
    return _send(
        "POST",
        "/runs",
        wire.CreateRun,
        wire.Run,
        {
            "name": name,
            "pool": pool,
            "pools": pools,
            "rollouts_per_prompt": rollouts_per_prompt,
            "reward": reward,
            "seed": seed,
            "warm_start_from": warm_start_from,
            "selection": selection,
        },
    )


def runs() -> Call[wire.Runs]:
    """Every run, by name."""
    return _get("/runs", wire.Runs)


def run(name: str) -> Call[wire.Run]:
    """One run.

    Raises:
        NotFound: There is none of this name.
    """
    return _get(f"/runs/{_named('name', name)}", wire.Run)


def change_run(
    name: str,
    *,
    rollouts_per_prompt: int | None = None,
    reward: Reward | Fields | None = None,
    selection: Selection | Fields | None = None,
) -> Call[wire.Run]:
    """Re-tune a run; what is left out, also inside `selection`, stays as it is.

    Args:
        name: The run's name.
        rollouts_per_prompt: n, the rollouts in a group, 1 to 4096.
        reward: How a raw reward becomes a success, as in `create_run`; only while no outcome is
            stored.
        selection: Only the settings to change.

    Raises:
        NotFound: There is none of this name.
        Conflict: Another reward, and outcomes are stored.
    """
    fields = {"rollouts_per_prompt": rollouts_per_prompt, "reward": reward, "selection": selection}
    return _send("PATCH", f"/runs/{_named('name', name)}", wire.ChangeRun, wire.Run, fields)


# ---- rest and end --------------------------------------------------------------------------------


def archive_run(name: str) -> Call[wire.Run]:
    """Put a run to rest: it takes no draws and no outcomes, and is not learned.

    It can still be read and asked.

    Args:
        name: The run's name.

    Raises:
        NotFound: There is none of this name.
    """
    return _act("POST", f"/runs/{_named('name', name)}/archive", wire.Run)


def reopen_run(name: str) -> Call[wire.Run]:
    """Have an archived run go on where it was, or try a faulty one again.

    Args:
        name: The run's name.

    Raises:
        NotFound: There is none of this name.
        Conflict: It is still faulty; the message says why.
    """
    return _act("POST", f"/runs/{_named('name', name)}/open", wire.Run)


def delete_run(name: str, *, dry_run: bool = False) -> Call[wire.Deleted]:
    """Delete a run with all that belongs to it, for good. Its pools stay.

    Args:
        name: The run's name.
        dry_run: Change nothing, and say what would be deleted.

    Raises:
        NotFound: There is none of this name.
        NoAnswer: Perhaps it was deleted; it is not tried again by itself, since another may have
            the name by then.
        Conflict: Another run has started from it.
    """
    asked = f"/runs/{_named('name', name)}?dry_run={str(dry_run).lower()}"
    return _act("DELETE", asked, wire.Deleted, retry=Retry.UNLESS_DONE)


def archive_pool(name: str) -> Call[wire.Pool]:
    """Put a pool to rest: it takes no prompts and no new runs, while runs over it go on.

    Args:
        name: The pool's name.

    Raises:
        NotFound: There is none of this name.
    """
    return _act("POST", f"/pools/{_named('name', name)}/archive", wire.Pool)


def reopen_pool(name: str) -> Call[wire.Pool]:
    """Have an archived pool take prompts and new runs again.

    Args:
        name: The pool's name.

    Raises:
        NotFound: There is none of this name.
    """
    return _act("POST", f"/pools/{_named('name', name)}/open", wire.Pool)


def delete_pool(name: str, *, dry_run: bool = False) -> Call[wire.Deleted]:
    """Delete a pool with its prompts, for good.

    Args:
        name: The pool's name.
        dry_run: Change nothing, and say what would be deleted.

    Raises:
        NotFound: There is none of this name.
        NoAnswer: Perhaps it was deleted; it is not tried again by itself, since another may have
            the name by then.
        Conflict: A run needs it, be it an archived one.
    """
    asked = f"/pools/{_named('name', name)}?dry_run={str(dry_run).lower()}"
    return _act("DELETE", asked, wire.Deleted, retry=Retry.UNLESS_DONE)


def events(
    *, run: str | None = None, pool: str | None = None, before: int | None = None, limit: int = 50
) -> Call[wire.Events]:
    """What was done to a run or a pool, or to all of them, by whom and when; newest first.

    Args:
        run: Only events of this run; they outlive it.
        pool: Only events of this pool.
        before: Only events before this id: `next` of the page before.
        limit: How many at most, 1 to 200.

    Raises:
        NotFound: There is no such run or pool, and never was.
        InvalidRequest: Both a run and a pool.
    """
    if run is not None and pool is not None:
        raise invalid_request(
            "GET /events", ProblemFault(field="pool", detail="give a run or a pool, not both")
        )

    whose = f"/runs/{_named('run', run)}" if run is not None else ""
    if pool is not None:
        whose = f"/pools/{_named('pool', pool)}"

    asked = [f"limit={int(limit)}", *([] if before is None else [f"before={int(before)}"])]
    return _get(f"{whose}/events?{'&'.join(asked)}", wire.Events)


# ---- the loop ------------------------------------------------------------------------------------


def select_batch(
    *,
    run: str,
    batch_size: int,
    sequence: int | None = None,
    policy_version: int | None = None,
    candidates: Keys | None = None,
    exclude: Keys | None = None,
    rollouts: int | None = None,
    candidates_pool: str | Strings | None = None,
    exclude_pool: str | Strings | None = None,
    subset: str | None = None,
    include_text: bool = False,
    wait_seconds: float = 0.0,
) -> Call[wire.Batch]:
    """The next batch to roll out.

    Args:
        run: The run's name.
        batch_size: How many draws, 1 to 16,384.
        sequence: Number of the request. Asked again with it, by any process, the service gives the
            same draws, so the call is retried freely. Without it the service numbers, and the call
            is retried only when it was certainly not done: after failed connections, 429 and 503.
        policy_version: The trainer's step counter. A sequence asked for with another one is the
            same batch, with a warning.
        candidates: Draw only from these keys.
        exclude: Do not draw these keys.
        rollouts: Rollouts for each prompt of this batch; default: the run's.
        candidates_pool: Pool of the candidates, one for all or one for each; needed where two pools
            have the key.
        exclude_pool: The same for `exclude`.
        subset: Draw only from the prompts of `send_subset`, by its id.
        include_text: Answer with the prompts' texts.
        wait_seconds: Wait until the model has learned from everything reported, at most so long (0
            to 120 s).

    Raises:
        Conflict: The sequence was used with another `batch_size`, `candidates`, `exclude` or
            `rollouts`.
        NotFound: Also when the run has no such subset: send it again.
        InvalidRequest: Also when the pool has fewer prompts than `batch_size`.
    """
    fields = {
        "run": run,
        "batch_size": batch_size,
        "sequence": sequence,
        "policy_version": policy_version,
        "candidates": candidates,
        "exclude": exclude,
        "rollouts": rollouts,
        "candidates_pool": candidates_pool,
        "exclude_pool": exclude_pool,
        "subset": subset,
        "include_text": include_text,
        "wait_seconds": wait_seconds,
    }

    for name, keys, pools in (
        ("candidates", candidates, candidates_pool),
        ("exclude", exclude, exclude_pool),
    ):
        if isinstance(keys, set | frozenset) and not isinstance(pools, str | None):
            raise invalid_request("POST /select_batch", ProblemFault(field=name, detail=NO_ORDER))

    retry = Retry.UNLESS_DONE if sequence is None else Retry.SAFE
    return _send(
        "POST",
        "/select_batch",
        wire.SelectBatch,
        wire.Batch,
        fields,
        kinds=KINDS,
        retry=retry,
        wait_seconds=wait_seconds,
    )


def send_subset(run: str, *, keys: Keys, pool: str | Strings | None = None) -> Call[wire.Subset]:
    """Name prompts of a run that batches are to be drawn from, once.

    Each batch is then asked for with the id.

    Args:
        run: The run's name.
        keys: Of the prompts, at most 2,000,000; those that the run does not have are left out,
            counted and named.
        pool: Of the keys, one for all or one for each; needed where two pools have the key.

    Raises:
        InvalidRequest: The run has none of the keys; or two pools of it have one, and no pool is
            named.
        NotFound: There is no such run.
    """
    path = f"/runs/{_named('run', run)}/subsets"
    if isinstance(keys, set | frozenset) and not isinstance(pool, str | None):
        raise invalid_request(f"POST {path}", ProblemFault(field="keys", detail=NO_ORDER))

    fields = {"keys": keys, "pool": pool}
    return _send(
        "POST", path, wire.SendSubset, wire.Subset, fields, kinds=KINDS | {"keys": KEY_SET}
    )


def report_groups(
    *,
    run: str,
    successes: Numbers,
    trials: Integers,
    draw_id: Strings | None = None,
    prompt: Keys | None = None,
    pool: str | Strings | None = None,
    policy_version: int | Integers | None = None,
    idempotency_key: str | None = None,
) -> Call[wire.OutcomesStored]:
    """Report whole groups: `successes` of `trials` for each draw. Acknowledged means durable.

    Parts of a group add up until they come to its n; the whole of it counts for what it adds to
    them. Two parts with the same counts are taken for one: report such rollouts one by one.

    Args:
        run: The run's name.
        successes: In [0, trials]; fractions are sums of continuous rewards mapped to [0, 1].
        trials: Rollouts that count, 0 to 4096.
        draw_id: From the batch; reporting a draw again is free and counted in `duplicates`. Or
        prompt: keys, for outcomes from elsewhere.
        pool: Of the prompts, one for all or one for each; needed where two pools of the run have
            the key.
        policy_version: The trainer's step that sampled them, one for all or one for each row.
        idempotency_key: With `prompt` there is no draw to know a repetition by, so it goes by this
            key. One is made for each call and its retries; give your own to repeat a call after a
            crash.
    """
    fields = {
        "run": run,
        "draw_id": draw_id,
        "prompt": prompt,
        "pool": pool,
        "successes": successes,
        "trials": trials,
        "policy_version": policy_version,
    }

    return _send(
        "POST",
        "/outcomes",
        wire.ReportOutcomes,
        wire.OutcomesStored,
        fields,
        kinds=KINDS,
        idempotency_key=idempotency_key,
    )


def report_rollouts(
    *,
    run: str,
    draw_id: Strings,
    rollout_index: Integers,
    reward: Gaps,
    status: Iterable[Status] | Array | None = None,
    policy_version: int | Integers | None = None,
) -> Call[wire.OutcomesStored]:
    """Report single rollouts; reporting one again is free. Acknowledged means durable.

    One that failed gives way to what comes of it later; a failure never displaces a reward. A
    report is stored as a whole or not at all: the error names every row that is wrong.

    Args:
        run: The run's name.
        draw_id: From the batch, once for each rollout.
        rollout_index: Number of the rollout in its draw, from 0.
        reward: Raw reward; None where the status is `error`, `timeout` or `cancelled`.
        status: `ok` (default), `truncated`, or `error`, `timeout`, `cancelled`, which say nothing
            about difficulty.
        policy_version: The trainer's step that sampled them, one for all or one for each row.
    """
    fields = {
        "run": run,
        "draw_id": draw_id,
        "rollout_index": rollout_index,
        "reward": reward,
        "status": status,
        "policy_version": policy_version,
    }

    return _send("POST", "/outcomes", wire.ReportOutcomes, wire.OutcomesStored, fields, kinds=KINDS)


def predict_difficulty(
    *,
    run: str,
    keys: Keys | None = None,
    pool: str | Strings | None = None,
    texts: Strings | None = None,
    vectors: Vectors | None = None,
    level: float = 0.9,
) -> Call[wire.Difficulty]:
    """Predicted success rates, with an interval that covers with probability `level`.

    Args:
        run: The run whose model is asked.
        keys: Prompts of its pools; or
        pool: Of the keys, one for all or one for each; needed where two pools of the run have the
            key.
        texts: new prompts; or
        vectors: new prompts as embeddings. At most 8,192 rows.
        level: In (0, 1).
    """
    fields = {
        "run": run,
        "keys": keys,
        "pool": pool,
        "texts": texts,
        "vectors": vectors,
        "level": level,
    }

    return _send(
        "POST", "/predict_difficulty", wire.PredictDifficulty, wire.Difficulty, fields, kinds=KINDS
    )


def allocate_budget(
    *,
    run: str,
    keys: Keys | None = None,
    pool: str | Strings | None = None,
    texts: Strings | None = None,
    vectors: Vectors | None = None,
    total: int | None = None,
    mean: float | None = None,
    minimum: int = 0,
    maximum: int | None = None,
    objective: Objective = "best_of_n",
    outcomes_so_far: OutcomesSoFar | Fields | None = None,
    calibration: Calibration | Fields | None = None,
) -> Call[wire.Budget]:
    """How many samples to spend on each prompt at test time, where they are expected to bring most.

    Args:
        run: The run whose model is asked.
        keys: Prompts of its pools; or
        pool: Of the keys, one for all or one for each; needed where two pools of the run have the
            key.
        texts: new prompts; or
        vectors: new prompts as embeddings. At most 100,000 rows.
        total: Samples to spend, exactly, at most 1,000,000; or
        mean: samples a prompt.
        minimum: Samples that every prompt gets.
        maximum: Most samples that one prompt gets, at most and by default 4,096.
        objective: `best_of_n` (a verifier finds a right one), `majority_vote` (the plurality answer
            is to be right) or `average` (their mean is to be near the success rate).
        outcomes_so_far: `successes` and `trials` of each prompt in earlier rounds; the budget is of
            the next one.
        calibration: Other prompts with `successes` and `trials`, by which predictions are
            corrected; for a vote also `wrong_answers`, how often each different wrong answer came.

    Raises:
        InvalidRequest: Also when the total cannot be spread between minimum and maximum.
    """
    fields = {
        "run": run,
        "keys": keys,
        "pool": pool,
        "texts": texts,
        "vectors": vectors,
        "total": total,
        "mean": mean,
        "minimum": minimum,
        "maximum": maximum,
        "objective": objective,
        "outcomes_so_far": outcomes_so_far,
        "calibration": calibration,
    }

    return _send("POST", "/allocate_budget", wire.AllocateBudget, wire.Budget, fields, kinds=KINDS)


def metrics(
    run: str, *, since: int = 0, series: Iterable[str] | None = None, every: int = 1
) -> Paged[wire.RunMetrics]:
    """Series of a run, one entry for each step learned: the whole course, however long.

    The service answers at most 2,000 steps at a time; the rest is asked for until all is there.

    Args:
        run: The run's name.
        since: First model version that is wanted, to go on where an earlier answer ended.
        series: Names of series, or beginnings of names; default: all.
        every: Every k-th step, for an overview.

    Raises:
        NotFound: There is no such run.
        InvalidRequest: No series has such a name; the message has those that are near.
    """
    path = f"/runs/{_named('run', run)}/metrics"
    pages = []
    following: int | None = since
    while following is not None:
        query: dict[str, int | str] = {"since": following, "every": every}
        if series is not None:
            query["series"] = ",".join([series] if isinstance(series, str) else series)
        page = yield _get(f"{path}?{urlencode(query)}", wire.RunMetrics)
        pages.append(page)
        following = page.next

    return joined(pages)


# ---- checkpoints ---------------------------------------------------------------------------------


def snapshot(run: str, tag: str) -> Call[wire.Snapshot]:
    """Mark a run as it is now, with each checkpoint of the trainer.

    The same tag again is the same snapshot.

    Args:
        run: The run's name.
        tag: 1 to 128 letters, digits, `.`, `_`, `-`.

    Raises:
        NotFound: There is no such run.
    """
    return _send(
        "POST",
        f"/runs/{_named('run', run)}/snapshots",
        wire.TakeSnapshot,
        wire.Snapshot,
        {"tag": tag},
    )


def snapshots(run: str) -> Call[wire.Snapshots]:
    """Snapshots of a run, superseded ones too, and its restores.

    Raises:
        NotFound: There is no such run.
    """
    return _get(f"/runs/{_named('run', run)}/snapshots", wire.Snapshots)


def restore(run: str, tag: str, *, idempotency_key: str | None = None) -> Call[wire.Restored]:
    """Put a run back to a snapshot, before training goes on from the checkpoint made with it.

    Draws issued after the snapshot are superseded: their outcomes are still taken, and counted in
    `superseded`, but not learned from. Given the same requests and outcomes, the same prompts are
    drawn as the first time.

    Args:
        run: The run's name.
        tag: Of the snapshot.
        idempotency_key: The restore is done once for each key. One is made for each call and its
            retries; where several ranks may call, give all of them the same.

    Raises:
        NotFound: There is no such run, or no such snapshot that stands.
    """
    path = f"/runs/{_named('run', run)}/restore"
    return _send(
        "POST", path, wire.Restore, wire.Restored, {"tag": tag}, idempotency_key=idempotency_key
    )


# ---- health --------------------------------------------------------------------------------------


def ready() -> Call[wire.Ready]:
    """GET /readyz, which answers the same body with 200 and 503."""
    return Call(
        method="GET", path="/readyz", read=_as(wire.Ready), retry=Retry.NEVER, also_answers=(503,)
    )


def healthy() -> Call[bool]:
    """GET /healthz: the status says it all."""
    return Call(method="GET", path="/healthz", read=lambda _: True, retry=Retry.NEVER)

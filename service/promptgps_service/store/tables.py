"""The schema, shared by SQLite and PostgreSQL.

Arrays that are only ever read whole (the draws of a selection, a chunk of vectors) are packed
little-endian columns: one row a selection keeps `/select_batch` to one insert, and a pool of
100,000 prompts loads in a few dozen reads.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_ZERO = text("0")
_OPEN = text("'open'")
# Element types of the packed columns.
# of `selections`:
DRAWS = {
    "rows": "<i4",
    "predicted": "<f4",
    "uncertainty": "<f4",
    "uniform": "u1",
}
VECTORS = {"identity": "<i8", "embedding": "<f2", "surface": "<f4"}  # of `pool_chunks`
SUBSET_ROWS = "<i4"  # of `run_subsets`

pools = Table(
    "pools",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(128), nullable=False, unique=True),
    Column("embedding", JSON, nullable=False),
    Column("dimension", Integer, nullable=False),
    # committed length: rows at or past it are an unfinished import
    Column("prompts", Integer, nullable=False),
    # the first rows that features are standardised by; 0: not yet
    Column("frame_rows", Integer, nullable=False),
    Column("import_token", String(32)),
    Column("import_beat", Float),  # counts the chunks
    Column("created_at", String(32), nullable=False),
    # open, archived; or hidden, see `states`
    Column("state", String(16), nullable=False, server_default=_OPEN),
    # Committed number of aliases: those at or past it are of an unfinished import.
    Column("aliases", Integer, nullable=False, server_default=_ZERO),
)

prompts = Table(
    "prompts",
    metadata,
    Column("pool_id", Integer, ForeignKey("pools.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("key", String(512), nullable=False),
    Column("digest", LargeBinary(16), nullable=False),
    Column("text", Text),
    Column("domain", String(128)),
    Column("prior_successes", Float),
    Column("prior_trials", Float),
    PrimaryKeyConstraint("pool_id", "position"),
    UniqueConstraint("pool_id", "key"),
    # Prompts with other keys may have the same content; the position saves a look at each of them
    # for the first.
    Index("ix_prompts_pool_id_digest", "pool_id", "digest", "position"),
)
# A pool is read at every start: without this, all its texts would be, to find that none has a pass
# rate.
Index(
    "ix_prompts_with_prior",
    prompts.c.pool_id,
    prompts.c.position,
    sqlite_where=prompts.c.prior_trials > 0,
    postgresql_where=prompts.c.prior_trials > 0,
)

pool_chunks = Table(
    "pool_chunks",
    metadata,
    Column("pool_id", Integer, ForeignKey("pools.id"), nullable=False),
    Column("start", Integer, nullable=False),
    Column("size", Integer, nullable=False),
    Column("identity", LargeBinary, nullable=False),  # int64[size], distinct within the pool
    Column("embedding", LargeBinary, nullable=False),  # float16[size, dimension], unit rows
    # float32[size, S]; S = 0 in a chunk without texts
    Column("surface", LargeBinary, nullable=False),
    PrimaryKeyConstraint("pool_id", "start"),
)

prompt_aliases = Table(
    "prompt_aliases",
    metadata,
    Column("pool_id", Integer, ForeignKey("pools.id"), nullable=False),
    Column("ordinal", Integer, nullable=False),  # 0, 1, … in the order of coming
    Column("key", String(512), nullable=False),
    Column("position", Integer, nullable=False),  # of the prompt that it is another name of
    PrimaryKeyConstraint("pool_id", "ordinal"),
    UniqueConstraint("pool_id", "key"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(128), nullable=False, unique=True),
    # as opened, spelled out, to recognise the same request
    Column("request", JSON, nullable=False),
    Column("settings", JSON, nullable=False),  # as they are now
    Column("log_position", BigInteger, nullable=False),
    Column("draws", BigInteger, nullable=False),
    Column("selections", BigInteger, nullable=False),
    Column("created_at", String(32), nullable=False),
    # how often it was put back to a snapshot
    Column("epoch", Integer, nullable=False, server_default=_ZERO),
    # how often the settings have changed
    Column("revision", Integer, nullable=False, server_default=_ZERO),
    Column("model_version", BigInteger, nullable=False, server_default=_ZERO),  # the published one
    # log position it has learned up to
    Column("trained_through", BigInteger, nullable=False, server_default=_ZERO),
    # log position that somebody waits for
    Column("wanted", BigInteger, nullable=False, server_default=_ZERO),
    # grows with every change: what has changed?
    Column("touched", BigInteger, nullable=False, server_default=_ZERO),
    # open, archived, faulty; or hidden
    Column("state", String(16), nullable=False, server_default=_OPEN),
    Column("fault", Text),  # what is wrong with a faulty one
    Index("ix_runs_touched", "touched"),
)

run_segments = Table(
    "run_segments",
    metadata,
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    Column("offset", Integer, nullable=False),  # first row of the run that the segment fills
    Column("pool_id", Integer, ForeignKey("pools.id"), nullable=False),
    Column("start", Integer, nullable=False),  # first position of the pool
    Column("size", Integer, nullable=False),
    PrimaryKeyConstraint("run_id", "offset"),
)

run_subsets = Table(
    "run_subsets",
    metadata,
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    Column("id", String(32), nullable=False),  # digest of its rows
    Column("size", Integer, nullable=False),
    Column("rows", LargeBinary, nullable=False),  # int32[size], ascending
    Column("created_at", String(32), nullable=False),
    PrimaryKeyConstraint("run_id", "id"),
)

selections = Table(
    "selections",
    metadata,
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("ordinal", BigInteger, nullable=False),  # 0.. in the order of issue
    Column("request", String(64), nullable=False),  # digest of what was asked
    Column("seed", BigInteger, nullable=False),
    # policy version, or the ordinal where none was given
    Column("clock", BigInteger, nullable=False),
    Column("policy_version", BigInteger),
    Column("model_version", BigInteger, nullable=False),
    Column("trained_through", BigInteger, nullable=False),
    Column("strategy", String(32), nullable=False),
    Column("rollouts", Integer, nullable=False),
    Column("first_draw", BigInteger, nullable=False),
    Column("size", Integer, nullable=False),
    Column("rows", LargeBinary, nullable=False),  # int32[size]
    Column("predicted", LargeBinary, nullable=False),  # float32[size]
    Column("uncertainty", LargeBinary, nullable=False),  # float32[size]
    Column("uniform", LargeBinary, nullable=False),  # uint8[size]: 1 where the pick was uniform
    Column("warnings", JSON, nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("epoch", Integer, nullable=False, server_default=_ZERO),  # the run's, when it was issued
    # 1 where the caller waited for the model
    Column("waited", SmallInteger, nullable=False, server_default=_ZERO),
    PrimaryKeyConstraint("run_id", "sequence"),
    UniqueConstraint("run_id", "ordinal"),
    Index("ix_selections_run_id_first_draw", "run_id", "first_draw"),
)

outcomes = Table(
    "outcomes",
    metadata,
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    Column("position", BigInteger, nullable=False),  # gapless per run, from 1
    Column("draw", BigInteger),  # null: data from elsewhere, by prompt
    Column("row", Integer, nullable=False),
    Column("rollout", Integer, nullable=False),  # -1: a whole group
    Column("successes", Float, nullable=False),
    Column("trials", Integer, nullable=False),  # 0 where the outcome says nothing about difficulty
    Column("reward", Float),  # as reported
    Column("status", SmallInteger, nullable=False),
    Column("policy_version", BigInteger),
    Column("received_at", Float, nullable=False),  # seconds since the epoch
    # 0, 1, … reports of one rollout or group
    Column("part", SmallInteger, nullable=False, server_default=_ZERO),
    PrimaryKeyConstraint("run_id", "position"),
    UniqueConstraint("run_id", "draw", "rollout", "part"),
)

receipts = Table(
    "receipts",
    metadata,
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    Column("idempotency_key", String(128), nullable=False),
    Column("request", String(64), nullable=False),
    Column("answer", JSON, nullable=False),
    # of the log once it was given
    Column("log_position", BigInteger, nullable=False, server_default=_ZERO),
    PrimaryKeyConstraint("run_id", "idempotency_key"),
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("trained_through", BigInteger, nullable=False),
    Column("predictor", String(32), nullable=False),
    Column("state", LargeBinary, nullable=False),  # safetensors
    Column("created_at", String(32), nullable=False),
    PrimaryKeyConstraint("run_id", "version"),
)

steps = Table(
    "steps",
    metadata,
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    Column("version", BigInteger, nullable=False),  # the model version that the step led to
    Column("trained_through", BigInteger, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("created_at", String(32), nullable=False),
    PrimaryKeyConstraint("run_id", "version"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(12), primary_key=True),  # part of the key, so that it names its row
    Column("name", String(128), nullable=False, unique=True),
    Column("digest", LargeBinary(32), nullable=False),  # SHA-256 of the key, which is nowhere
    Column("runs", JSON, nullable=False),  # patterns of names; empty: every run
    Column("read_only", Boolean, nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("expires_at", String(32)),
    Column("last_used", String(32)),  # to the hour
    # kept, so that a service that had keys never opens again by itself
    Column("revoked_at", String(32)),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),  # in the order of happening
    Column("created_at", String(32), nullable=False),
    # name of the API key; null where none was asked for, or the service did it
    Column("key", String(128)),
    Column("action", String(32), nullable=False),
    Column("run", String(128), index=True),  # by name: an event outlives its run
    Column("pool", String(128), index=True),
    Column("subject_id", Integer),  # id of what was deleted, which must not come again
    Column("detail", JSON, nullable=False),
    # what was deleted, without reading all the rest
    Index("ix_events_action_subject_id", "action", "subject_id"),
)

# ---- who learns ----------------------------------------------------------------------------------

workers = Table(
    "workers",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("beat", BigInteger, nullable=False),  # counts signs of life; no clock
)

leases = Table(
    "leases",
    metadata,
    Column("run_id", Integer, ForeignKey("runs.id"), primary_key=True),
    Column(
        "holder",
        String(64),
        ForeignKey("workers.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
)

# Rows that come and go at once: they show that the database takes writes.
write_probes = Table(
    "write_probes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("room", LargeBinary, nullable=False),
)

# ---- snapshots, and what a restore has superseded ------------------------------------------------

snapshots = Table(
    "snapshots",
    metadata,
    Column("id", Integer, primary_key=True),  # in the order of making
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    Column("tag", String(128), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("log_position", BigInteger, nullable=False),
    Column("draws", BigInteger, nullable=False),
    Column("selections", BigInteger, nullable=False),
    Column("model_version", BigInteger, nullable=False),  # kept as long as the snapshot is
    Column("trained_through", BigInteger, nullable=False),
    Column("created_at", String(32), nullable=False),
    # epoch whose beginning superseded it; 0: it stands
    Column("superseded_in", Integer, nullable=False),
    UniqueConstraint("run_id", "tag", "superseded_in"),
)

restores = Table(
    "restores",
    metadata,
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    Column("epoch", Integer, nullable=False),  # that it began
    Column("tag", String(128), nullable=False),
    Column("created_at", String(32), nullable=False),
    PrimaryKeyConstraint("run_id", "epoch"),
)


def _superseded(table: Table, *key: str) -> Table:
    """The same columns, out of the way of every question about the run as it is."""
    columns = [
        Column(column.name, column.type, nullable=column.nullable) for column in table.columns
    ]
    return Table(
        f"superseded_{table.name}",
        metadata,
        *columns,
        Column("superseded_in", Integer, nullable=False),  # epoch whose beginning superseded it
        ForeignKeyConstraint(["run_id"], ["runs.id"]),
        PrimaryKeyConstraint("run_id", "superseded_in", *key),
    )


superseded_selections = _superseded(selections, "ordinal")
superseded_outcomes = _superseded(outcomes, "position")
superseded_steps = _superseded(steps, "version")
# What is reported late of a superseded draw is looked up by the draw, and kept once.
Index(None, *(superseded_selections.c[name] for name in ("run_id", "epoch", "first_draw")))
superseded_outcomes.append_constraint(
    UniqueConstraint("run_id", "superseded_in", "draw", "rollout", "part")
)

# The rows of one pool, by `pool_id`, and of one run, by `run_id`: each table after those that its
# rows refer to.
OF_POOL = (prompts, prompt_aliases, pool_chunks)
OF_RUN = (
    run_segments,
    snapshots,
    restores,
    selections,
    outcomes,
    run_subsets,
    receipts,
    model_versions,
    steps,
    superseded_selections,
    superseded_outcomes,
    superseded_steps,
)

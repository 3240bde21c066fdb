"""Pools and prompts.

Appending is a staged import: rows past the committed length are invisible until it moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from promptgps_service.errors import Busy, NotFound, PoolNotOpen
from promptgps_service.store.clock import utc_now
from promptgps_service.store.events import POOL_DELETED, Events
from promptgps_service.store.ids import fresh_id
from promptgps_service.store.lookup import LOOKUP, in_parts
from promptgps_service.store.named import insert_named
from promptgps_service.store.records import Known, PoolArrays, PoolChunk, PoolRecord, record_of
from promptgps_service.store.states import ARCHIVED, DELETING, OPEN, VISIBLE, hidden_name
from promptgps_service.store.tables import VECTORS, pool_chunks, pools, prompt_aliases, prompts

# A look-up of more than one in so many of a pool's prompts reads all its keys instead.
SCAN_SHARE = 4

_MANY: BindParameter[Any] = bindparam("many", expanding=True)
_AT = select(prompts.c.position, prompts.c.key).where(
    prompts.c.pool_id == bindparam("pool"), prompts.c.position.in_(_MANY)
)
_AT_WITH_TEXT = _AT.add_columns(prompts.c.text)
_TOTAL = select(func.sum(pools.c.prompts)).where(pools.c.name.in_(_MANY))
_NAMED = select(pools).where(pools.c.name.in_(_MANY))


class Pools:
    """Pools over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def find(self, name: str, *, keep: bool = False) -> PoolRecord | None:
        """The pool of that name, if there is one.

        With ``keep`` nobody deletes it while the unit of work lasts.
        """
        query = select(pools).where(pools.c.name == name, pools.c.state.in_(VISIBLE))
        if keep:
            query = query.with_for_update(read=True, key_share=True)

        row = self._connection.execute(query).one_or_none()
        return None if row is None else record_of(PoolRecord, row)

    def get(self, name: str, *, keep: bool = False) -> PoolRecord:
        """The pool of that name, as ``find`` has it.

        Raises:
            NotFound: there is none.
        """
        found = self.find(name, keep=keep)
        if found is None:
            deleted = Events(self._connection).latest(POOL_DELETED, pool=name)
            when = f": it was deleted at {deleted.created_at}" if deleted is not None else ""
            raise NotFound(f"there is no pool {name!r}{when}")

        return found

    def by_id(self, pool_id: int) -> PoolRecord:
        """The pool with that id, which must exist."""
        return record_of(
            PoolRecord, self._connection.execute(select(pools).where(pools.c.id == pool_id)).one()
        )

    def named(self, names: Sequence[str]) -> list[PoolRecord]:
        """The pools of those names, as far as there are any, in the order of the names."""
        found = {row.name: row for row in self._connection.execute(_NAMED, {"many": names}).all()}
        return [record_of(PoolRecord, found[name]) for name in names if name in found]

    def all(self) -> list[PoolRecord]:
        """Every pool, by name."""
        query = select(pools).where(pools.c.state.in_(VISIBLE)).order_by(pools.c.name)
        return [record_of(PoolRecord, row) for row in self._connection.execute(query)]

    def total(self, names: Sequence[str]) -> int:
        """Prompts of those pools together."""
        return int(self._connection.execute(_TOTAL, {"many": names}).scalar_one() or 0)

    def create(self, name: str, embedding: dict[str, object], dimension: int) -> PoolRecord | None:
        """Make an empty pool; None where the name is taken, perhaps by another process just now."""
        statement = insert(pools).values(
            name=name,
            embedding=embedding,
            dimension=dimension,
            prompts=0,
            frame_rows=0,
            created_at=utc_now(),
            **fresh_id(self._connection, pools, POOL_DELETED),
        )
        return self.get(name) if insert_named(self._connection, statement) else None

    def set_frame(self, pool_id: int, rows: int) -> None:
        """Say by which first rows the pool's features are standardised."""
        self._connection.execute(update(pools).where(pools.c.id == pool_id).values(frame_rows=rows))

    def set_state(self, pool_id: int, state: str) -> None:
        """Open or archive a pool."""
        self._connection.execute(update(pools).where(pools.c.id == pool_id).values(state=state))

    def hold_for_deletion(self, pool_id: int) -> PoolRecord:
        """The pool, held for its deletion.

        It is held against every writer and against whoever refers to it until the unit of work
        ends.

        Raises:
            NotFound: it was deleted.
        """
        row = self._connection.execute(
            select(pools).where(pools.c.id == pool_id).with_for_update()
        ).one_or_none()
        if row is None or row.state == DELETING:
            raise NotFound("the pool was deleted")

        return record_of(PoolRecord, row)

    def hide(self, pool_id: int) -> None:
        """Take a pool out of sight: its name is free, and an import under way ends.

        Its prompts are left for ``Removal``. The pool must be held for deletion, and no run may
        need it.
        """
        hidden = {
            "name": hidden_name(pool_id),
            "state": DELETING,
            "import_token": None,
            "import_beat": None,
        }
        self._connection.execute(update(pools).where(pools.c.id == pool_id).values(**hidden))

    # ---- staged import ---------------------------------------------------------------------------

    def importing(self, pool_id: int) -> tuple[str, float] | None:
        """Token and beat of the import that is under way or dead; None where there is none."""
        row = self._connection.execute(
            select(pools.c.import_token, pools.c.import_beat).where(pools.c.id == pool_id)
        ).one()
        return None if row.import_token is None else (row.import_token, row.import_beat)

    def begin_import(
        self, pool: PoolRecord, token: str, dead: tuple[str, float] | None = None
    ) -> int:
        """Take the pool's import token and clear what a dead import left.

        Answers the committed length.

        Args:
            pool: where to.
            token: of the new import.
            dead: token and beat of an import that has stood still for too long.

        Raises:
            Busy: another import is under way.
            PoolNotOpen: the pool is archived.
            NotFound: it was deleted.
        """
        free: ColumnElement[bool] = pools.c.import_token.is_(None)
        if dead is not None:
            free = or_(free, and_(pools.c.import_token == dead[0], pools.c.import_beat == dead[1]))

        taken = self._connection.execute(
            update(pools)
            .where(pools.c.id == pool.id, pools.c.state == OPEN, free)
            .values(import_token=token, import_beat=0)
        )
        if taken.rowcount != 1:
            self._check_open(pool.id)
            raise Busy(f"another import into pool {pool.name!r} is under way", retry_after=2.0)

        committed = self.by_id(pool.id)
        self._drop_from(committed.id, committed.prompts, committed.aliases)

        return committed.prompts

    def stage(self, pool_id: int, token: str, start: int, chunk: PoolChunk) -> None:
        """Write prompts at positions start.., not yet visible.

        Raises:
            Busy: the token was lost to another import.
            PoolNotOpen: the pool was archived since.
            NotFound: it was deleted since.
        """
        self._hold(pool_id, token)
        count = len(chunk)
        if count == 0:
            return

        absent = [None] * count
        columns = zip(
            chunk.keys,
            chunk.digests,
            chunk.texts or absent,
            chunk.domains or absent,
            chunk.prior_successes or absent,
            chunk.prior_trials or absent,
            strict=True,
        )
        names = ("key", "digest", "text", "domain", "prior_successes", "prior_trials")
        rows = [
            {"pool_id": pool_id, "position": start + index, **dict(zip(names, values, strict=True))}
            for index, values in enumerate(columns)
        ]
        self._connection.execute(insert(prompts), rows)

        identities = chunk.identities or [digest[:8] for digest in chunk.digests]
        identity = np.frombuffer(b"".join(identities), VECTORS["identity"])
        self._connection.execute(
            insert(pool_chunks).values(
                pool_id=pool_id,
                start=start,
                size=count,
                identity=identity.tobytes(),
                embedding=chunk.embedding.astype(VECTORS["embedding"]).tobytes(),
                surface=chunk.surface.astype(VECTORS["surface"]).tobytes(),
            )
        )

    def stage_aliases(
        self, pool_id: int, token: str, start: int, positions: Mapping[str, int]
    ) -> None:
        """Write other keys of prompts, under the ordinals start.., not yet visible.

        The prompts may be committed or staged.

        Raises:
            Busy: the token was lost to another import.
        """
        self._hold(pool_id, token)

        rows = [
            {"pool_id": pool_id, "ordinal": ordinal, "key": key, "position": position}
            for ordinal, (key, position) in enumerate(positions.items(), start=start)
        ]
        if rows:
            self._connection.execute(insert(prompt_aliases), rows)

    def finish_import(
        self, pool_id: int, token: str, length: int, aliases: int | None = None
    ) -> None:
        """Make every staged prompt and alias visible at once and give the token back.

        Args:
            pool_id: where to.
            token: of the import.
            length: prompts that the pool has now.
            aliases: that it has now; None where none has come.
        """
        self._hold(pool_id, token)
        now = {"prompts": length} if aliases is None else {"prompts": length, "aliases": aliases}
        self._connection.execute(
            update(pools)
            .where(pools.c.id == pool_id)
            .values(import_token=None, import_beat=None, **now)
        )

    def abandon_import(self, pool_id: int, token: str) -> None:
        """Drop what was staged and give the token back, if it is still held."""
        held = self._connection.execute(
            select(pools.c.prompts, pools.c.aliases).where(
                pools.c.id == pool_id, pools.c.import_token == token
            )
        ).one_or_none()
        if held is not None:
            self._drop_from(pool_id, held.prompts, held.aliases)
            self._connection.execute(
                update(pools)
                .where(pools.c.id == pool_id)
                .values(import_token=None, import_beat=None)
            )

    def _hold(self, pool_id: int, token: str) -> None:
        renewed = self._connection.execute(
            update(pools)
            .where(pools.c.id == pool_id, pools.c.state == OPEN, pools.c.import_token == token)
            .values(import_beat=pools.c.import_beat + 1)
        )
        if renewed.rowcount != 1:
            self._check_open(pool_id)
            raise Busy(
                "this import was taken for dead and replaced by another; send it again",
                retry_after=2.0,
            )

    def _check_open(self, pool_id: int) -> None:
        """Tell why a pool takes no prompts, if it is not only that somebody else brings some."""
        row = self._connection.execute(
            select(pools.c.name, pools.c.state).where(pools.c.id == pool_id)
        ).one_or_none()
        if row is None or row.state == DELETING:
            raise NotFound(
                "the pool was deleted while prompts were added to it; none of them is stored"
            )

        if row.state == ARCHIVED:
            raise PoolNotOpen(archived_pool(row.name))

    def _drop_from(self, pool_id: int, length: int, aliases: int) -> None:
        self._connection.execute(
            delete(prompt_aliases).where(
                prompt_aliases.c.pool_id == pool_id, prompt_aliases.c.ordinal >= aliases
            )
        )
        self._connection.execute(
            delete(prompts).where(prompts.c.pool_id == pool_id, prompts.c.position >= length)
        )
        self._connection.execute(
            delete(pool_chunks).where(
                pool_chunks.c.pool_id == pool_id, pool_chunks.c.start >= length
            )
        )

    # ---- look-ups --------------------------------------------------------------------------------

    def known_keys(self, pool_id: int, keys: Sequence[str]) -> dict[str, Known]:
        """What the pool has under which of the keys, own and aliases, staged ones too."""
        own = select(prompts.c.key, prompts.c.position, prompts.c.digest).where(
            prompts.c.pool_id == pool_id
        )
        aliases = (
            select(prompt_aliases.c.key, prompts.c.position, prompts.c.digest)
            .join_from(
                prompt_aliases,
                prompts,
                and_(prompts.c.pool_id == pool_id, prompts.c.position == prompt_aliases.c.position),
            )
            .where(prompt_aliases.c.pool_id == pool_id)
        )

        found: dict[str, Known] = {}
        for query, column in ((own, prompts.c.key), (aliases, prompt_aliases.c.key)):
            for part in in_parts([key for key in keys if key not in found]):
                for key, position, digest in self._connection.execute(
                    query.where(column.in_(part))
                ).all():
                    found[key] = Known(position, bytes(digest))

        return found

    def known_digests(self, pool_id: int, digests: Sequence[bytes]) -> dict[bytes, int]:
        """Which of the digests the pool has, each with the position of its first prompt.

        Staged prompts count, too.
        """
        query = (
            select(prompts.c.digest, func.min(prompts.c.position))
            .where(prompts.c.pool_id == pool_id)
            .group_by(prompts.c.digest)
        )

        found: dict[bytes, int] = {}
        for part in in_parts(list(dict.fromkeys(digests))):
            rows = self._connection.execute(query.where(prompts.c.digest.in_(part))).all()
            found.update((bytes(digest), position) for digest, position in rows)

        return found

    def positions(self, pool: PoolRecord, keys: Sequence[str]) -> dict[str, int]:
        """Positions of those keys, own and aliases, that the pool had as the record says."""
        own = select(prompts.c.key, prompts.c.position, prompts.c.position).where(
            prompts.c.pool_id == pool.id
        )
        found = self._found(own, prompts.c.key, keys, pool.prompts)

        if pool.aliases and len(found) < len(keys):
            missing = [key for key in keys if key not in found]
            aliases = select(
                prompt_aliases.c.key, prompt_aliases.c.position, prompt_aliases.c.ordinal
            ).where(prompt_aliases.c.pool_id == pool.id)
            found |= self._found(aliases, prompt_aliases.c.key, missing, pool.aliases)

        return found

    def _found(
        self, query: Select[str, int, int], column: Column[Any], keys: Sequence[str], committed: int
    ) -> dict[str, int]:
        """Positions by key, from rows (key, position, place) whose place is committed.

        Most keys of a pool are looked up by reading them all. The place is compared here: as a
        condition it would have SQLite read the pool up to there instead of looking keys up.
        """
        if len(keys) > LOOKUP and len(keys) * SCAN_SHARE > committed:
            asked = set(keys)
            every = self._connection.execute(query, execution_options={"yield_per": LOOKUP})
            return {
                key: position
                for key, position, place in every
                if key in asked and place < committed
            }

        found: dict[str, int] = {}
        for part in in_parts(keys):
            rows = self._connection.execute(query.where(column.in_(part))).all()
            found.update((key, position) for key, position, place in rows if place < committed)

        return found

    def keys_at(
        self, pool_id: int, positions: Sequence[int], *, text: bool
    ) -> dict[int, tuple[str, str | None]]:
        """Key and, if asked for, text of the prompts at those positions."""
        found: dict[int, tuple[str, str | None]] = {}
        for part in in_parts(positions):
            rows = self._connection.execute(
                _AT_WITH_TEXT if text else _AT, {"pool": pool_id, "many": part}
            ).all()
            found.update((row[0], (row[1], row[2] if text else None)) for row in rows)

        return found

    def domains(self, pool_id: int, start: int, count: int) -> list[str | None]:
        """Domains of positions start .. start + count, in order."""
        query = (
            select(prompts.c.domain)
            .where(
                prompts.c.pool_id == pool_id,
                prompts.c.position >= start,
                prompts.c.position < start + count,
            )
            .order_by(prompts.c.position)
        )
        return list(self._connection.execute(query).scalars())

    def arrays(self, pool: PoolRecord, start: int, stop: int) -> PoolArrays:
        """Vectors of positions start .. stop, which must be committed."""
        query = (
            select(pool_chunks)
            .where(pool_chunks.c.pool_id == pool.id, pool_chunks.c.start < stop)
            .where(pool_chunks.c.start + pool_chunks.c.size > start)
            .order_by(pool_chunks.c.start)
        )

        identity = []
        embedding = []
        surface = []
        for row in self._connection.execute(query):
            part = slice(max(start - row.start, 0), min(stop - row.start, row.size))
            identity.append(np.frombuffer(row.identity, VECTORS["identity"])[part])
            embedding.append(
                np.frombuffer(row.embedding, VECTORS["embedding"]).reshape(row.size, -1)[part]
            )
            surface.append(
                np.frombuffer(row.surface, VECTORS["surface"]).reshape(row.size, -1)[part]
            )

        offline = self._offline(pool.id, start, stop)
        if not identity:
            empty = np.zeros((0, 0), np.float32)
            return PoolArrays(
                np.zeros(0, np.int64), np.zeros((0, pool.dimension), np.float16), empty, offline
            )

        return PoolArrays(
            np.concatenate(identity), np.concatenate(embedding), _side_by_side(surface), offline
        )

    def chunks(self, pool_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where the pool's chunks begin and end, int64[C] each, ascending; staged ones too."""
        query = (
            select(pool_chunks.c.start, pool_chunks.c.size)
            .where(pool_chunks.c.pool_id == pool_id)
            .order_by(pool_chunks.c.start)
        )
        spans = np.array(self._connection.execute(query).all(), np.int64).reshape(-1, 2)
        return spans[:, 0], spans.sum(1)

    def embedding_of_chunk(self, pool_id: int, start: int) -> NDArray[np.float16]:
        """Vectors float16[size, d] of the chunk that starts there."""
        query = select(pool_chunks.c.size, pool_chunks.c.embedding).where(
            pool_chunks.c.pool_id == pool_id, pool_chunks.c.start == start
        )
        row = self._connection.execute(query).one()
        return np.frombuffer(row.embedding, VECTORS["embedding"]).reshape(row.size, -1)

    def _offline(self, pool_id: int, start: int, stop: int) -> NDArray[np.float64]:
        query = select(prompts.c.position, prompts.c.prior_successes, prompts.c.prior_trials).where(
            prompts.c.pool_id == pool_id,
            prompts.c.position >= start,
            prompts.c.position < stop,
            prompts.c.prior_trials > 0,
        )
        found = np.array(self._connection.execute(query).all(), np.float64).reshape(-1, 3)
        offline = np.zeros((max(stop - start, 0), 2))
        offline[found[:, 0].astype(np.int64) - start] = found[:, 1:]

        return offline


def _side_by_side(parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Chunks float32[m, S] one after the other.

    NaN where a chunk is without the columns that others have.
    """
    width = max(part.shape[1] for part in parts)
    whole = np.full((sum(map(len, parts)), width), np.nan, np.float32)
    start = 0
    for part in parts:
        whole[start : start + len(part), : part.shape[1]] = part
        start += len(part)

    return whole


def archived_pool(name: str) -> str:
    """What is told of a pool that takes nothing."""
    how = f"open it with POST /pools/{name}/open or `promptgps pools open {name}`"
    return f"pool {name!r} is archived: it takes no prompts and no new runs; {how}"

"""API keys, by name and by the id that is part of the key."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict

from sqlalchemy import Connection, delete, insert, select, update

from promptgps_service.store.clock import utc_now
from promptgps_service.store.named import insert_named
from promptgps_service.store.records import KeyRecord
from promptgps_service.store.tables import api_keys


class Keys:
    """API keys over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, record: KeyRecord) -> bool:
        """Store a key; false where its name is taken by one that was not revoked."""
        revoked = (api_keys.c.name == record.name) & api_keys.c.revoked_at.is_not(None)
        self._connection.execute(delete(api_keys).where(revoked))
        return insert_named(self._connection, insert(api_keys).values(asdict(record)))

    def all(self) -> list[KeyRecord]:
        """Every key, the revoked ones too, by name."""
        rows = self._connection.execute(select(api_keys).order_by(api_keys.c.name)).mappings()
        return [KeyRecord(**row) for row in rows]

    def revoke(self, name: str) -> bool:
        """Mark a key as worthless; false where there is none of that name that is not.

        It stays: that there has been a key keeps a service from being open to all.
        """
        found = (api_keys.c.name == name) & api_keys.c.revoked_at.is_(None)
        marked = update(api_keys).where(found).values(revoked_at=utc_now())
        return self._connection.execute(marked).rowcount == 1

    def forget_all(self) -> None:
        """Drop every key, as if there had never been one."""
        self._connection.execute(delete(api_keys))

    def mark_used(self, ids: Collection[str], when: str) -> None:
        """Say when keys were last used."""
        self._connection.execute(
            update(api_keys).where(api_keys.c.id.in_(ids)).values(last_used=when)
        )

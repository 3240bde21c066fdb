"""API keys, by name and by the id that is part of the key."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict

from sqlalchemy import Connection, delete, insert, select, update

from promptgps_service.store.named import insert_named
from promptgps_service.store.records import KeyRecord
from promptgps_service.store.tables import api_keys


class Keys:
    """API keys over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, record: KeyRecord) -> bool:
        """Store a key; false where the name is taken."""
        return insert_named(self._connection, insert(api_keys).values(asdict(record)))

    def all(self) -> list[KeyRecord]:
        """Every key, by name."""
        rows = self._connection.execute(select(api_keys).order_by(api_keys.c.name)).mappings()
        return [KeyRecord(**row) for row in rows]

    def revoke(self, name: str) -> bool:
        """Drop a key; false where there is none of that name."""
        return self._connection.execute(delete(api_keys).where(api_keys.c.name == name)).rowcount == 1

    def mark_used(self, ids: Collection[str], when: str) -> None:
        """Say when keys were last used."""
        self._connection.execute(update(api_keys).where(api_keys.c.id.in_(ids)).values(last_used=when))

"""What the commands share: the settings, and the database they name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from promptgps_service.settings import Settings
    from promptgps_service.store.unit import Store


@contextmanager
def opened_store(database_url: str | None) -> Iterator[Store]:
    """The database, brought up to date: a key may be made before the service has ever run."""
    from promptgps_service.store.migrate import upgrade
    from promptgps_service.store.unit import Store

    store = Store(read_settings(database_url=database_url).database_url)
    try:
        upgrade(store.engine)
        yield store
    finally:
        store.close()


def read_settings(**flags: Any) -> Settings:
    """The settings, with the flags that were given; from here on logs are as they say.

    Raises:
        Invalid: naming the variables that cannot be.
    """
    from promptgps_service.logs import configure_logs
    from promptgps_service.settings import load_settings

    settings = load_settings(**flags)
    configure_logs(settings.log_format, settings.log_level)
    return settings

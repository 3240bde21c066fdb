"""What the commands share: the settings, and the database they name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from promptgps_service.errors import Invalid

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
    """The settings, with the flags that were given.

    Raises:
        Invalid: naming the variable that cannot be.
    """
    from pydantic import ValidationError

    from promptgps_service.settings import Settings

    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise Invalid(f"PROMPTGPS_{str(first['loc'][0]).upper()}: {first['msg']}") from None
    except OSError as error:
        raise Invalid(f"{error.filename}: {error.strerror}") from error

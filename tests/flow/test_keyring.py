"""Keys: who has one gets in, who had one does not, and the database knows none of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from promptgps_service.errors import Conflict, Invalid, Unauthorized, Unavailable
from promptgps_service.flow.access import Access
from promptgps_service.flow.keyring import Keyring, add_key, forget_keys
from promptgps_service.store import clock
from promptgps_service.store.unit import Store
from sqlalchemy import text

from tests.databases import opened_store, postgres_database
from tests.server import wait_for


@contextmanager
def opened(store: Store, *given_keys: str, open_without_keys: bool = False) -> Iterator[Keyring]:
    keyring = Keyring(store, given_keys, open_without_keys=open_without_keys)
    try:
        yield keyring
    finally:
        keyring.close()


def make(
    store: Store,
    name: str = "key",
    *patterns: str,
    read_only: bool = False,
    days: int | None = None,
) -> str:
    return add_key(store, name, patterns, read_only=read_only, days=days)


def bearer(key: str) -> bytes:
    return f"Bearer {key}".encode()


def admits(keyring: Keyring, header: bytes) -> bool:
    try:
        keyring.admit(header)
    except Unauthorized:
        return False
    return True


def test_a_key_brings_the_rights_it_was_made_with(store: Store) -> None:
    every = make(store, "every")
    some = make(store, "some", "exp-*", "other", read_only=True)
    with opened(store) as keyring:
        assert keyring.admit(bearer(every)) == Access("every")
        assert keyring.admit(bearer(some)) == Access("some", ("exp-*", "other"), True)
        # the scheme's case is free (RFC 9110)
        assert keyring.admit(b"bearer " + some.encode()).key == "some"


def test_the_database_does_not_know_the_key(store: Store) -> None:
    key = make(store)
    identity = key[5:17]
    secret = key[18:]
    with store.read() as unit:
        (row,) = unit.connection.execute(text("SELECT * FROM api_keys")).all()
    assert len(secret) == 43
    assert identity in repr(row)
    assert secret not in repr(row)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_a_key_with_one_character_changed_opens_nothing(store: Store, data: st.DataObject) -> None:
    with store.write() as unit:
        unit.keys.revoke("key")
    key = make(store)
    place = data.draw(st.integers(0, len(key) - 1))
    character = data.draw(
        st.characters(min_codepoint=33, max_codepoint=126).filter(lambda one: one != key[place])
    )
    with opened(store) as keyring:
        assert admits(keyring, bearer(key))
        assert not admits(keyring, bearer(key[:place] + character + key[place + 1 :]))


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Basic a2V5",
        b"given",
        b"Bearer Given",
        b"Bearer \xff",
        b"Basic given",
    ],
)
def test_what_is_no_key_opens_nothing(store: Store, header: bytes) -> None:
    make(store)
    with opened(store, "given", "another") as keyring:
        assert not admits(keyring, header)
        assert keyring.admit(b"Bearer another") == Access("PROMPTGPS_API_KEYS")


def test_without_any_key_it_is_open_or_shut_as_told(store: Store) -> None:
    with opened(store, open_without_keys=True) as keyring:
        assert keyring.admit(b"") == Access(None)
    with opened(store, open_without_keys=False) as keyring:
        assert not admits(keyring, b"")
    with opened(store, "given", open_without_keys=True) as keyring:
        assert not admits(keyring, b"")
    make(store)
    with opened(store, open_without_keys=True) as keyring:
        assert not admits(keyring, b"")


def revoke(store: Store, name: str) -> None:
    with store.write() as unit:
        assert unit.keys.revoke(name)


def test_the_last_key_that_goes_does_not_open_the_service(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Revoked or expired, found so at the start or while it runs.

    Only forgetting them on purpose opens it.
    """
    with opened(store, open_without_keys=True) as keyring:
        assert keyring.open
        revoked = make(store, "revoked")
        keyring._refresh()
        assert not keyring.open
        revoke(store, "revoked")
        for ring in (keyring, Keyring(store, [], open_without_keys=True)):
            ring._refresh()
            assert not ring.open
            for header in (b"", bearer(revoked), b"Bearer guess"):
                with pytest.raises(Unauthorized) as refused:
                    ring.admit(header)
                assert "revoked" in refused.value.detail or "keys add" in refused.value.detail
            ring.close()

        expiring = make(store, "expiring", days=1)
        keyring._refresh()
        assert admits(keyring, bearer(expiring))
        with pytest.raises(Conflict):
            forget_keys(store)
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 2 * 86_400)
        assert not admits(keyring, bearer(expiring))
        assert not admits(keyring, b"")
        with pytest.raises(Unauthorized, match="keys add"):
            keyring.admit(b"")

        assert forget_keys(store) == 2
        keyring._refresh()
        assert keyring.admit(b"") == Access(None)


def test_a_name_can_be_used_again_and_the_service_stays_shut(store: Store) -> None:
    first = make(store, "key")
    revoke(store, "key")
    second = make(store, "key")
    with opened(store, open_without_keys=True) as keyring:
        assert admits(keyring, bearer(second))
        assert not admits(keyring, bearer(first))
        assert not keyring.open


def test_a_running_ring_heeds_new_and_revoked_keys(store: Store) -> None:
    first = make(store, "first")
    with opened(store, open_without_keys=True) as keyring:
        second = make(store, "second")
        wait_for(lambda: admits(keyring, bearer(second)), 20.0, "the new key to open")
        with store.write() as unit:
            unit.keys.revoke("first")
        wait_for(
            lambda: not admits(keyring, bearer(first)), 20.0, "the revoked key to open nothing"
        )
        assert admits(keyring, bearer(second))


def test_a_key_expires(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    key = make(store, "short", days=30)
    lasting = make(store, "lasting")

    now = time.time()
    days = 29.9
    monkeypatch.setattr(time, "time", lambda: now + days * 86_400)
    with opened(store) as keyring:
        assert admits(keyring, bearer(key))
        days = 30.1
        assert not admits(keyring, bearer(key))
        assert admits(keyring, bearer(lasting))


def test_use_is_noted_to_the_hour(store: Store) -> None:
    used = make(store, "used")
    _ = make(store, "idle")

    def last_used() -> dict[str, str | None]:
        with store.read() as unit:
            return {record.name: record.last_used for record in unit.keys.all()}

    with opened(store) as keyring:
        hours = {clock.utc_now()[:13]}
        keyring.admit(bearer(used))
        wait_for(lambda: last_used()["used"] is not None, 20.0, "the use to be noted")
        hours.add(clock.utc_now()[:13])
    assert last_used()["used"] in hours
    assert last_used()["idle"] is None


@pytest.mark.parametrize("name", ["", "a b", "-a", "a" * 129, "ä", "a/b"])
def test_names_are_those_of_the_contract(store: Store, name: str) -> None:
    with pytest.raises(Invalid):
        make(store, name)


@pytest.mark.parametrize("pattern", ["", "a b", "exp-*,other", "ä*", "'"])
def test_patterns_that_match_no_name_are_refused(store: Store, pattern: str) -> None:
    with pytest.raises(Invalid):
        make(store, "key", "fine-*", pattern)


def test_a_name_is_given_once(store: Store) -> None:
    make(store)
    with pytest.raises(Conflict):
        make(store)


def test_without_its_database_a_ring_keeps_what_it_knows_and_a_new_one_knows_it_does_not_know(
    postgres_server: str,
) -> None:
    with postgres_database(postgres_server) as url, opened_store(url) as store:
        key = make(store)
        keyring = Keyring(store, [], open_without_keys=True)
    try:
        with pytest.raises(Unavailable):
            keyring._refresh()
        assert admits(keyring, bearer(key))
        with opened_store(url) as gone, opened(gone, "given", open_without_keys=True) as late:
            assert late.admit(b"Bearer given")
            for header in (bearer(key), b"Bearer wrong", b""):
                with pytest.raises(Unavailable):
                    late.admit(header)
        with (
            opened_store(url) as gone,
            opened(gone, open_without_keys=True) as late,
            pytest.raises(Unavailable),
        ):
            late.admit(b"")  # it might be open, but nobody can tell
    finally:
        keyring.close()

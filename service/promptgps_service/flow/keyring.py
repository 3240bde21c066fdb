"""API keys: shown once, known by their digest, and read again every other second.

Revoking one therefore works soon.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import structlog

from promptgps_service.errors import Conflict, Fault, Invalid, Unauthorized, Unavailable
from promptgps_service.flow.access import Access
from promptgps_service.flow.ticker import Ticker
from promptgps_service.store.clock import utc_now, utc_seconds
from promptgps_service.store.records import Detail, KeyRecord
from promptgps_service.store.unit import Store

REFRESH_SECONDS = 2.0
_FORM = re.compile(rb"pgps_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PATTERN = re.compile(r"[A-Za-z0-9._*?\[\]!-]{1,128}")
_log = structlog.get_logger(__name__)


def add_key(
    store: Store, name: str, patterns: Sequence[str], *, read_only: bool, days: int | None
) -> str:
    """Make a key and answer it; it is stored nowhere and cannot be shown again.

    Raises:
        Conflict: there is a key of that name.
        Invalid: a name or a pattern that no name can match.
    """
    if not _NAME.fullmatch(name):
        raise Invalid.at("NAME", f"{name!r} is not 1 to 128 letters, digits, `.`, `_`, `-`")

    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern):
            raise Invalid.at(
                "--run", f"{pattern!r} is not made of the characters of names and `*`, `?`, `[…]`"
            )

    identity = secrets.token_hex(6)
    key = f"pgps_{identity}_{secrets.token_urlsafe(32)}"
    record = KeyRecord(
        id=identity,
        name=name,
        digest=_digest(key.encode()),
        runs=list(patterns),
        read_only=read_only,
        created_at=utc_now(),
        expires_at=None if days is None else _stamp(days),
        last_used=None,
    )

    with store.write() as unit:
        if not unit.keys.add(record):
            raise Conflict(
                f"there is a key {name!r} already; revoke it first", (Fault("NAME", "is taken"),)
            )
        told: dict[str, Detail] = {
            "key": name,
            "runs": ", ".join(patterns) or "*",
            "read_only": read_only,
        }
        unit.events.add("key-added", detail=told)

    return key


def has_had_keys(store: Store) -> bool:
    """Whether the database holds any key, be it one that opens nothing any more."""
    with store.read() as unit:
        return bool(unit.keys.all())


def forget_keys(store: Store) -> int:
    """Forget all keys that open nothing any more, so that a service may be open again.

    Returns:
        How many there were.

    Raises:
        Conflict: there is a key that still opens.
    """
    with store.write() as unit:
        known = unit.keys.all()
        valid = [record.name for record in known if is_valid(record)]
        if valid:
            raise Conflict(f"{', '.join(valid)}: revoke first what still opens the service")
        unit.keys.forget_all()

    return len(known)


def is_valid(record: KeyRecord) -> bool:
    """Whether a key opens anything now."""
    return record.revoked_at is None and not _has_expired(record)


class Keyring:
    """Every key that opens this process: of the settings, and of the database as last read.

    Once the database has held a key, the service is never open by itself: revoked and expired keys
    stay known, until somebody forgets them on purpose.
    """

    def __init__(self, store: Store, given: Sequence[str], *, open_without_keys: bool) -> None:
        """Begin to read keys.

        Args:
            store: where keys are.
            given: further keys, with all rights.
            open_without_keys: whether everybody is let in as long as there never was a key.
        """
        self._store = store
        self._given = [_digest(key.encode()) for key in given]
        self._open = open_without_keys
        self._known: dict[str, KeyRecord] | None = None
        self._used: set[str] = set()

        try:
            self._refresh()
        except Unavailable as error:
            _log.warning("API keys cannot be read yet", cause=error.detail)

        self.ticker = Ticker("keys", REFRESH_SECONDS, self._refresh)

    def close(self) -> None:
        """Read no more."""
        self.ticker.stop()

    @property
    def open(self) -> bool:
        """Whether nobody is asked for a key."""
        return self._open and not self._given and self._known == {}

    def admit(self, authorization: bytes) -> Access:
        """Rights that an Authorization header gives; costs no look at the database.

        Raises:
            Unauthorized: no key, an unknown, a revoked or an expired one.
            Unavailable: keys could not be read yet.
        """
        if self.open:
            return Access(None)

        known = self._known
        scheme, _, key = authorization.partition(b" ")
        digest = _digest(key if scheme.lower() == b"bearer" else b"")
        # every key is compared, in constant time: how long a refusal takes tells nothing
        matches = [hmac.compare_digest(digest, given) for given in self._given]
        if any(matches):
            return Access("PROMPTGPS_API_KEYS")
        if known is None:
            raise Unavailable("API keys could not be read from the database yet; try again")

        form = _FORM.fullmatch(key)
        record = None if form is None else known.get(form[1].decode())
        if record is None or not hmac.compare_digest(digest, record.digest):
            raise Unauthorized(self._advice(known))

        return self._access(record)

    def _advice(self, known: Mapping[str, KeyRecord]) -> str:
        if self._given or any(is_valid(record) for record in known.values()):
            return "no API key, or an unknown one: send `Authorization: Bearer KEY`"
        return "no API key opens this service now: make one with `promptgps keys add NAME`"

    def _access(self, record: KeyRecord) -> Access:
        if record.revoked_at is not None:
            raise Unauthorized("this API key has been revoked")
        if _has_expired(record):
            raise Unauthorized("this API key has expired")
        self._used.add(record.id)
        return Access(record.name, tuple(record.runs), record.read_only)

    def _refresh(self) -> None:
        """Read every key: there are few, and a stranger's guesses then cost the database nothing.

        Raises:
            Unavailable: the database does not answer; nobody can revoke a key either, and those
                that were read before stand.
        """
        with self._store.read() as unit:
            self._known = {record.id: record for record in unit.keys.all()}
        self._note_use(self._known)

    def _note_use(self, known: dict[str, KeyRecord]) -> None:
        used = self._used
        self._used = set()

        hour = utc_now()[:13]
        late = [
            identity for identity in used if identity in known and known[identity].last_used != hour
        ]
        if late:
            with self._store.write() as unit:
                unit.keys.mark_used(late, hour)


def _stamp(days: int = 0) -> str:
    """Now, or so much later, by the wall clock, as a key's term is.

    The order of stamps is that of time.
    """
    return datetime.fromtimestamp(utc_seconds() + days * 86_400, UTC).isoformat(
        timespec="milliseconds"
    )


def _has_expired(record: KeyRecord) -> bool:
    return record.expires_at is not None and record.expires_at <= _stamp()


def _digest(key: bytes) -> bytes:
    """Keys are long and random, so that a plain digest cannot be searched."""
    return hashlib.sha256(key).digest()

"""Who may address the service: the names that it answers to, and the web pages that may call it.

A page of any site can make a browser send requests to a service on the user's own machine. Two
things keep it out:

* `Hosts`: a page whose name its owner points at 127.0.0.1 (DNS rebinding) looks to the browser as
  if it were the service's own. What it cannot change is the name in `Host`.
* `Origins`: any other page is of a foreign origin, and the browser says so in `Origin`.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from ipaddress import ip_address

Headers = Mapping[bytes, bytes]

# What every machine calls itself; browsers resolve names under `localhost` to loopback themselves.
LOOPBACK_NAMES = ("localhost", "*.localhost")
PREFLIGHT_SECONDS = 600

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._~-]+)(?::(?P<port>[0-9]{0,5}))?")
_EXPOSED = b"x-request-id, retry-after"
_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE"
_REQUEST_HEADERS = b"authorization, content-type, content-encoding, idempotency-key, x-request-id"


def host_name(host: str) -> str | None:
    """The name in a `Host` header, in lower case and without its port; None where it is no host.

    >>> host_name("LocalHost:8000"), host_name("[::1]:8000"), host_name("a b")
    ('localhost', '::1', None)
    """
    found = _HOST.fullmatch(host)
    if found is None:
        return None
    return found["name"].strip("[]").lower().rstrip(".") or None


class Hosts:
    """The names that the service answers to.

    A number (`127.0.0.1`, `[::1]`, `10.0.0.7`) is always one of them unless names were given: no
    other site's page can have a number of ours in its address.
    """

    def __init__(self, given: Collection[str], bound: str, *, loopback: bool = True) -> None:
        """Know the names.

        Args:
            given: patterns of the settings; where there are any, nothing else is answered to.
            bound: the address that the service listens on.
            loopback: whether no other machine reaches that address.
        """
        self.given = bool(given)
        own = given or (*LOOPBACK_NAMES, bound, *(() if loopback else _names_of_this_machine()))
        self._patterns = tuple(name.strip("[]").lower().rstrip(".") for name in own if name)
        self._known: dict[bytes, bool] = {}

    def answers_to(self, host: bytes | None) -> bool:
        """Whether a request to this host is for this service.

        HTTP/1.0 needs no `Host`, and no browser leaves it out.
        """
        if host is None:
            return True
        known = self._known.get(host)
        if known is None:
            known = self._judge(host.decode("latin-1"))
            if len(self._known) < 1024:  # strangers may send any number of names
                self._known[host] = known

        return known

    def _judge(self, host: str) -> bool:
        name = host_name(host)
        if name is None:
            return False
        if not self.given and _is_number(name):
            return True

        return any(fnmatchcase(name, pattern) for pattern in self._patterns)

    def __str__(self) -> str:
        return ", ".join(self._patterns)


class Origins:
    """The web pages that may call the service: its own, and those of the settings."""

    def __init__(self, given: Collection[str]) -> None:
        """Know the origins.

        Args:
            given: origins of the settings; `*` stands for every one.
        """
        self._every = "*" in given
        self._given = frozenset(origin.encode("latin-1") for origin in given)

    def allows(self, headers: Headers) -> bool:
        """Whether a request comes from no page at all, from one of ours or from an allowed one.

        Without `Origin` (images, scripts and the like of another site) browsers say by
        `Sec-Fetch-Site` whence a request comes; following a link is no fault of the service's.
        """
        origin = headers.get(b"origin")
        if origin is None:
            foreign = headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site")
            return not foreign or headers.get(b"sec-fetch-mode") == b"navigate" or self._every
        return self.is_given(origin) or _is_own(origin, headers.get(b"host", b""))

    def is_given(self, origin: bytes | None) -> bool:
        """Whether pages of this origin may read answers by the settings."""
        return origin is not None and (self._every or origin.lower() in self._given)

    def headers_for(self, origin: bytes | None) -> list[tuple[bytes, bytes]]:
        """What lets the browser show an answer to a page that is allowed by the settings."""
        if not self._given:
            return []
        vary = [(b"vary", b"origin")]
        if origin is None or not self.is_given(origin):
            return vary

        return [
            *vary,
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _EXPOSED),
        ]

    @staticmethod
    def is_preflight(method: str, headers: Headers) -> bool:
        """Whether a browser only asks what a page may send; it sends no key with the question."""
        return method == "OPTIONS" and b"access-control-request-method" in headers

    @staticmethod
    def preflight_headers(headers: Headers) -> list[tuple[bytes, bytes]]:
        """The answer to that question, for a page that is allowed."""
        answer = [
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _REQUEST_HEADERS),
            (b"access-control-max-age", str(PREFLIGHT_SECONDS).encode()),
        ]
        if headers.get(b"access-control-request-private-network") == b"true":
            answer.append((b"access-control-allow-private-network", b"true"))

        return answer


def _is_own(origin: bytes, host: bytes) -> bool:
    """Whether an origin is the address that the request went to, behind whatever ends TLS."""
    scheme, found, authority = origin.lower().partition(b"://")
    if not found or scheme not in (b"http", b"https"):
        return False
    port = b":80" if scheme == b"http" else b":443"
    return authority.removesuffix(port) == host.lower().removesuffix(port)


def _is_number(name: str) -> bool:
    try:
        ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def _names_of_this_machine() -> Iterable[str]:
    """Names that colleagues use, where the service is open beyond loopback.

    No name server is asked.
    """
    name = socket.gethostname()
    return (name, name.partition(".")[0])

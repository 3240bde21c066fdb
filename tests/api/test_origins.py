"""Who may address the service: names in `Host`, pages in `Origin`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from promptgps_service.api.origins import Hosts, host_name
from promptgps_service.app import create_app
from promptgps_service.flow.keyring import add_key
from starlette.testclient import TestClient

from tests.api.conftest import refused, settings_for
from tests.databases import opened_store

FOREIGN = (
    "evil.example",
    "evil.example:8000",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "evil",
    "notlocalhost",
    "localhostx",
    "1.2.3.4.nip.io",
    "evil.example.",
    "xn--lcalhost-66a",
)
OWN = (
    "localhost",
    "localhost:8000",
    "LOCALHOST:1",
    "gps.localhost",
    "localhost.",
    "127.0.0.1",
    "127.0.0.1:8000",
    "127.9.9.9",
    "[::1]",
    "[::1]:8000",
    "192.0.2.7:80",
)
NO_HOST = (
    "",
    " ",
    "a b",
    "a/b",
    "http://localhost",
    "user@localhost",
    "local\tsthost",
    "[::1",
    "localhost:port",
    "é",
)


@contextmanager
def served(folder: Path, template: Path, **changes: Any) -> Iterator[TestClient]:
    changes = {"allowed_hosts": ()} | changes
    app = create_app(settings_for(folder, template, **changes))
    with TestClient(app, raise_server_exceptions=False, base_url="http://localhost") as client:
        yield client


@pytest.fixture(scope="module")
def http(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Open on loopback, as `make serve` leaves it."""
    with served(tmp_path_factory.mktemp("open"), sqlite_template) as client:
        yield client


@pytest.fixture(scope="module")
def chosen(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """With names and origins of its own choice."""
    names = "gps.example, *.internal, localhost"
    pages = "https://app.example,http://localhost:3000"
    folder = tmp_path_factory.mktemp("chosen")
    with served(folder, sqlite_template, allowed_hosts=names, allowed_origins=pages) as client:
        yield client


@pytest.mark.parametrize(
    "path", ["/pools", "/runs", "/metrics", "/docs", "/openapi.json", "/nowhere"]
)
@pytest.mark.parametrize("host", FOREIGN)
def test_an_open_service_answers_to_no_name_of_others(
    http: TestClient, host: str, path: str
) -> None:
    for method in ("GET", "POST", "OPTIONS", "HEAD"):
        answer = http.request(method, path, headers={"host": host})
        assert answer.status_code == 421
    problem = refused(http.get(path, headers={"host": host}), 421, "unknown-host")
    assert "PROMPTGPS_ALLOWED_HOSTS" in problem["detail"]
    assert repr(host) in problem["detail"]


@pytest.mark.parametrize("host", OWN)
def test_an_open_service_answers_to_its_own_names_and_to_numbers(
    http: TestClient, host: str
) -> None:
    assert http.get("/pools", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", NO_HOST)
def test_what_is_no_host_is_malformed(http: TestClient, host: str) -> None:
    for path in ("/pools", "/healthz"):
        refused(http.get(path, headers={"host": host.encode()}), 400, "malformed")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_who_watches_the_service_may_call_it_anything(
    http: TestClient, chosen: TestClient, path: str
) -> None:
    for client in (http, chosen):
        assert client.get(path, headers={"host": "10.1.2.3:8000"}).status_code == 200
        assert client.get(path, headers={"host": "pod-7.ns.svc"}).status_code == 200


def test_where_a_key_is_asked_for_any_name_will_do(sqlite_template: Path, tmp_path: Path) -> None:
    with served(tmp_path, sqlite_template, api_keys="key") as client:
        for host in (*FOREIGN, *OWN):
            refused(client.get("/pools", headers={"host": host}), 401, "unauthorized")
            answer = client.get("/pools", headers={"host": host, "authorization": "Bearer key"})
            assert answer.status_code == 200


def test_a_key_in_the_database_is_as_good(sqlite_template: Path, tmp_path: Path) -> None:
    settings = settings_for(tmp_path, sqlite_template, allowed_hosts=())
    with opened_store(settings.database_url) as store:
        key = add_key(store, "key", [], read_only=False, days=None)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        headers = {"host": "api:8000", "authorization": f"Bearer {key}"}
        assert client.get("/pools", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("gps.example", True),
        ("GPS.example:9", True),
        ("a.internal", True),
        ("a.b.internal", True),
        ("localhost", True),
        ("internal", False),
        ("example", False),
        ("127.0.0.1", False),
        ("[::1]", False),
    ],
)
def test_chosen_names_are_all_that_it_answers_to(
    chosen: TestClient, host: str, allowed: bool
) -> None:
    assert chosen.get("/pools", headers={"host": host}).status_code == (200 if allowed else 421)


def test_every_name_on_request(sqlite_template: Path, tmp_path: Path) -> None:
    with served(tmp_path, sqlite_template, allowed_hosts="*") as client:
        assert client.get("/pools", headers={"host": "evil.example"}).status_code == 200


def test_beyond_loopback_it_answers_to_the_name_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "node7.cluster.example")
    for loopback in (True, False):
        hosts = Hosts((), "0.0.0.0", loopback=loopback)
        assert hosts.answers_to(b"node7:8000") is not loopback
        assert hosts.answers_to(b"node7.cluster.example") is not loopback
        assert not hosts.answers_to(b"evil.example")
    assert Hosts((), "gps.example").answers_to(b"gps.example:8000")


@pytest.mark.parametrize("host", [b"evil.example", b"evil2.example"])
def test_strangers_do_not_fill_the_memory(host: bytes) -> None:
    hosts = Hosts((), "127.0.0.1")
    for number in range(3000):
        assert not hosts.answers_to(b"n%d." % number + host)
    assert len(hosts._known) <= 1024
    assert hosts.answers_to(b"localhost")
    assert host_name("localhost:8000") == "localhost"


# ---- pages ---------------------------------------------------------------------------------------


PAGES = (
    "https://evil.example",
    "http://localhost:3000",
    "http://127.0.0.1:8000",
    "null",
    "file://",
    "http://localhost.",
    "chrome-extension://abc",
    "http://localhost:80@evil.example",
)


@pytest.mark.parametrize("origin", PAGES)
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/pools"), ("POST", "/outcomes"), ("OPTIONS", "/runs"), ("GET", "/healthz")],
)
def test_pages_of_other_origins_are_refused(
    http: TestClient, origin: str, method: str, path: str
) -> None:
    problem = refused(http.request(method, path, headers={"origin": origin}), 403, "foreign-origin")
    assert "PROMPTGPS_ALLOWED_ORIGINS" in problem["detail"]


def test_a_key_does_not_make_a_page_less_foreign(sqlite_template: Path, tmp_path: Path) -> None:
    with served(tmp_path, sqlite_template, api_keys="key") as client:
        headers = {"origin": "https://evil.example", "authorization": "Bearer key"}
        refused(client.get("/pools", headers=headers), 403, "foreign-origin")


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:8000", "http://localhost:8000"),
        ("localhost", "http://localhost"),
        ("localhost", "http://localhost:80"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("localhost", "https://localhost"),
        ("localhost:443", "https://localhost"),
    ],
)
def test_its_own_pages_may_call_it(http: TestClient, host: str, origin: str) -> None:
    assert http.get("/pools", headers={"host": host, "origin": origin}).status_code == 200


@pytest.mark.parametrize(
    ("site", "mode", "allowed"),
    [
        ("cross-site", "no-cors", False),
        ("same-site", "no-cors", False),
        ("cross-site", "navigate", True),
        ("same-origin", "cors", True),
        ("none", "navigate", True),
    ],
)
def test_images_and_scripts_of_other_sites_get_nothing(
    http: TestClient, site: str, mode: str, allowed: bool
) -> None:
    headers = {"sec-fetch-site": site, "sec-fetch-mode": mode}
    assert http.get("/pools", headers=headers).status_code == (200 if allowed else 403)


@pytest.mark.parametrize("origin", ["https://app.example", "http://localhost:3000"])
def test_an_allowed_page_asks_first_without_a_key_and_reads_the_answer(
    chosen: TestClient, origin: str
) -> None:
    asked = {"origin": origin, "access-control-request-method": "POST"}
    answer = chosen.options("/select_batch", headers=asked)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == origin
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "authorization" in answer.headers["access-control-allow-headers"]
    got = chosen.get("/pools", headers={"origin": origin})
    assert (got.status_code, got.headers["access-control-allow-origin"]) == (200, origin)
    assert got.headers["vary"] == "origin"
    assert "access-control-allow-credentials" not in got.headers


def test_pages_that_are_not_allowed_stay_out_where_others_are(chosen: TestClient) -> None:
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    for answer in (chosen.options("/runs", headers=asked), chosen.get("/runs", headers=asked)):
        refused(answer, 403, "foreign-origin")
        assert "access-control-allow-origin" not in answer.headers


# ---- form ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["host", "origin", "authorization", "content-type", "content-encoding", "idempotency-key"],
)
def test_a_header_that_counts_once_is_there_once(http: TestClient, name: str) -> None:
    value = {
        "host": "localhost",
        "origin": "http://localhost",
        "content-type": "application/json",
    }.get(name, "a")
    headers = [("host", "localhost")] * (name != "host") + [(name, value)] * 2
    refused(http.post("/pools/p/prompts", headers=headers, content=b"{}"), 400, "malformed")


@pytest.mark.parametrize(
    "path", ["/pools", "/runs", "/healthz", "/readyz", "/metrics", "/openapi.json"]
)
def test_every_get_has_a_head(http: TestClient, path: str) -> None:
    head = http.head(path)
    got = http.get(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers["content-type"] == got.headers["content-type"]


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "DELETE", "PROPFIND", "PUT"])
def test_a_method_that_is_not_taken_is_told_with_those_that_are(
    http: TestClient, method: str
) -> None:
    answer = http.request(method, "/pools")
    refused(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "GET, POST"

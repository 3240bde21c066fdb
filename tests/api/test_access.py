"""API keys and request ids."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from promptgps_service.app import create_app
from promptgps_service.settings import Settings
from starlette.testclient import TestClient

from tests.api.conftest import refused, settings_for

KEYS = ("first-key", "second-key")
UNAUTHORIZED = (401, "unauthorized")
GUARDED = [
    ("GET", "/pools"),
    ("POST", "/pools"),
    ("GET", "/pools/p"),
    ("POST", "/pools/p/prompts"),
    ("GET", "/runs"),
    ("POST", "/runs"),
    ("GET", "/runs/r"),
    ("PATCH", "/runs/r"),
    ("GET", "/runs/r/metrics"),
    ("POST", "/select_batch"),
    ("POST", "/outcomes"),
    ("POST", "/predict_difficulty"),
    ("GET", "/metrics"),
    ("POST", "/runs/r/snapshots"),
    ("GET", "/runs/r/snapshots"),
    ("POST", "/runs/r/restore"),
    ("POST", "/allocate_budget"),
    ("POST", "/runs/r/subsets"),
    ("POST", "/runs/r/archive"),
    ("POST", "/runs/r/open"),
    ("DELETE", "/runs/r"),
    ("POST", "/pools/p/archive"),
    ("POST", "/pools/p/open"),
    ("DELETE", "/pools/p"),
    ("GET", "/events"),
    ("GET", "/runs/r/events"),
    ("GET", "/pools/p/events"),
]


@pytest.fixture(scope="module")
def locked(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """An application that wants a key."""
    app = create_app(
        settings_for(tmp_path_factory.mktemp("locked"), sqlite_template, api_keys=" , ".join(KEYS))
    )
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer(""),
        bearer("wrong"),
        bearer("first-key "[:-2]),
        bearer("first-key,second-key"),
        bearer("FIRST-KEY"),
        {"authorization": "Basic Zmlyc3Qta2V5"},
        {"authorization": "first-key"},
        {"x-api-key": "first-key"},
    ],
)
def test_without_a_right_key_every_endpoint_is_a_401(
    locked: TestClient, method: str, path: str, headers: dict[str, str]
) -> None:
    content = {"json": {}} if method in ("POST", "PATCH") else {}
    answer = locked.request(method, path, headers=headers, **content)
    refused(answer, *UNAUTHORIZED)
    assert answer.headers["www-authenticate"] == "Bearer"
    assert not any(key in answer.text for key in KEYS)


def test_every_guarded_endpoint_is_in_the_list_above(locked: TestClient) -> None:
    documented = {
        (method.upper(), path.replace("{pool}", "p").replace("{run}", "r").replace("{key}", "k"))
        for path, operations in locked.get("/openapi.json", headers=bearer(KEYS[0]))
        .json()["paths"]
        .items()
        for method, operation in operations.items()
        if "security" in operation
    }
    assert documented == set(GUARDED)


@pytest.mark.parametrize("key", KEYS)
def test_every_configured_key_opens(locked: TestClient, key: str) -> None:
    assert locked.get("/pools", headers=bearer(key)).status_code == 200
    assert locked.get("/runs/nobody", headers=bearer(key)).status_code == 404


@pytest.mark.parametrize(
    "path", ["/pools", "/runs", "/select_batch", "/outcomes", "/pools/p/prompts", "/nowhere"]
)
@pytest.mark.parametrize(
    "body", [b"{", b"\xff", b"[" * 100_000, b" " * 2_000_000], ids=["cut", "bytes", "deep", "large"]
)
def test_who_has_no_key_is_told_nothing_else(locked: TestClient, path: str, body: bytes) -> None:
    for key in ("", "wrong"):
        answer = locked.post(
            path, content=body, headers=bearer(key) | {"content-type": "application/json"}
        )
        refused(answer, *UNAUTHORIZED)


@pytest.mark.parametrize("path", ["/pools/p/prompts", "/outcomes"])
def test_without_a_key_no_byte_of_a_body_is_read(locked: TestClient, path: str) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("the body was asked for")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": [(b"content-type", b"application/jsonl")],
    }
    asyncio.run(locked.app(scope, receive, send))
    assert sent[0]["status"] == 401


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/nowhere",
        "/healthz/",
        "//healthz",
        "/HEALTHZ",
        "/docs../pools",
        "//docs",
        "/DOCS",
        "/openapi.json/",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
def test_nothing_but_health_and_documentation_answers_without_a_key(
    locked: TestClient, path: str, method: str
) -> None:
    assert locked.request(method, path, follow_redirects=False).status_code == 401
    assert locked.request(method, path, headers=bearer(KEYS[0])).status_code != 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_needs_no_key(locked: TestClient, path: str) -> None:
    assert locked.get(path).status_code == 200


def test_without_keys_nobody_is_asked_for_one(http: TestClient) -> None:
    assert http.get("/pools").status_code == 200
    assert http.get("/pools", headers=bearer("any")).status_code == 200


@pytest.mark.parametrize("path", ["/pools", "/pools/nobody", "/nowhere", "/healthz", "/metrics"])
def test_a_request_id_is_echoed_also_in_problems(http: TestClient, path: str) -> None:
    answer = http.get(path, headers={"x-request-id": "trainer-7:step/3"})
    assert answer.headers["x-request-id"] == "trainer-7:step/3"
    if answer.status_code >= 400:
        assert answer.json()["request_id"] == "trainer-7:step/3"


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "<script>", 'a"b', "é"])
def test_a_request_without_a_proper_id_gets_one_of_its_own(
    http: TestClient, given: str | None
) -> None:
    headers = {} if given is None else {"x-request-id": given.encode("latin-1")}
    first, second = (
        http.get("/pools/nobody", headers=headers).headers["x-request-id"] for _ in range(2)
    )
    assert first != second
    assert given not in (first, second)


def test_the_settings_keep_keys_out_of_sight() -> None:
    assert not any(key in repr(Settings(api_keys=",".join(KEYS))) for key in KEYS)


@pytest.mark.parametrize(
    "path", ["/pools", "/pools/nobody", "/nowhere", "/healthz", "/metrics", "/docs"]
)
def test_no_cache_keeps_an_answer_and_no_browser_guesses_at_it(http: TestClient, path: str) -> None:
    headers = http.get(path).headers
    assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")


@pytest.mark.parametrize("client", ["http", "locked"])
def test_pages_of_other_origins_get_nothing(request: pytest.FixtureRequest, client: str) -> None:
    opened: TestClient = request.getfixturevalue(client)
    origin = {"origin": "https://elsewhere.example"}
    asked = origin | {
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type",
    }
    for answer in (
        opened.options("/select_batch", headers=asked),
        opened.get("/pools", headers=origin),
    ):
        assert not any(name.startswith("access-control") for name in answer.headers)
        refused(answer, 403, "foreign-origin")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.0.2.7", False),
        ("no.such.host.invalid", False),
    ],
)
def test_without_keys_only_loopback_is_open_unless_told_otherwise(
    host: str, loopback: bool
) -> None:
    assert Settings(host=host).open_without_keys() == loopback
    assert Settings(host=host, allow_open=True).open_without_keys()

"""The documentation pages: complete in themselves, strict, and there for whoever has no key yet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from promptgps_service.app import create_app
from starlette.testclient import TestClient

from tests.api.conftest import settings_for

ASSETS = ("init.js", "swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png")


@pytest.fixture(scope="module", params=["open", "with keys"])
def opened(
    request: pytest.FixtureRequest, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    """A service that asks for a key, and one that does not; nobody has one here."""
    keys = {} if request.param == "open" else {"api_keys": "key"}
    app = create_app(settings_for(tmp_path_factory.mktemp("docs"), sqlite_template, **keys))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


class Page(HTMLParser):
    """What a page loads, and what stands in it that a strict policy forbids."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.loaded += [str(found[name]) for name in ("src", "href") if name in found]
        if tag == "style" or (tag == "script" and "src" not in found):
            self.inline.append(tag)
        self.inline += [name for name in found if name.startswith("on") or name == "style"]


def test_the_page_loads_nothing_from_elsewhere_and_has_no_script_of_its_own(
    opened: TestClient,
) -> None:
    answer = opened.get("/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page = Page(answer.text)
    assert page.inline == []
    assert {f"docs/{name}" for name in ASSETS} <= set(page.loaded)
    for place in page.loaded:
        assert "//" not in place
        assert opened.get(f"/{place}").status_code == 200


def test_the_policy_allows_nothing_but_the_service_itself(opened: TestClient) -> None:
    for path in ("/docs", *(f"/docs/{name}" for name in ASSETS)):
        policy = opened.get(path).headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; ")
        assert "unsafe" not in policy
        assert not re.search(r"https?:|\*", policy)


@pytest.mark.parametrize("name", ASSETS)
def test_assets_have_their_types_and_answer_a_head(opened: TestClient, name: str) -> None:
    got = opened.get(f"/docs/{name}")
    head = opened.head(f"/docs/{name}")
    kind = {"js": "text/javascript", "css": "text/css", "png": "image/png"}[name.rpartition(".")[2]]
    assert got.headers["content-type"].startswith(kind)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(got.content))


@pytest.mark.parametrize(
    "name", ["index.html", "..%2fdocs.py", "swagger-ui%2fLICENSE", "VERSION", ""]
)
def test_no_other_file_can_be_named(opened: TestClient, name: str) -> None:
    assert opened.get(f"/docs/{name}", follow_redirects=False).status_code in (307, 404)


def test_the_document_says_how_a_key_is_sent(opened: TestClient) -> None:
    document = opened.get("/openapi.json").json()
    (scheme,) = document["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")


def test_nothing_else_than_documentation_is_open_beside_it(opened: TestClient) -> None:
    assert opened.get("/redoc").status_code in (401, 404)
    assert opened.get("/docs/oauth2-redirect").status_code == 404

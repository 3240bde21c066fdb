"""Swagger UI at `/docs`, from files that ship with the service.

A browser asks nobody else for anything.

The pages hold no data, only what the API looks like, so they need no key; a key is typed into the
page ("Authorize") and goes with each request that is tried out.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

PAGE = "/docs"
DOCUMENT = "/openapi.json"
_FOLDER = Path(__file__).resolve().parent.parent / "web" / "docs"
_VENDORED = _FOLDER / "swagger-ui"

_ASSETS = {
    "init.js": (_FOLDER / "init.js", "text/javascript; charset=utf-8"),
    "swagger-ui-bundle.js": (_VENDORED / "swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    "swagger-ui.css": (_VENDORED / "swagger-ui.css", "text/css; charset=utf-8"),
    "favicon-32x32.png": (_VENDORED / "favicon-32x32.png", "image/png"),
}

# Swagger UI sets styles through the DOM, which `style-src 'self'` allows; its icons are data.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def is_documentation(path: str) -> bool:
    """Whether a path belongs to the documentation, which holds no data."""
    return path in (PAGE, DOCUMENT) or path.startswith(f"{PAGE}/")


def _page(_request: Request) -> Response:
    return Response(_read(_FOLDER / "index.html"), media_type="text/html", headers=_HEADERS)


def _asset(request: Request) -> Response:
    """One of the page's files; no other file can be named."""
    found = _ASSETS.get(request.path_params["name"])
    if found is None:
        raise HTTPException(404)
    path, media_type = found
    return Response(_read(path), headers=_HEADERS | {"Content-Type": media_type})


@cache
def _read(path: Path) -> bytes:
    return path.read_bytes()


ROUTES = [
    Route(PAGE, _page, methods=["GET"], include_in_schema=False),
    Route(f"{PAGE}/{{name}}", _asset, methods=["GET"], include_in_schema=False),
]

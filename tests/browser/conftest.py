"""A real browser: Debian's chromium, or what PROMPTGPS_TEST_BROWSER names.

`make browser` installs it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
VARIABLE = "PROMPTGPS_TEST_BROWSER"


@pytest.fixture(scope="module")  # while it is open, no other event loop runs in this thread
def browser() -> Iterator[Browser]:
    """The browser; where one is named, as in CI, tests fail without it instead of being skipped."""
    path = os.environ.get(VARIABLE) or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(
            f"there is no chromium here; `make browser` installs it, and {VARIABLE} names another"
        )
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=shutil.which(path) or path, args=as_root
        )
        yield opened
        opened.close()

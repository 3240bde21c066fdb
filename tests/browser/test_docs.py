"""`/docs` in a browser that reaches nothing but the service, which asks for a key."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.server import running

KEY = "sesame"
SECONDS = 60_000  # as playwright counts: a busy machine takes long to draw a page


def test_the_documentation_needs_no_other_site_and_takes_a_key(
    browser: Browser, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    asked: list[str] = []
    complaints: list[str] = []
    with running(url, tmp_path, PROMPTGPS_API_KEYS=KEY) as server:
        page = browser.new_page()
        page.set_default_timeout(SECONDS)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))

        page.goto(f"{server.url}/docs")
        expect(page.locator(".opblock")).not_to_have_count(0, timeout=SECONDS)
        assert complaints == []

        operation = page.locator(".opblock", has_text="List Pools")
        operation.click()
        operation.get_by_role("button", name="Try it out").click()
        operation.get_by_role("button", name="Execute").click()
        expect(
            operation.locator(".live-responses-table .response-col_status").last
        ).to_contain_text("401")
        refused = complaints[:]
        complaints[:] = []
        assert all("401" in line for line in refused), refused  # the browser notes failed requests

        page.locator("button.authorize").first.click()
        page.locator(".auth-container input").fill(KEY)
        page.locator(".auth-btn-wrapper button.authorize").click()
        page.locator(".auth-btn-wrapper button.btn-done").click()
        operation.get_by_role("button", name="Execute").click()
        expect(
            operation.locator(".live-responses-table .response-col_status").last
        ).to_contain_text("200")

        assert complaints == []
        assert [place for place in asked if not place.startswith((server.url, "data:"))] == []
        page.close()

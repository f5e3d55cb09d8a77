"""The dashboard in a real browser: it shows, filters, downloads, asks for a token, runs nothing."""

import shutil
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec

import pytest
import trio

from tests.transports.test_dashboard import EVIL, TOKENS, run, site

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt: chromium)"),
    pytest.mark.skipif(find_spec("playwright") is None, reason="playwright is not installed"),
]
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def browser_page(**options):
    """A page in Chromium. Of the calling thread alone, which must not be trio's."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - it may not be there

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(**options)
        page.set_default_timeout(30_000)
        yield page
        browser.close()


def look(url):
    """Look at the page as a person does; return what was seen."""
    troubles = []
    with browser_page(viewport={"width": 390, "height": 800}, color_scheme="dark") as page:
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: troubles.append(dialog.message))
        page.goto(url)
        page.wait_for_selector("section.card")
        card = page.locator("section.card").first
        card.locator("summary").click()
        card.get_by_label("Filter the failed items").fill("fail two")
        failed = card.locator("tbody tr").all_inner_texts()
        with page.expect_download() as download:
            card.get_by_role("button", name="CSV").click()
        return {
            "text": card.inner_text(),
            "failed": failed,
            "csv": download.value.path().read_text("utf-8"),
            "images": page.locator("img").count(),
            "wide": page.evaluate("document.documentElement.scrollWidth > innerWidth"),
            "troubles": troubles,
        }


async def test_the_page_shows_filters_and_downloads():
    async with site() as (client, server):
        await run(server, f"id {EVIL}", ["a", "fail one", f"fail two {EVIL}"])
        seen = await trio.to_thread.run_sync(look, str(client.base_url))
    assert f"id {EVIL}" in seen["text"]
    assert "1 of 3 succeeded" in seen["text"]
    assert len(seen["failed"]) == 1
    assert EVIL in seen["failed"][0]
    assert seen["csv"].startswith("index,item,status")
    assert (seen["images"], seen["troubles"], seen["wide"]) == (0, [], False)


def give_token(url, token):
    with browser_page() as page:
        page.goto(url)
        page.get_by_role("textbox", name="Token").fill(token)
        page.get_by_role("button", name="Use it").click()
        page.locator("#state", has_text="live").wait_for()
        page.locator("#version", has_text="alice").wait_for()
        return page.evaluate("localStorage.length")


async def test_the_page_asks_for_a_token_and_keeps_it_for_the_tab_alone():
    async with site(tokens=TOKENS) as (client, _):
        give = partial(give_token, str(client.base_url), TOKENS["alice"])
        assert await trio.to_thread.run_sync(give) == 0

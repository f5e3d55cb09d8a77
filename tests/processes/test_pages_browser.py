"""The pages in a real browser: they show, filter, download, ask for a token, run nothing."""

import shutil
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec

import pytest
import trio

from tests.transports.test_dashboard import EVIL, TOKENS, run, site
from trio_tools.live.pages import page as operation_page
from trio_tools.server.extensions.apps import VIEW_KEY

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


# A host of MCP Apps: it shows the page in a frame without an origin, and answers for a server.
HOST = """<!doctype html><title>host</title><iframe sandbox="allow-scripts"
style="width: 700px; height: 400px; border: 0"></iframe><script>
const frame = document.querySelector("iframe"), heard = [];
const send = message => frame.contentWindow.postMessage({jsonrpc: "2.0", ...message}, "*");
let results = [];
addEventListener("message", event => {
  const message = event.data;
  heard.push(message);
  if (message.method === "ui/initialize")
    send({id: message.id, result: {protocolVersion: "2026-01-26", hostCapabilities: {},
      hostInfo: {name: "host", version: "1"}, hostContext: {theme: "dark"}}});
  if (message.method === "ui/notifications/initialized")
    send({method: "ui/notifications/tool-input", params: {arguments: {operation_id: "x"}}});
  if (message.method === "tools/call")
    send({id: message.id, result: results.length > 1 ? results.shift() : results[0]});
});
</script>"""


def result_of(operation_id, *, running, **counts):
    """A result with what the page shows, as the server sends it to such hosts."""
    counts = {
        **dict.fromkeys(("failed", "timed_out", "cancelled", "not_started", "in_flight"), 0),
        **counts,
    }
    failed = {"index": 1, "item": EVIL, "error_code": "INTERNAL", "reason": f"{EVIL} </script>"}
    view = {
        "operation_id": operation_id,
        "tool": "batch_process",
        "operation": "work",
        "running": running,
        "age_seconds": 2.0,
        "counts": counts,
        "rate_per_second": 1.5,
        "timeline": [[0, -2.0, -1.0, "succeeded"], [1, -1.5, -1.0, "failed"]],
        "failed": [failed],
    }
    data = {"operation_id": operation_id, "counts": counts, "errors": [failed]}
    return {"content": [], "structuredContent": {"data": data}, "_meta": {VIEW_KEY: view}}


def host_shows(html, results):
    """Show the page in a host, let the call end, and return what was seen."""
    troubles = []
    with browser_page(viewport={"width": 720, "height": 420}, color_scheme="light") as page:
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: troubles.append(dialog.message))
        page.set_content(HOST)
        page.evaluate(
            "([html, given]) => { results = given; frame.srcdoc = html; }", [html, results]
        )
        frame = page.frame_locator("iframe")
        frame.get_by_text("1 in flight").wait_for()
        live = frame.locator("main").inner_text()
        frame.get_by_role("button", name="Cancel").click()
        ended = results[-1]
        page.evaluate(
            "result => send({method: 'ui/notifications/tool-result', params: result})", ended
        )
        frame.get_by_text("2 of 3 succeeded").wait_for()
        frame.locator("summary").click()
        seen = {
            "live": live,
            "failed": frame.locator("tbody tr").all_inner_texts(),
            "images": frame.locator("img").count(),
            "ground": frame.locator("body").evaluate("e => getComputedStyle(e).backgroundColor"),
            "asked": page.evaluate(
                "heard.filter(m => m.method === 'tools/call').map(m => m.params)"
            ),
            "buttons": frame.get_by_role("button").count(),
        }
        # A host that hands on no `_meta`, and a message that is not of this page.
        plain = {"structuredContent": ended["structuredContent"]}
        page.evaluate(
            "result => send({method: 'ui/notifications/tool-result', params: result})", plain
        )
        page.evaluate("send({method: 'constructor', params: {}})")
        page.evaluate("send({id: 99, method: 'ui/resource-teardown', params: {}})")
        page.wait_for_function("heard.some(m => m.id === 99 && m.result)")
        frame.get_by_text("2 of 3 succeeded").wait_for()
        return {**seen, "troubles": troubles}


def test_the_page_of_an_operation_follows_it_in_a_host():
    running = result_of(f"id {EVIL}", running=True, total=3, succeeded=1, failed=1, in_flight=1)
    ended = result_of(f"id {EVIL}", running=False, total=3, succeeded=2, failed=1)
    seen = host_shows(operation_page("operation").html, [running, ended])
    assert f"id {EVIL}" in seen["live"]
    assert "1 of 3 succeeded" in seen["live"]
    (failed,) = seen["failed"]
    assert EVIL in failed
    assert (seen["images"], seen["troubles"], seen["buttons"]) == (0, [], 0)
    assert seen["ground"] == "rgb(20, 23, 27)"  # the theme of the host, not of the system
    names = [asked["name"] for asked in seen["asked"]]
    assert set(names) == {"get_operation", "cancel_operation"}
    assert seen["asked"][0]["arguments"] == {"operation_id": "x", "page_size": 1}

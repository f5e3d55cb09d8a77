"""`fetch.robots` and `fetch.cache_seconds`: what is not asked for, and why."""

from functools import partial

import pytest
import trio

from nursery_patterns import single_flight
from tests.support.raw_http_servers import config, next_request, reply, serving
from trio_tools.http.fetching.fetcher import Fetcher
from trio_tools.http.fetching.types import FetchRequest
from trio_tools.http.wire.errors import Code, FetchError

ROBOTS = b"""
User-agent: other
Disallow: /

User-agent: trio-tools
User-agent: third
Disallow: /private
Disallow: /private/very
Disallow: /*.pdf$
Allow: /private/open
"""


def site(robots, status="200 OK", *headers):
    """Answer /robots.txt with `robots`, and everything else with its path."""

    async def handler(stream, server):
        while request := await next_request(stream, server):
            path = request.split()[1]
            if path == b"/robots.txt":
                await stream.send_all(reply(robots, *headers, status=status))
            elif path == b"/leads":
                await stream.send_all(reply(b"", "Location: /private", status="302 Found"))
            else:
                await stream.send_all(reply(path, "Content-Type: text/plain"))

    return handler


def asked(server):
    return [request.split()[1].decode() for request in server.requests]


async def outcome(fetcher, url):
    """Return the text of a page, or in which words robots.txt forbids it."""
    try:
        return (await fetcher.fetch(FetchRequest(url))).text
    except FetchError as exc:
        named = exc.error_code == Code.BLOCKED_BY_ROBOTS and "fetch.robots" in exc.remediation
        return exc.message if named else None


async def test_robots_are_ignored_unless_they_are_to_be_obeyed():
    async with serving(site(ROBOTS)) as server, Fetcher(config()) as fetcher:
        assert await outcome(fetcher, server.url + "/private") == "/private"
        assert asked(server) == ["/private"]


async def test_what_robots_forbid_is_not_asked_for_and_the_rule_is_named():
    async with serving(site(ROBOTS)) as server, Fetcher(config(robots="obey")) as fetcher:
        for path, rule in (
            ("/private/x", "Disallow: /private"),
            ("/private/very/x", "Disallow: /private/very"),
            ("/a.pdf", "Disallow: /*.pdf$"),
            ("/leads", "Disallow: /private"),
        ):
            assert f"it says '{rule}'." in await outcome(fetcher, server.url + path)
        for path in ("/", "/private/open/x", "/a.pdf?x"):
            assert await outcome(fetcher, server.url + path) == path
        assert asked(server) == ["/robots.txt", "/leads", "/", "/private/open/x", "/a.pdf?x"]


async def test_many_at_once_ask_for_robots_once_also_if_the_first_is_cancelled():
    release = trio.Event()

    async def slow(stream, server):
        while request := await next_request(stream, server):
            if b"/robots.txt" in request:
                await release.wait()
            await stream.send_all(reply(b"x" if b"robots" not in request else b""))

    async with (
        serving(slow) as server,
        trio.open_nursery() as shared,
        Fetcher(config(robots="obey"), share=partial(single_flight, nursery=shared)) as fetcher,
    ):
        with trio.move_on_after(0.2):
            await outcome(fetcher, server.url + "/first")
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(outcome, fetcher, f"{server.url}/{number}")
            await trio.testing.wait_all_tasks_blocked()
            release.set()
        assert asked(server).count("/robots.txt") == 2


@pytest.mark.parametrize(
    ("status", "allowed"), [("404 Not Found", True), ("403 Forbidden", True), ("503 Busy", False)]
)
async def test_a_missing_robots_allows_all_and_a_failing_one_nothing(status, allowed):
    handler = site(b"User-agent: *\nDisallow: /", status, "Retry-After: 0")
    async with serving(handler) as server, Fetcher(config(robots="obey")) as fetcher:
        text = await outcome(fetcher, server.url + "/x")
        assert text == "/x" if allowed else "answered 503" in text


async def test_hostile_robots_cost_little():
    rules = b"User-agent: *\n" + b"Disallow: /" + b"*a" * 1000 + b"$\n"
    rules += b"".join(b"Disallow: /%d*x*y\n" % number for number in range(30_000))
    async with serving(site(rules)) as server, Fetcher(config(robots="obey")) as fetcher:
        with trio.fail_after(20):
            path = "/" + "a" * 2000 + "!"
            assert await outcome(fetcher, server.url + path) == path


def stamped(*headers, conditional=False):
    """Answer with a count of the replies, or with a 304 to what asks whether it is the same."""
    count = 0

    async def handler(stream, server):
        nonlocal count
        while request := await next_request(stream, server):
            if conditional and b"if-none-match: " in request:
                await stream.send_all(b"HTTP/1.1 304 Not Modified\r\n\r\n")
                continue
            count += 1
            await stream.send_all(reply(b"%d" % count, *headers))

    return handler


async def read(fetcher, server, path="/", **request):
    page = await fetcher.fetch(FetchRequest(server.url + path, **request))
    return page.text, page.from_cache


async def test_without_a_setting_nothing_is_stored(autojump_clock):
    async with serving(stamped("ETag: x")) as server, Fetcher(config()) as fetcher:
        assert await read(fetcher, server) == ("1", False)
        assert await read(fetcher, server) == ("2", False)


async def test_a_reply_is_used_again_for_as_long_as_the_setting_says(autojump_clock):
    async with serving(stamped()) as server, Fetcher(config(cache_seconds=60)) as fetcher:
        assert await read(fetcher, server) == ("1", False)
        await trio.sleep(59.9)
        assert await read(fetcher, server) == ("1", True)
        assert await read(fetcher, server, "/other") == ("2", False)
        assert await read(fetcher, server, headers={"Accept": "x"}) == ("3", False)
        await trio.sleep(0.2)
        assert await read(fetcher, server) == ("4", False)


async def test_an_old_reply_is_asked_for_with_its_validator(autojump_clock):
    handler = stamped('ETag: "a"', conditional=True)
    async with serving(handler) as server, Fetcher(config(cache_seconds=60)) as fetcher:
        assert await read(fetcher, server) == ("1", False)
        for _ in range(3):
            await trio.sleep(61)
            assert await read(fetcher, server) == ("1", True)
            assert await read(fetcher, server) == ("1", True)
        assert len(server.requests) == 4
        assert b'\r\nif-none-match: "a"\r\n' in server.requests[-1]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("Cache-Control: max-age=5", 5),
        ("Cache-Control: public, max-age=999999", 60),
        ("Cache-Control: no-store", 0),
        ("Cache-Control: no-cache", 0),
        ("Cache-Control: max-age=0", 0),
        ("Vary: *", 0),
        ("Set-Cookie: a=b", 0),
        ("Expires: 0", 0),
    ],
)
async def test_a_reply_says_itself_how_long_it_may_be_used(autojump_clock, header, seconds):
    async with serving(stamped(header)) as server, Fetcher(config(cache_seconds=60)) as fetcher:
        await read(fetcher, server)
        if seconds:
            await trio.sleep(seconds - 0.1)
            assert await read(fetcher, server) == ("1", True)
            await trio.sleep(0.2)
        assert await read(fetcher, server) == ("2", False)


async def test_what_depends_on_who_asks_is_not_stored(autojump_clock):
    settings = config(cache_seconds=60, allow_headers=frozenset({"cookie", "authorization"}))
    async with serving(stamped()) as server, Fetcher(settings) as fetcher:
        for number, name in enumerate(("Cookie", "Cookie", "Authorization", "Authorization")):
            headers = {name: "a=b"}
            assert await read(fetcher, server, headers=headers) == (str(number + 1), False)


async def test_the_cache_is_bounded():
    settings = config(cache_seconds=60)
    async with serving(stamped()) as server, Fetcher(settings) as fetcher:
        for number in range(50):
            await read(fetcher, server, f"/{number}")
        cache = fetcher._cache
        assert cache._bytes == sum(entry.size for entry in cache._entries.values()) > 50_000

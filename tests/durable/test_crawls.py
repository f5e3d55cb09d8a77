"""A crawl goes on after a restart where it was: what it found is stored with what came of it."""

import re
import signal

import trio
from mcp.client import Client

from tests.processes.running import http_process
from tests.support.followed_operations import server_with
from tests.support.raw_http_servers import next_request, reply, serving
from tests.support.servers_in_memory import envelope_of
from trio_tools.live.crawls import stored_start
from trio_tools.operations.durable.database import StateDatabase
from trio_tools.operations.durable.location import Location
from trio_tools.transports.memory import connect_in_process

DEPTH = 4
TREE = 2 ** (DEPTH + 1) - 1


def tree(*, hangs=()):
    """A site of pages that link to two more each, and one that is the same as another."""

    async def handler(stream, server):
        while request := await next_request(stream, server):
            path = request.split()[1].decode()
            if path in hangs:
                await trio.sleep_forever()
            if not re.fullmatch(r"/[01]*", path):
                await stream.send_all(reply(b"", status="404 Not Found"))
                continue
            await trio.sleep(0.01)
            links = "".join(f'<a href="{path}{n}">x</a>' for n in "01" if len(path) <= DEPTH)
            body = f"<html><body><p>{'words ' * 100}</p>{links}<a href='/'>up</a></body></html>"
            await stream.send_all(reply(body.encode(), "Content-Type: text/html"))

    return serving(handler)


def pages_asked(server, begin=0):
    paths = [request.split()[1].decode() for request in server.requests[begin:]]
    return [path for path in paths if re.fullmatch(r"/[01]*", path)]


def crawler(state, **settings):
    doors = {"allow_private": True, "ports": None, "crawl": True}
    return server_with(fetch={**doors, **settings.pop("fetch", {})}, **state, **settings)


async def crawl(client, url, **arguments):
    asked = {"url": url, "max_depth": DEPTH, "detail": "full", **arguments}
    return await envelope_of(client, "crawl_site", asked)


async def outcomes_of(client, operation_id):
    """Return all outcomes of an operation, by index, page by page."""
    found, cursor = {}, None
    while True:
        asked = {"operation_id": operation_id, **({"cursor": cursor} if cursor else {})}
        page = await envelope_of(client, "get_operation", asked)
        found |= {each["index"]: each for each in page["data"]["outcomes"]}
        cursor = (page["meta"]["pagination"] or {}).get("cursor")
        if cursor is None:
            return page["data"]["counts"], found


async def crawl_until(client, url, count, **arguments):
    """Crawl until so many pages are done, and stop the crawl; return what it answers."""
    answers = []

    async def ask():
        answers.append(await crawl(client, url, operation_id="mine", **arguments))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            succeeded = 0
            while succeeded < count:
                await trio.sleep(0.05)
                page = await envelope_of(client, "get_operation", {"operation_id": "mine"})
                succeeded = page["data"].get("counts", {}).get("succeeded", 0)
            await client.call_tool("cancel_operation", {"operation_id": "mine"})
    return answers[0]["data"]["counts"]


def ended(outcomes):
    return {index: each for index, each in outcomes.items() if "value" in each}


async def test_a_crawl_that_was_cut_goes_on_after_a_restart(state):
    hangs = {"/0"}
    async with tree(hangs=hangs) as site:
        async with connect_in_process(crawler(state)) as client:
            before = await crawl_until(client, site.url, TREE // 2 + 1)
            _, told = await outcomes_of(client, "mine")
        assert before["cancelled"] == 1
        assert before["succeeded"] == len(ended(told)) == TREE // 2 + 1
        async with connect_in_process(crawler(state, fetch={"crawl": False})) as client:
            page = await envelope_of(client, "get_operation", {"operation_id": "mine"})
            assert any("fetch.crawl is off" in warning for warning in page["meta"]["warnings"])
            _, kept = await outcomes_of(client, "mine")
            assert ended(kept) == ended(told)
        hangs.clear()
        begin = len(site.requests)
        async with connect_in_process(crawler(state)) as client:
            counts, kept = await outcomes_of(client, "mine")
            assert ended(kept) == ended(told)
            assert counts["not_started"] == 1
            whole = await envelope_of(client, "crawl_site", {"operation_id": "mine"})
            counts, after = await outcomes_of(client, "mine")
        assert whole["data"]["complete"] is True
        assert counts["succeeded"] == TREE
        assert {each["item"] for each in after.values()} == {
            site.url + path for path in pages_asked(site)
        }
        assert ended(kept).items() <= after.items()
        again = pages_asked(site, begin)
        assert sorted(again) == sorted(p for p in set(pages_asked(site)) if p.startswith("/0"))
        async with connect_in_process(crawler(state)) as client:  # all of it is stored
            assert (await outcomes_of(client, "mine")) == (counts, after)
        assert len(pages_asked(site, begin)) == len(again)


async def test_the_bound_of_pages_and_the_seen_ones_hold_after_a_restart(state):
    hangs = {"/0", "/1"}
    async with tree(hangs=hangs) as site:
        async with connect_in_process(crawler(state)) as client:
            asked = {"operation_id": "mine", "max_pages": 9}
            await crawl_until(client, site.url, 1, max_pages=9)
        hangs.clear()
        async with connect_in_process(crawler(state)) as client:
            whole = await crawl(client, site.url, **asked)
            other = await crawl(client, site.url, **{**asked, "max_pages": 8})
    assert whole["data"]["counts"]["total"] == 9
    assert whole["data"]["complete"] is True
    assert any("max_pages (9)" in warning for warning in whole["meta"]["warnings"])
    assert other["data"]["error_code"] == "OPERATION_MISMATCH"


def stored_pages(url):
    """Return the URLs of the pages whose outcomes are on the disk."""
    database = StateDatabase(Location.of_url(url), "nobody", read_only=True)
    try:
        (record,) = database.records()
        _, stored = database.load(record.owner, record.operation_id)
    finally:
        database.close()
    pages = {index: found.url for found, index in stored_start(stored.growth).entries}
    return [pages[index] for index in stored.ended]


async def test_a_killed_server_has_stored_what_it_found(state_file):
    settings = {
        "fetch__crawl": "true",
        "fetch__allow_private": "true",
        "fetch__ports": "null",
        "state__url": f"sqlite:///{state_file}",
    }
    async with tree() as site:
        async with http_process(**settings) as server, Client(server.address.url) as client:
            await crawl(client, site.url, operation_id="mine", background=True, max_concurrent=2)
            with trio.fail_after(60):
                while len(pages_asked(site)) < TREE // 2:  # noqa: ASYNC110 - at the other end
                    await trio.sleep(0.001)
            server.kill(signal.SIGKILL)
        stored = [page.removeprefix(site.url) for page in stored_pages(settings["state__url"])]
        begin = len(site.requests)
        async with http_process(**settings) as server, Client(server.address.url) as client:
            with trio.fail_after(60):
                done = False
                while not done:  # it goes on by itself
                    asked = {"operation_id": "mine", "wait_seconds": 1}
                    done = (await envelope_of(client, "get_operation", asked))["data"]["complete"]
            counts, after = await outcomes_of(client, "mine")
            server.kill()
            await server.ended()
        again = pages_asked(site, begin)
    assert stored
    assert len(stored) + len(again) == TREE  # nothing twice, nothing left out
    assert set(stored) | set(again) == set(pages_asked(site))
    assert counts["succeeded"] == len(after) == TREE

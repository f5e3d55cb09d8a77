"""`fetch.hedge_after_seconds`: a second request when the first is late."""

import pytest
import trio

from tests.support.raw_http_servers import config, next_request, reply, serving
from trio_tools.http.fetching.fetcher import Fetcher
from trio_tools.http.fetching.types import FetchRequest
from trio_tools.live.figures import figures_of
from trio_tools.server import create_server
from trio_tools.settings import Settings
from trio_tools.transports.memory import connect_in_process

LATE = 30.0


def first_is_late(*, then=b"second", status="200 OK", seconds=LATE):
    """Answer the first request of a server after `seconds`, and all others at once."""

    async def handler(stream, server):
        while await next_request(stream, server):
            if len(server.requests) == 1:
                await trio.sleep(seconds)
                await stream.send_all(reply(b"first", "Content-Type: text/plain"))
            else:
                await stream.send_all(reply(then, "Content-Type: text/plain", status=status))

    return handler


async def test_without_the_setting_a_late_reply_is_waited_for(autojump_clock):
    async with serving(first_is_late(seconds=9)) as server, Fetcher(config()) as fetcher:
        page = await fetcher.fetch(FetchRequest(server.url))
        assert (page.text, page.elapsed, len(server.requests)) == ("first", 9, 1)


async def test_a_late_request_is_sent_a_second_time_and_the_first_reply_is_used(autojump_clock):
    setting = config(hedge_after_seconds=0.5)
    async with serving(first_is_late()) as server, Fetcher(setting) as fetcher:
        page = await fetcher.fetch(FetchRequest(server.url))
        assert (page.text, page.elapsed, len(server.requests)) == ("second", 0.5, 2)
        await server.left.wait()  # the late one was cancelled, which closes its connection
        assert fetcher.hosts() == {}
        told = fetcher.hedging
        assert (told.calls, told.hedges, told.won, told.refused) == (1, 1, 1, 0)


async def test_a_second_request_that_is_throttled_loses_nothing(autojump_clock):
    handler = first_is_late(then=b"", status="503 Busy", seconds=9)
    setting = config(hedge_after_seconds=0.5)
    async with serving(handler) as server, Fetcher(setting) as fetcher:
        page = await fetcher.fetch(FetchRequest(server.url))
        assert (page.text, page.elapsed) == ("first", 9)


async def test_one_request_in_ten_is_sent_twice_at_most(autojump_clock):
    async def slow(stream, server):
        while await next_request(stream, server):
            await trio.sleep(1)
            await stream.send_all(reply(b"x"))

    setting = config(hedge_after_seconds=0.5)
    async with serving(slow) as server, Fetcher(setting) as fetcher:
        for _ in range(20):
            await fetcher.fetch(FetchRequest(server.url))
        assert len(server.requests) in {22, 23}


async def test_a_host_gets_no_more_requests_at_once_than_its_limit(autojump_clock):
    setting = config(hedge_after_seconds=0.5, max_connections_per_host=1)
    async with serving(first_is_late(seconds=9)) as server, Fetcher(setting) as fetcher:
        page = await fetcher.fetch(FetchRequest(server.url))
        assert (page.text, len(server.requests), server.most_open) == ("first", 1, 1)


def test_it_is_off_by_default_and_has_to_be_above_zero():
    assert Settings().fetch.hedge_after_seconds is None
    with pytest.raises(ValueError, match="hedge_after_seconds"):
        Settings(fetch={"hedge_after_seconds": 0})


async def test_the_status_and_the_metrics_count_second_requests():
    settings = Settings(fetch={"hedge_after_seconds": 30, "allow_private": True, "ports": None})
    server = create_server(settings)
    async with serving(first_is_late(seconds=0)) as page, connect_in_process(server) as client:
        await client.call_tool("fetch_urls", {"urls": [page.url]})
        told = (await client.call_tool("get_concurrency_status", {})).structured_content["data"]
        assert told["hedging"] == {"delay": 30, "calls": 1, "hedges": 0, "refused": 0, "won": 0}
        figures = {figure.name: figure.values for figure in figures_of(server.state)}
        assert figures["trio_tools_fetch_hedges"] == {(): 0}
        assert {"trio_tools_fetch_hedges_won", "trio_tools_fetch_hedges_refused"} < {*figures}

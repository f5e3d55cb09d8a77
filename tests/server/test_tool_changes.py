"""Clients are told when the list of tools changes, and not when it does not."""

from contextlib import asynccontextmanager

import pytest
import trio
from mcp.client import Client
from mcp.client.subscriptions import ToolsListChanged
from mcp.types import ToolListChangedNotification

from tests.support.servers_in_memory import server_of, work
from tests.support.upstreams import small
from trio_tools.server import create_server
from trio_tools.settings import Settings


@asynccontextmanager
async def hearing(server, era):
    """Give a client, and a channel with what it hears of changes."""
    send, news = trio.open_memory_channel(100)

    async def hear(message):
        # A listening client hears here, too, what it hears of its subscription.
        if era == "legacy" and isinstance(message, ToolListChangedNotification):
            await send.send("changed")

    async def listen(client, task_status):
        async with client.listen(tools_list_changed=True) as changes:
            task_status.started()
            async for change in changes:
                assert isinstance(change, ToolsListChanged)
                await send.send("changed")

    async with (
        Client(server, mode=era, message_handler=hear) as client,
        trio.open_nursery() as nursery,
    ):
        assert client.server_capabilities.tools.list_changed
        if era == "auto":
            await nursery.start(lambda task_status: listen(client, task_status))
        yield client, news
        nursery.cancel_scope.cancel()


async def tools_of(client):
    return (await client.list_tools(cache_mode="bypass")).tools


async def changed(news):
    with trio.fail_after(30):
        assert await news.receive() == "changed"


async def nothing_more(news):
    await trio.testing.wait_all_tasks_blocked(0.05)
    with pytest.raises(trio.WouldBlock):
        news.receive_nowait()


async def test_a_change_of_an_upstream_is_told_once(era):
    server = create_server(Settings(upstreams={"small": small()}))
    async with hearing(server, era) as (client, news):
        before = await tools_of(client)
        assert await tools_of(client) == before
        await nothing_more(news)
        await client.call_tool("batch_process", {"operation": "small.grow", "items": [{}]})
        await changed(news)
        assert await tools_of(client) != before
        await nothing_more(news)


async def test_a_tool_that_an_application_adds_is_told_when_a_list_is_read(era):
    server = server_of(work)

    def added() -> str:
        return ""

    async with hearing(server, era) as (client, news):
        await tools_of(client)
        await tools_of(client)
        await nothing_more(news)
        server.add_tool(added)
        await tools_of(client)
        await changed(news)
        await nothing_more(news)

"""What a type checker makes of an application that embeds the server. Checked, never run."""
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from typing import assert_type

import trio

from trio_tools import Operation, Settings, create_server, serve_http
from trio_tools.server import ToolServer


async def word_count(text: str) -> int:
    await trio.lowlevel.checkpoint()
    return len(text.split())


async def embed() -> None:
    settings = Settings()  # every setting has a default
    Settings(max_items=100, max_itmes=100)  # pyright: ignore[reportCallIssue]
    counting = Operation(name="word_count", fn=word_count)
    assert_type(create_server(settings, operations=[word_count, counting]), ToolServer)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_http, settings)

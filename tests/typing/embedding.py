"""What a type checker makes of an application that embeds the server. Checked, never run."""
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from typing import assert_type

import trio

from trio_tools import (
    Answer,
    Operation,
    Settings,
    ToolContext,
    create_server,
    serve_http,
    tool,
)
from trio_tools.server import ApplicationTool, ToolServer


async def word_count(text: str) -> int:
    await trio.lowlevel.checkpoint()
    return len(text.split())


async def survey(context: ToolContext, texts: list[str], timeout_seconds: float = 30) -> Answer:
    assert_type(context.remaining, float)
    assert_type(context.limiter("word_count"), trio.CapacityLimiter)
    assert_type(await context.run_batch("word_count", texts), Answer)
    with trio.move_on_after(timeout_seconds):
        await context.run_batch("word_count", texts, limit=3)  # pyright: ignore[reportCallIssue]
    return Answer(summary="done", data={"first": await context.run("word_count", texts[0])})


def own_tools() -> None:
    made = tool(survey, time_argument="timeout_seconds", max_timeout_seconds=60)
    assert_type(made, ApplicationTool)
    assert_type(create_server(tools=[made, word_count]), ToolServer)
    tool(survey, runs="gpu")  # pyright: ignore[reportArgumentType]
    tool(survey, 5)  # pyright: ignore[reportCallIssue]


async def embed() -> None:
    settings = Settings()  # every setting has a default
    Settings(max_items=100, max_itmes=100)  # pyright: ignore[reportCallIssue]
    counting = Operation(name="word_count", fn=word_count)
    assert_type(create_server(settings, operations=[word_count, counting]), ToolServer)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_http, settings)

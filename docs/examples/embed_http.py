# Two MCP servers inside a trio application: started, called, and stopped by cancelling.
from functools import partial

import trio
from mcp.client import Client

from trio_tools.server import create_server
from trio_tools.settings import Settings
from trio_tools.transports import serve_http


async def shout(text: str) -> str:
    """Say it loud."""
    return text.upper()


async def main() -> None:
    settings = Settings(http={"port": 0})
    async with trio.open_nursery() as nursery:
        first = await nursery.start(serve_http, settings)
        server = create_server(settings, operations=[shout])
        second = await nursery.start(partial(serve_http, settings, server=server))
        print("two servers, two ports:", first.port != second.port)

        async with Client(second.url) as client:
            arguments = {"operation": "shout", "items": ["a", "b"]}
            answer = await client.call_tool("batch_process", arguments)
        print(answer.structured_content["data"]["summary"])
        nursery.cancel_scope.cancel()
    print("both have stopped")


if __name__ == "__main__":
    trio.run(main)

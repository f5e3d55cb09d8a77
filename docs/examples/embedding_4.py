# Embedding, step four: the tools are served over HTTP, beside the work of the program.
from functools import partial

import trio
from embedding_1 import BEDS, watch
from embedding_3 import make_server, show
from mcp.client import Client

from trio_tools import Settings
from trio_tools.transports import serve_http


async def main() -> None:
    settings = Settings(http={"port": 0}, tools=["temperatures", "measure_again"])
    latest: dict[str, float] = {}
    async with trio.open_nursery() as nursery:
        for bed in BEDS:
            nursery.start_soon(watch, bed, latest)
        server = make_server(latest, settings)
        address = await nursery.start(partial(serve_http, settings, server=server))

        async with Client(address.url) as client:  # a model's host, elsewhere
            print([each.name for each in (await client.list_tools()).tools])
            await client.call_tool("measure_again", {})
            await show(client)
        nursery.cancel_scope.cancel(reason="the program ends")
    print("the server and the watch have stopped")


if __name__ == "__main__":
    trio.run(main)

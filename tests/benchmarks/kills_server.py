"""A server to be killed. Its operation writes down, beside the state, each item that it did."""

import os
import sys

import trio

from trio_tools.server import create_server
from trio_tools.settings import Settings
from trio_tools.transports import serve_http, serve_stdio


async def mark(item: int) -> int:
    """Write the item down, and return it."""
    await trio.sleep(nap)
    os.write(marks, b"%d\n" % item)
    return item


async def main() -> None:
    server = create_server(Settings(), operations=[mark])
    if sys.argv[1] == "stdio":
        await serve_stdio(server=server, handle_signals=True)
        return
    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus) -> None:
            await serve_http(Settings(), server=server, task_status=task_status)

        address = await nursery.start(serve)
        print(address.port, flush=True)


if __name__ == "__main__":
    marks = os.open(os.environ["MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    nap = float(os.environ["NAP"])
    trio.run(main)

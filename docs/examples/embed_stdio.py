# An MCP server on standard input and output, beside the other tasks of the application.
# Nothing is read here, so it ends at once: run it with a client, or type JSON-RPC into it.
import sys

import trio

from trio_tools.settings import Settings
from trio_tools.transports import serve_stdio


async def heartbeat() -> None:
    while True:
        print("still here", file=sys.stderr)
        await trio.sleep(1)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heartbeat)
        await serve_stdio(Settings(shutdown_grace_seconds=0.5))
        nursery.cancel_scope.cancel()
    print("the client has left; standard output is ours again")


if __name__ == "__main__":
    trio.run(main)

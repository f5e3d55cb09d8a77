"""The servers that `calls` measures: python -m tests.benchmarks.calls_servers NAME.

Each has the tool `echo`, and prints its port if it serves HTTP. Those of our own also have what
keeps a server busy: naps, blocked threads, blocked worker processes.
"""

from __future__ import annotations

import sys
import time
from functools import partial

import trio
from mcp.server.mcpserver import MCPServer

from nursery_patterns import run_in_process, run_in_thread
from trio_tools.server import create_server
from trio_tools.settings import Settings

HTTP = {"port": 0, "calls_per_second_per_client": 1e6, "max_calls_per_client": 1000}


def add_echo(server):
    @server.tool()
    async def echo(text: str) -> str:
        """Give back."""
        return text

    return server


def ours():
    server = add_echo(create_server(Settings(http=HTTP)))

    @server.tool()
    async def nap(seconds: float) -> str:
        """Sleep."""
        await trio.sleep(seconds)
        return "rested"

    @server.tool()
    async def block(seconds: float) -> str:
        """Keep more threads and worker processes busy than there are."""
        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(partial(run_in_thread, time.sleep, seconds))
            for _ in range(4):
                nursery.start_soon(partial(run_in_process, spin, seconds))
        return "unblocked"

    return server


def spin(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def ours_stdio():
    from trio_tools.transports import serve_stdio  # noqa: PLC0415

    trio.run(partial(serve_stdio, Settings(), server=ours(), handle_signals=True))


def ours_http():
    from trio_tools.transports import serve_http  # noqa: PLC0415

    async def main():
        async with trio.open_nursery() as nursery:
            serve = partial(serve_http, Settings(http=HTTP), server=ours(), handle_signals=True)
            address = await nursery.start(serve)
            print(address.port, flush=True)

    trio.run(main)


def sdk_stdio():
    trio.run(add_echo(MCPServer("bare", log_level="ERROR")).run_stdio_async)


def sdk_stdio_asyncio():
    add_echo(MCPServer("bare", log_level="ERROR")).run("stdio")


def sdk_hypercorn():
    from hypercorn.config import Config  # noqa: PLC0415
    from hypercorn.trio import serve  # noqa: PLC0415

    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    app = add_echo(MCPServer("bare", log_level="ERROR")).streamable_http_app()

    async def main():
        async with trio.open_nursery() as nursery:
            (url,) = await nursery.start(partial(serve, app, config))
            print(url.rpartition(":")[2], flush=True)

    trio.run(main)


def sdk_uvicorn():
    import socket  # noqa: PLC0415

    import uvicorn  # noqa: PLC0415

    app = add_echo(MCPServer("bare", log_level="ERROR")).streamable_http_app()
    sock = socket.create_server(("127.0.0.1", 0))
    print(sock.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[sock])


SERVERS = {
    "ours, stdio": ours_stdio,
    "SDK, stdio on trio": sdk_stdio,
    "SDK, stdio on asyncio": sdk_stdio_asyncio,
    "ours, HTTP": ours_http,
    "SDK, HTTP on Hypercorn's trio": sdk_hypercorn,
    "SDK, HTTP on uvicorn's asyncio": sdk_uvicorn,
}

if __name__ == "__main__":
    SERVERS[sys.argv[1]]()

"""The servers that `calls` measures: python -m tests.benchmarks.calls_servers NAME.

Each has the tool `echo`, and prints its port if it serves HTTP. Those of our own also have what
keeps a server busy: naps, blocked threads, blocked worker processes. Their `echo` is the very tool
of the others, which is outside of our policy; under the policy it is a tool of ours.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from functools import partial

import trio
from mcp.server.mcpserver import Context, MCPServer
from mcp.types import ToolAnnotations

from nursery_patterns import run_in_process, run_in_thread
from trio_tools.live.state import ServerState
from trio_tools.live.telemetry.telemetry import Telemetry
from trio_tools.server import ToolServer
from trio_tools.settings import Settings
from trio_tools.tools.call import Answer
from trio_tools.tools.catalog import DEFAULT
from trio_tools.tools.declaring.declaration import Tool

HTTP = {"port": 0, "calls_per_second_per_client": 1e6, "max_calls_per_client": 1000}
# One client stands for many, each of which would have its share.
LIMITS = {
    "nap": {"max_calls": 100, "max_waiting": 100},
    "one_at_a_time": {"max_calls": 1, "max_waiting": 1000},
}


def add_echo(server):
    @server.tool()
    async def echo(text: str) -> str:
        """Give back."""
        return text

    return server


def server_of(tools, **settings):
    state = ServerState(Settings(**settings))
    return ToolServer(state, tools, telemetry=Telemetry(state.settings, list))


def under_policy():
    return server_of((*DEFAULT, of_ours(echo)), http=HTTP)


def ours():
    tools = (*DEFAULT, *map(of_ours, OUR_TOOLS))
    server = add_echo(server_of(tools, http=HTTP, limits=LIMITS))

    @server.tool()
    async def talk(messages: int, ctx: Context) -> str:
        """Report progress, much of it."""
        for number in range(messages):
            await ctx.report_progress(number, messages, "x" * 10_000)
        return "said"

    return server


def of_ours(fn):
    """A tool under the policy of every tool of ours, and seen in the status."""
    return Tool(fn=fn, title=fn.__name__, execution="async", annotations=ToolAnnotations())


async def echo(call, *, text: str) -> Answer:
    """Give back."""
    await trio.lowlevel.checkpoint()
    return Answer(summary=text, data={"result": text})


async def nap(call, *, seconds: float) -> Answer:
    """Sleep."""
    await trio.sleep(seconds)
    return Answer(summary="rested", data={})


async def one_at_a_time(call, *, seconds: float) -> Answer:
    """Sleep while the others wait in line."""
    return await nap(call, seconds=seconds)


async def busy_threads(call, *, seconds: float) -> Answer:
    """Ask for more threads than there are, of ours and of trio's own."""
    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(run_in_thread, time.sleep, seconds)
            nursery.start_soon(trio.to_thread.run_sync, time.sleep, seconds)
    return Answer(summary="unblocked", data={})


async def busy_workers(call, *, seconds: float) -> Answer:
    """Ask for more worker processes than there are, and let them compute."""
    async with trio.open_nursery() as nursery:
        for _ in range(4 * os.cpu_count()):
            nursery.start_soon(run_in_process, spin, seconds)
    return Answer(summary="unblocked", data={})


async def stuck_thread(call) -> Answer:
    """Wait in a thread that no cancel reaches."""
    await trio.to_thread.run_sync(threading.Event().wait)
    return Answer(summary="never", data={})


async def stuck_worker(call) -> Answer:
    """Wait for a worker process that computes without end."""
    await run_in_process(spin, 1e9)
    return Answer(summary="never", data={})


OUR_TOOLS = (nap, one_at_a_time, busy_threads, busy_workers, stuck_thread, stuck_worker)


def spin(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def ours_stdio(make=ours):
    from trio_tools.transports import serve_stdio  # noqa: PLC0415

    trio.run(partial(serve_stdio, Settings(), server=make(), handle_signals=True))


def ours_http(make=ours):
    from trio_tools.transports import serve_http  # noqa: PLC0415

    async def main():
        async with trio.open_nursery() as nursery:
            serve = partial(serve_http, Settings(http=HTTP), server=make(), handle_signals=True)
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
    "under our policy, stdio": partial(ours_stdio, under_policy),
    "SDK, stdio on trio": sdk_stdio,
    "SDK, stdio on asyncio": sdk_stdio_asyncio,
    "ours, HTTP": ours_http,
    "under our policy, HTTP": partial(ours_http, under_policy),
    "SDK, HTTP on Hypercorn's trio": sdk_hypercorn,
    "SDK, HTTP on uvicorn's asyncio": sdk_uvicorn,
}

if __name__ == "__main__":
    SERVERS[sys.argv[1]]()

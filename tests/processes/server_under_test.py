"""A server in a process of its own: what `trio-tools serve` does, with tools that misbehave."""

import os
import sys
import threading
import time

import trio
from mcp.server.mcpserver import Context

from trio_tools.operations.operation import Operation
from trio_tools.server import create_server
from trio_tools.settings import Settings
from trio_tools.transports import serve_http, serve_stdio


async def rest(seconds: float) -> float:
    """Sleep, as an item of a batch."""
    await trio.sleep(seconds)
    return seconds


server = create_server(
    Settings(), operations=[rest, Operation(name="absolute", fn=abs, runs="process")]
)
stuck = threading.Event()


@server.tool()
async def nap(seconds: float) -> str:
    """Sleep."""
    await trio.sleep(seconds)
    return f"slept {seconds:g}"


@server.tool()
async def echo(text: str) -> str:
    """Give back."""
    return text


@server.tool()
async def talk(messages: int, ctx: Context, pause: float = 0) -> str:
    """Report progress, much of it."""
    for number in range(messages):
        await ctx.report_progress(number, messages, "x" * 10_000)
        await trio.sleep(pause)
    return "said"


@server.tool()
async def stray() -> str:
    """Print, and let a child process print and read."""
    print("printed")  # noqa: T201 - that is the case
    os.write(1, b"written\n")
    code = "import sys; print('child', repr(sys.stdin.read()))"
    await trio.run_process([sys.executable, "-c", code], stdin=None)
    return "done"


@server.tool()
async def stuck_thread() -> str:
    """Wait in a thread that never returns and that no cancel reaches."""
    await trio.to_thread.run_sync(stuck.wait)
    return "never"


@server.tool()
async def held_loop(seconds: float) -> str:
    """Hold the event loop, as no tool should."""
    time.sleep(seconds)  # noqa: ASYNC251 - that is the case
    return "held"


@server.tool()
async def busy_threads(seconds: float) -> str:
    """Keep every thread token of trio's default limiter."""
    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(trio.to_thread.run_sync, time.sleep, seconds)
    return "rested"


@server.tool()
async def worker() -> str:
    """Wait for a child process that takes long."""
    await trio.run_process([sys.executable, "-c", "import time; time.sleep(600)"])
    return "never"


async def main():
    if sys.argv[1] == "stdio":
        await serve_stdio(server=server, handle_signals=True)
        return
    async with trio.open_nursery() as nursery:

        async def serve(task_status):
            await serve_http(
                Settings(), server=server, handle_signals=True, task_status=task_status
            )

        address = await nursery.start(serve)
        print(address.port, flush=True)  # noqa: T201 - for who started it


if __name__ == "__main__":
    trio.run(main)

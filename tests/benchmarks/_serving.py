"""A server as a process of its own, which a benchmark starts, watches or kills."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from trio_tools.server import create_server
from trio_tools.settings import Settings
from trio_tools.transports import serve_http, serve_stdio


async def _main(operation: Callable[[Any], Awaitable[object]]) -> None:
    server = create_server(Settings(), operations=[operation])
    if sys.argv[1] == "stdio":
        await serve_stdio(server=server, handle_signals=True)
        return
    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus) -> None:
            await serve_http(Settings(), server=server, task_status=task_status)

        address = await nursery.start(serve)
        print(address.port, flush=True)


def serve(operation: Callable[[Any], Awaitable[object]]) -> None:
    """Serve one operation over the transport that the command names; over HTTP print the port."""
    trio.run(_main, operation)

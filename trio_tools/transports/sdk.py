"""What we take from the SDK without its blessing: one attribute, in one place.

`MCPServer.run_stdio_async` brings its own reader, which cannot be interrupted, so the protocol
server below has to be run over our streams. The SDK names no public way to it (its own client
reads the same attribute, beside a note to make it public); a test fails when that changes.
"""

from __future__ import annotations

from typing import Any, cast

import trio
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.message import SessionMessage


async def serve_protocol(
    server: MCPServer[Any],
    inlet: trio.MemoryReceiveChannel[SessionMessage],
    outlet: WriteStream[SessionMessage],
) -> None:
    """Serve one client in the era it opens with, lifespan included, until `inlet` ends.

    Calls that run then are cancelled. It closes both ends.
    """
    # A trio channel does all that the SDK's protocol asks of a stream to read from, but names two
    # parameters of `__aexit__` differently.
    source = cast("ReadStream[SessionMessage | Exception]", inlet)
    await protocol_server(server).run(
        source, outlet, protocol_server(server).create_initialization_options()
    )


def protocol_server(server: MCPServer[Any]) -> Server[Any]:
    """Return the protocol server under `server`, whose `run` takes any pair of streams."""
    return server._lowlevel_server  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

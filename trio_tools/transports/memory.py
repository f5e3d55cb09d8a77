"""A client and a server in one process, over a real connection of the SDK and no wire at all."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from mcp.client import Client

from trio_tools.server import ToolServer


@asynccontextmanager
async def connect_in_process(server: ToolServer) -> AsyncGenerator[Client]:
    """Connect an MCP client to the server for the length of the block.

    A call runs inside of the caller's own task, so a cancel of the caller is a cancel of the call.
    """
    async with Client(server) as client:
        yield client

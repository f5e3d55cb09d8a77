"""A client in the same process, without a network: for the command line, tests and embedding."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from mcp.client import Client
from mcp.server.mcpserver import MCPServer


@asynccontextmanager
async def connect_in_process(server: MCPServer[Any]) -> AsyncGenerator[Client]:
    """Serve `server` in memory and connect an MCP client to it.

    Usage::

        async with connect_in_process(create_server(settings)) as client:
            answer = await client.call_tool("get_concurrency_status", {})

    A call runs inside the caller's task, so a cancel of the task cancels the call. The server's
    lifespan is that of the block. Catch errors inside the block: the SDK wraps exceptions that
    leave it in exception groups.

    Args:
        server: The server, which nothing else may serve meanwhile.
    """
    async with Client(server) as client:
        yield client

"""Every request that is being handled, on whatever transport and in whatever era.

The SDK's middleware is the one place that all of them pass. Counting them there tells when a
server that stops has answered everyone, and cancelling them there lets each still be answered.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import trio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError

SHUTTING_DOWN: Final = -32000
"""JSON-RPC error code of a request that the stop of the server cut short."""


class RunningCalls:
    """The requests in the handlers of one server."""

    def __init__(self) -> None:
        self._scopes: set[trio.CancelScope] = set()

    def cancel(self) -> None:
        """Cancel them all. Each is answered with an error that says why."""
        for scope in self._scopes:
            scope.cancel()

    @contextmanager
    def watch(self, server: MCPServer[Any]) -> Generator[None]:
        """Stand in the way of the server's requests within the block."""
        server.middleware.append(self._handle)
        try:
            yield
        finally:
            server.middleware.remove(self._handle)

    async def _handle(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        if ctx.request_id is None:  # a notification
            return await call_next(ctx)
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                return await call_next(ctx)
            finally:
                self._scopes.remove(scope)
        raise MCPError(SHUTTING_DOWN, "The server is shutting down: call again when it is back.")

"""Every request that is being handled, on whatever transport and in whatever era.

The SDK's middleware is the one place that all of them pass: there they are cancelled at the end of
the grace so that each is still answered, and there a client's share is kept.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import trio
from mcp.server.context import CallNext, HandlerResult, ServerMiddleware, ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult, TextContent

from nursery_patterns import TokenBucket, current_request
from trio_tools.responses import error_response

SHUTTING_DOWN: Final = -32000
"""JSON-RPC error code of a request that the stop of the server cut short."""


@contextmanager
def middleware(server: MCPServer[Any], *stages: ServerMiddleware[Any]) -> Generator[None]:
    """Let every request of `server` pass `stages`, outermost first, within the block."""
    server.middleware.extend(stages)
    try:
        yield
    finally:
        for stage in stages:
            server.middleware.remove(stage)


class RunningCalls:
    """The requests in the handlers of one server, as a stage of its middleware."""

    def __init__(self) -> None:
        self._scopes: set[trio.CancelScope] = set()

    def cancel(self) -> None:
        """Cancel them all. Each is answered with an error that says why."""
        for scope in self._scopes:
            scope.cancel()

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Handle one request within reach of `cancel`."""
        if ctx.request_id is None:  # a notification
            return await call_next(ctx)
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                return await call_next(ctx)
            finally:
                self._scopes.remove(scope)
        raise MCPError(SHUTTING_DOWN, "The server is shutting down: call again when it is back.")


class ClientShare:
    """What one client may ask for, as a stage of the middleware. Only tool calls count.

    A call over the share is answered `overloaded` at once. It never waits, so it costs no more
    than its answer.

    Args:
        max_calls: Most calls of one client in flight.
        calls_per_second: Most calls of one client over time; a second's worth may come at once.
    """

    def __init__(self, *, max_calls: int, calls_per_second: float) -> None:
        self._max_calls = max_calls
        self._rate = calls_per_second
        # By client name: as many as there are tokens, and the anonymous one.
        self._in_flight: dict[str, int] = {}
        self._buckets: dict[str, TokenBucket] = {}

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Handle one request, or refuse it."""
        if ctx.method != "tools/call" or ctx.request_id is None:
            return await call_next(ctx)
        request = current_request()
        client = request.client_id if request else "anonymous"
        in_flight = self._in_flight.get(client, 0)
        if in_flight >= self._max_calls:
            return _overloaded(f"{in_flight} calls of this client are in flight", 1.0)
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = TokenBucket(self._rate, capacity=max(1, int(self._rate)))
            self._buckets[client] = bucket
        try:
            bucket.acquire_nowait()
        except trio.WouldBlock:
            return _overloaded(f"this client makes over {self._rate:g} calls per second", 1.0)
        self._in_flight[client] = in_flight + 1
        try:
            return await call_next(ctx)
        finally:
            self._in_flight[client] -= 1


def _overloaded(what: str, retry_after_seconds: float) -> dict[str, Any]:
    message = f"Overloaded: {what}. Call again in {retry_after_seconds:g} s."
    envelope = error_response(
        message,
        error_code="OVERLOADED",
        error_type="overloaded",
        data={"retry_after_seconds": retry_after_seconds},
    )
    text = TextContent(type="text", text=message)
    result = CallToolResult(content=[text], structured_content=envelope, is_error=True)
    return result.model_dump(by_alias=True, mode="json", exclude_none=True)

"""Every request in flight, of every transport and era.

All of them pass through the SDK's middleware. There they are cancelled at the end of the grace
period so that each is still answered, and there the share of a client is enforced.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import trio
from mcp.server.context import CallNext, HandlerResult, ServerMiddleware, ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult, TextContent

from nursery_patterns import TokenBucket, current_request
from trio_tools.answers.envelope import error_response

SHUTTING_DOWN: Final = -32000
"""JSON-RPC error code of a request that the stop of the server cancelled."""

MAX_IDLE_CLIENTS: Final = 10_000
"""Limit of clients whose rate is remembered; there may be any number of token subjects."""

# Assumed seconds of a call before one has ended, and the weight of the newest one in the mean:
# the same as in `nursery_patterns.Admission`.
_UNMEASURED_CALL: Final = 1.0
_NEWEST: Final = 1 / 8


@contextmanager
def middleware(server: MCPServer[Any], *stages: ServerMiddleware[Any]) -> Generator[None]:
    """Pass every request of `server` through `stages`, outermost first, within the block.

    Raises:
        RuntimeError: The server is served already: the first of the two to stop would end the
            calls of both.
    """
    if any(isinstance(stage, RunningCalls) for stage in server.middleware):
        raise RuntimeError(
            "this server object is being served already: give each transport its own, from "
            "create_server(...), or serve this one again when it has stopped"
        )
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
        """Cancel all of them. Each is answered with an error that has the reason."""
        for scope in self._scopes:
            scope.cancel()

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Handle one request so that `cancel` can reach it."""
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
    """The share of one client, as a stage of the middleware.

    A tool call above the share is answered at once with `overloaded` and the seconds after which
    another one will probably be accepted. It never waits, so it costs only its answer. A client
    in that state needs the control tools: these do not count as calls, and have their own rate.

    Other requests, such as `tools/list`, wait until their rate allows them, without delaying
    other clients. A refusal would cost as much as the answer. The number of connections bounds
    how many wait. Pings have their own rate; the sessions bound handshakes.

    Args:
        control: Names of the control tools.
        max_calls: Limit of calls of one client in flight.
        calls_per_second: Rate limit of one client's calls, with a burst of one second. The same
            applies to its other requests.
        seen: Called with the name of the client of each request.
    """

    def __init__(
        self,
        *,
        control: Collection[str],
        max_calls: int,
        calls_per_second: float,
        seen: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._seen = seen
        self._control = control
        self._max_calls = max_calls
        self._rate = calls_per_second
        # By client name: those with calls in flight, and the latest of the others.
        self._clients: OrderedDict[str, _Client] = OrderedDict()

    def retune(self, *, max_calls: int, calls_per_second: float) -> None:
        """Apply other bounds. Calls in flight keep counting."""
        self._max_calls = max_calls
        if calls_per_second != self._rate:
            self._rate = calls_per_second
            for client in self._clients.values():
                client.set_rate(calls_per_second)

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Handle one request, or refuse it."""
        request = current_request()
        name = request.client_id if request else "anonymous"
        self._seen(name)
        if ctx.request_id is None or ctx.method == "initialize":
            return await call_next(ctx)
        client = self._client(name)
        if ctx.method != "tools/call":
            await (client.pings if ctx.method == "ping" else client.readings).acquire()
            return await call_next(ctx)
        # The SDK has not checked them yet, so they are of any type.
        tool = (ctx.params or {}).get("name")
        controls = isinstance(tool, str) and tool in self._control
        in_flight = len(client.began)
        if in_flight >= self._max_calls and not controls:
            what = f"{in_flight} calls of this client are in flight"
            return _overloaded(what, client.seconds_until_one_ends())
        bucket = client.control_bucket if controls else client.bucket
        try:
            bucket.acquire_nowait()
        except trio.WouldBlock:
            what = f"this client makes over {self._rate:g} calls per second"
            return _overloaded(what, (1 - bucket.statistics().tokens) / bucket.rate)
        with nullcontext() if controls else client.in_flight():
            return await call_next(ctx)

    def _client(self, name: str) -> _Client:
        """Return a client; the state of the longest idle ones is dropped."""
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = _Client(self._rate)
        self._clients.move_to_end(name)
        while len(self._clients) > MAX_IDLE_CLIENTS:
            oldest = next(iter(self._clients))
            if self._clients[oldest].began:
                break
            del self._clients[oldest]
        return client


class _Client:
    """The calls of one client, and their durations."""

    def __init__(self, rate: float) -> None:
        self.set_rate(rate)
        # The start of each call in flight, oldest first.
        self.began: dict[object, float] = {}
        self._mean: float | None = None

    def set_rate(self, rate: float) -> None:
        """Start with full buckets of another rate."""
        burst = max(1, int(rate))
        self.bucket = TokenBucket(rate, capacity=burst)
        self.control_bucket = TokenBucket(rate, capacity=burst)
        self.readings = TokenBucket(rate, capacity=burst)
        self.pings = TokenBucket(rate, capacity=burst)

    @contextmanager
    def in_flight(self) -> Generator[None]:
        """Count one call, and its duration."""
        call = object()
        self.began[call] = trio.current_time()
        try:
            yield
        finally:
            took = trio.current_time() - self.began.pop(call)
            mean = took if self._mean is None else self._mean
            self._mean = mean + (took - mean) * _NEWEST

    def seconds_until_one_ends(self) -> float:
        """Estimate from recent calls, assuming that calls in flight are evenly staggered."""
        seconds = _UNMEASURED_CALL if self._mean is None else self._mean
        # If even the latest has been running longer, the mean is out of date.
        latest = next(reversed(self.began.values()))
        return max(seconds, trio.current_time() - latest) / len(self.began)


def _overloaded(what: str, seconds: float) -> dict[str, Any]:
    # Rounded up, so that a caller is not early.
    retry_after_seconds = math.ceil(seconds * 1000) / 1000
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

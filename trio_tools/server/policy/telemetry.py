"""A span for each request of a client, instead of the SDK's own."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, cast

from mcp.server.context import CallNext, HandlerResult, ServerMiddleware, ServerRequestContext
from mcp.shared.exceptions import MCPError

from trio_tools.live.telemetry.telemetry import Telemetry
from trio_tools.settings.telemetry.seam import current_tracing

_SDK_STAGE: Final = "OpenTelemetryMiddleware"


class RequestSpans:
    """Makes the spans, as the outermost stage of a server's middleware.

    A span has the attributes of the semantic conventions for MCP. Its parent is the trace in the
    request's `_meta` (`traceparent`, `tracestate`, `baggage`), or else in the headers of the HTTP
    request. It contains no name that the client invented.

    Args:
        telemetry: Makes the spans while it is on.
        tools: The names that may appear in a span.
    """

    def __init__(self, telemetry: Telemetry, tools: Collection[str]) -> None:
        self._telemetry = telemetry
        self._tools = tools

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Handle one request within its span."""
        tracing = self._telemetry.tracing
        if tracing is None:
            return await call_next(ctx)
        name = (ctx.params or {}).get("name") if ctx.method == "tools/call" else None
        tool = name if isinstance(name, str) and name in self._tools else None
        headers = getattr(ctx.request, "headers", None)
        token = current_tracing.set(tracing)
        try:
            with tracing.serve(
                ctx.method,
                tool,
                parents=(cast("dict[str, Any] | None", ctx.meta), headers),
                attributes=_attributes(ctx, headers),
            ) as call:
                try:
                    result = await call_next(ctx)
                except MCPError as error:
                    code = str(error.error.code)
                    call.failed(code, {"rpc.response.status_code": code})
                    raise
                if (code := _error_code(result)) is not None:
                    call.failed("tool_error", {"trio_tools.error_code": code} if code else None)
                return result
        finally:
            current_tracing.reset(token)


def take_over(stages: list[ServerMiddleware[Any]], ours: RequestSpans) -> None:
    """Replace the SDK's stage, whose spans contain error messages and invented names."""
    found = [n for n, stage in enumerate(stages) if type(stage).__name__ == _SDK_STAGE]
    for number in reversed(found):
        del stages[number]
    stages.insert(found[0] if found else 0, ours)


def _attributes(ctx: ServerRequestContext[Any, Any], headers: Any) -> dict[str, str | int]:
    told: dict[str, str | int] = {"mcp.protocol.version": ctx.protocol_version}
    if ctx.request_id is not None:
        told["jsonrpc.request.id"] = str(ctx.request_id)[:128]
    if headers is None:
        told["network.transport"] = "pipe"
        return told
    told |= {"network.transport": "tcp", "network.protocol.name": "http"}
    if (session := headers.get("mcp-session-id")) is not None:
        told["mcp.session.id"] = session
    client = getattr(ctx.request, "client", None)
    if client:
        told |= {"client.address": str(client.host), "client.port": int(client.port)}
    return told


def _error_code(result: HandlerResult) -> str | None:
    """Return the error code of an answer that is a failure; None for any other."""
    if not isinstance(result, dict):
        return "" if getattr(result, "is_error", False) is True else None
    if result.get("isError") is not True:
        return None
    code = _within(_within(result, "structuredContent"), "data").get("error_code")
    return code if isinstance(code, str) else ""


def _within(fields: dict[str, Any], name: str) -> dict[str, Any]:
    inner = fields.get(name)
    return cast("dict[str, Any]", inner) if isinstance(inner, dict) else {}

"""A log record for each tool call, without its arguments."""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextvars import ContextVar
from typing import Any, Final, cast

import trio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

from nursery_patterns import current_request
from trio_tools.settings.logs import FIELDS

_log = logging.getLogger("trio_tools.access")

_waited: ContextVar[list[float]] = ContextVar("seconds that a call waited for its turn")

_UNKNOWN: Final = "unknown tool"


def record_wait(seconds: float) -> None:
    """Record how long the call of this task waited in its queue."""
    if (waited := _waited.get(None)) is not None:
        waited.append(seconds)


class AccessLog:
    """Writes the records, as the outermost stage of a server's middleware.

    Args:
        tools: The names that may be logged; any other name is text of the client.
    """

    def __init__(self, tools: Collection[str]) -> None:
        self._tools = tools

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Handle one request, and log it if it is a tool call."""
        if ctx.method != "tools/call" or ctx.request_id is None:
            return await call_next(ctx)
        name = (ctx.params or {}).get("name")
        tool = name if isinstance(name, str) and name in self._tools else _UNKNOWN
        waited: list[float] = []
        token = _waited.set(waited)
        started = trio.current_time()
        result: HandlerResult = None
        try:
            result = await call_next(ctx)
        finally:
            _waited.reset(token)
            outcome, items, size = _told(result)
            request = current_request()
            fields = {
                "tool": tool,
                "outcome": outcome,
                "client": request.client_id if request else "anonymous",
                "peer": _peer(ctx),
                "items": items,
                "bytes": size,
                "waited": round(sum(waited), 3),
                "elapsed": round(trio.current_time() - started, 3),
            }
            _log.info("%s %s", tool, outcome, extra={FIELDS: fields})
        return result


def _told(result: HandlerResult) -> tuple[str, int, int]:
    """Return the outcome of a call, its number of items, and the bytes of its text."""
    if not isinstance(result, dict):
        return "cut short", 0, 0
    content: list[Any] = result.get("content") or []
    size = sum(len(_within(part).get("text", "").encode(errors="replace")) for part in content)
    data = _within(_within(result.get("structuredContent")).get("data"))
    items = _within(data.get("counts")).get("total") or 0
    if result.get("isError"):
        return f"failed: {data.get('error_code', 'ERROR')}", items, size
    return "partly done" if data.get("complete") is False else "succeeded", items, size


def _within(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _peer(ctx: ServerRequestContext[Any, Any]) -> str:
    client = getattr(ctx.request, "client", None)
    return str(client.host) if client else "-"

"""Message handling that all transports of an upstream share: marks of sent requests, and bounds.

When a connection is lost, a caller must know whether its request had been sent: if not, it can
wait for the next connection. The SDK writes a request in the task of its caller, so a context
variable records it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final, Self, TypeGuard, cast

import trio
from mcp.shared.message import SessionMessage
from mcp_types import (
    ErrorData,
    JSONRPCError,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
)
from mcp_types.methods import validate_server_result
from mcp_types.version import LATEST_HANDSHAKE_VERSION
from pydantic import ValidationError

TOO_LARGE: Final = -32090
"""Code of the error that replaces an answer above the size limit."""
INPUT_REQUIRED: Final = -32092
"""Code of the error that replaces a result which requests input."""
UNREACHABLE: Final = -32091
"""Code of the error for a request that no server accepted: it was not sent."""
BROKEN_OFF: Final = -32093
"""Code of the error for a request whose answer was incomplete: it was sent."""
REFUSED: Final = -32094
"""Code of the error for a request that got an HTTP error instead of an MCP answer."""

ProgressCallback = Callable[[float, float | None, str | None], None]
"""Called with done, total and message of a call in flight. It must not wait."""

_ID: Final = re.compile(rb'"id"\s*:\s*(\d+)\s*[,}]')


class Sending:
    """One request, and whether it was sent to the upstream."""

    def __init__(self) -> None:
        self.sent = False


sending: ContextVar[Sending | None] = ContextVar("sending", default=None)
"""The request of the current task."""


def mark_sent(item: SessionMessage) -> None:
    """Mark the request of this task as sent. Other messages are not requests of a task."""
    if isinstance(item.message, JSONRPCRequest):
        request = sending.get()
        if request is not None:
            request.sent = True


def id_in(head: bytes, tail: bytes) -> int | None:
    """Return the id of an answer above the size limit, from its beginning and its end."""
    found = _ID.search(head[:200]) or _last(tail)
    return int(found[1]) if found else None


def _last(tail: bytes) -> re.Match[bytes] | None:
    *_, last = [None, *_ID.finditer(tail[-200:])]
    return last


def too_large(request_id: int, most: int) -> SessionMessage:
    """Return the error that replaces an answer of more than `most` bytes."""
    told = f"its answer is larger than max_reply_bytes ({most:,}): ask for less"
    error = ErrorData(code=TOO_LARGE, message=told)
    return SessionMessage(JSONRPCError(jsonrpc="2.0", id=request_id, error=error))


def without_question(item: SessionMessage) -> SessionMessage:
    """Return the error that replaces a result which requests input; any other message unchanged.

    Only the newer era has such results. In the older era the SDK would report an invalid result.
    """
    message = item.message
    if not isinstance(message, JSONRPCResponse):
        return item
    raw = message.result
    if raw.get("resultType") != "input_required" and "inputRequests" not in raw:
        return item
    told = (
        f"it asks for input before it goes on ({_asked_for(raw)}), which a batch cannot give: "
        "call it with all it needs, or by another client"
    )
    error = ErrorData(code=INPUT_REQUIRED, message=told)
    return SessionMessage(JSONRPCError(jsonrpc="2.0", id=message.id, error=error))


def _asked_for(raw: dict[str, Any]) -> str:
    asked = raw.get("inputRequests")
    if not isinstance(asked, dict) or not asked:
        return "it does not say which"
    told: list[str] = []
    for request in list(cast("dict[str, Any]", asked).values())[:3]:
        fields = cast("dict[str, Any]", request) if isinstance(request, dict) else {}
        params = fields.get("params")
        message = (
            cast("dict[str, Any]", params).get("message") if isinstance(params, dict) else None
        )
        told.append(str(message or fields.get("method") or "something")[:200])
    return "; ".join(told)


def without_progress(item: SessionMessage, link: Link) -> SessionMessage | None:
    """Pass progress to its call, in order of arrival; return None for a progress message.

    The SDK would start a task for each message, and these could run in any order.
    """
    message = item.message
    if not isinstance(message, JSONRPCNotification) or message.method != "notifications/progress":
        return item
    params = message.params or {}
    tell = link.progress.get(params.get("progressToken"))
    done, total, words = (params.get(name) for name in ("progress", "total", "message"))
    if tell is not None and _is_number(done):
        tell(done, total if _is_number(total) else None, words if isinstance(words, str) else None)
    return None


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def without_bad_tools(item: SessionMessage, left_out: dict[str, str]) -> SessionMessage:
    """Remove the tools from a list that would make the SDK refuse the whole list."""
    message = item.message
    if isinstance(message, JSONRPCResponse) and isinstance(message.result.get("tools"), list):
        listed = cast("list[Any]", message.result["tools"])
        message.result["tools"] = [tool for tool in listed if _is_tool(tool, left_out)]
    return item


def _is_tool(tool: Any, left_out: dict[str, str]) -> bool:
    try:
        validate_server_result("tools/list", LATEST_HANDSHAKE_VERSION, {"tools": [tool]})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"][2:]))
        left_out[_name_of(tool)] = f"{place} {first['msg']}".strip()[:200]
        return False
    return True


def _name_of(tool: Any) -> str:
    name = cast("dict[str, Any]", tool).get("name") if isinstance(tool, dict) else None
    return name[:128] if isinstance(name, str) and name else "?"


class Link:
    """The state of a transport, for the status and for failures.

    Attributes:
        lost: Set when no message can be received or sent any more.
        left_out: By name, why a listed tool is excluded.
        progress: By its token, the receiver of the progress of a call in flight.
        pid: Process id of the program, if there is one.
        exit_status: Exit status of the program, once it has ended.
        last_words: Returns its last lines on stderr.
        troubles: Number of errors that stopped nothing.
        last_trouble: The last of these errors.
    """

    def __init__(self) -> None:
        self.lost = trio.Event()
        self.left_out: dict[str, str] = {}
        self.progress: dict[object, ProgressCallback] = {}
        self.pid: int | None = None
        self.exit_status: int | None = None
        self.last_words: Callable[[], str] = str
        self.troubles = 0
        self.last_trouble: str | None = None

    def trouble(self, what: str) -> None:
        """Record an error that stops nothing."""
        self.troubles += 1
        self.last_trouble = what


class Closable:
    """The methods that the SDK requires of both ends of a transport beside send or receive."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close it; there is nothing to wait for."""
        await trio.lowlevel.checkpoint()

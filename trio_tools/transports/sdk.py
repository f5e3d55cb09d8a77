"""Private parts of the SDK that are used: one attribute, in one place.

`MCPServer.run_stdio_async` uses its own reader, which cannot be interrupted, so the protocol
server below must be run over our streams. The SDK has no public way to it (its own client reads
the same attribute, beside a note to make it public). A test fails when that changes.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import trio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer
from mcp.shared.message import SessionMessage

if TYPE_CHECKING:
    from mcp.shared._stream_protocols import ReadStream, WriteStream

__all__ = [
    "let_go_of_request",
    "protocol_server",
    "quiet_ends_of_sessions",
    "serve_protocol",
]


async def serve_protocol(
    server: MCPServer[Any],
    inlet: trio.MemoryReceiveChannel[SessionMessage],
    outlet: WriteStream[SessionMessage],
) -> None:
    """Serve one client in the era of its first message until `inlet` ends, with the lifespan.

    Calls that run then are cancelled. Both ends are closed.
    """
    # A trio channel has everything that the SDK's protocol requires of a receive stream, but two
    # parameters of its `__aexit__` have other names.
    source = cast("ReadStream[SessionMessage | Exception]", inlet)
    await protocol_server(server).run(
        source, outlet, protocol_server(server).create_initialization_options()
    )


def protocol_server(server: MCPServer[Any]) -> Server[Any]:
    """Return the protocol server under `server`, whose `run` takes any pair of streams."""
    return server._lowlevel_server  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


_SESSIONS: Final = "mcp.server.streamable_http"


async def let_go_of_request(
    ctx: ServerRequestContext[Any, Any], call_next: CallNext
) -> HandlerResult:
    """Drop a request's body when it is not needed any more, as the outermost stage.

    The body was parsed, so it is dropped at once. The SDK's loop over a session's messages keeps
    the latest message until the next one or the end of the session: up to half an hour for an
    abandoned session. It reads a handshake again after this stage.
    """
    getattr(ctx.request, "__dict__", {}).pop("_body", None)  # where Starlette caches it
    try:
        return await call_next(ctx)
    finally:
        if isinstance(ctx.params, dict) and ctx.method != "initialize":
            ctx.params.clear()


@contextmanager
def quiet_ends_of_sessions() -> Generator[None]:
    """Keep the SDK from logging a traceback when a session ends while a message arrives.

    A client that cancels and disconnects sends both at once, so that is not an error.
    """
    log = logging.getLogger(_SESSIONS)
    log.addFilter(_is_worth_telling)
    try:
        yield
    finally:
        log.removeFilter(_is_worth_telling)


def _is_worth_telling(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return error is None or not _says_that_the_session_ended(error)


def _says_that_the_session_ended(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return all(map(_says_that_the_session_ended, group.exceptions))
    return type(error).__name__ == "ClosedResourceError"  # from the SDK's channels

"""MCP over standard input and output.

One task reads and one task writes, and neither waits for a tool. So a ping or a cancel is answered
while every thread and slot is busy. The number and size of unanswered requests bound the memory: if
a client does not read its answers, the server stops reading from it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import trio
from mcp.server.mcpserver import MCPServer

from nursery_patterns import request_context
from trio_tools.server import ToolServer, create_server
from trio_tools.settings import Settings
from trio_tools.transports.memory_trim import MemoryTrim
from trio_tools.transports.reload import Reload
from trio_tools.transports.requests import RunningCalls, middleware
from trio_tools.transports.sdk import serve_protocol
from trio_tools.transports.shutdown import (
    Stop,
    answer_running,
    run_until_stopped,
    stop_on_signals,
)
from trio_tools.transports.stdio.connection import StdioConnection
from trio_tools.transports.stdio.descriptors import claim_stdio, open_wire

_log = logging.getLogger("trio_tools")


async def serve_stdio(
    settings: Settings | None = None,
    *,
    server: MCPServer[Any] | None = None,
    handle_signals: bool = False,
    read_settings: Callable[[], Settings] | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve one client on standard input and output until it leaves or the server is stopped.

    Usage::

        async with trio.open_nursery() as nursery:
            await nursery.start(serve_stdio, settings)

    It stops at the end of input, when the client closes our output, on a cancel, and with
    `handle_signals` on SIGTERM and Ctrl-C. Then running calls have
    `settings.shutdown_grace_seconds` to answer. Halfway through, batch calls answer with their
    partial results. At the end the remaining calls are cancelled and answered with an error. None
    of these reasons raises an exception, except the cancel.

    Args:
        settings: By default the settings of `server`; without a server, those of the environment.
        server: The server, which no other transport may serve meanwhile; by default
            `create_server(settings)`.
        handle_signals: Install handlers for SIGTERM and SIGINT meanwhile, and end the process if
            the shutdown exceeds its time. Only for the owner of the process.
        read_settings: Returns the current settings for a reload on SIGHUP; called in a thread. Only
            with `handle_signals`.
        task_status: Reports when input is being read.

    Raises:
        RuntimeError: Standard input and output already serve another server, `server` is already
            served, or `handle_signals` is used outside the main thread.
        OSError: Standard input or output was closed when the process began.
        ExceptionGroup: The server's lifespan failed, at its start or at its end.
    """
    own = server.state.settings if isinstance(server, ToolServer) else None
    settings = settings or own or Settings()
    server = server or create_server(settings)
    reload = None
    if read_settings is not None and handle_signals and isinstance(server, ToolServer):
        reload = Reload(read_settings, server.reload, owns_log=True)
    with (
        claim_stdio() as (wire_in, wire_out),
        # Not with aclose(), which in a cancelled scope would raise Cancelled instead of the
        # exception of the lifespan.
        closing(open_wire(wire_in)) as reading,
        closing(open_wire(wire_out)) as writing,
    ):
        await serve_streams(
            server,
            reading,
            writing,
            grace_seconds=settings.shutdown_grace_seconds,
            handle_signals=handle_signals,
            reload=reload,
            task_status=task_status,
        )


async def serve_streams(
    server: MCPServer[Any],
    reading: trio.abc.ReceiveStream,
    writing: trio.abc.SendStream,
    *,
    grace_seconds: float,
    handle_signals: bool = False,
    reload: Reload | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve one client over any pair of byte streams, as `serve_stdio` does; they stay open.

    Args:
        server: The server, which no other transport may serve meanwhile.
        reading: The input with the client's lines.
        writing: The output for the answers.
        grace_seconds: Time for running calls to answer at the stop, in seconds.
        handle_signals: As for `serve_stdio`.
        reload: Listens for SIGHUP, in the main thread.
        task_status: Reports when input is being read.

    Raises:
        RuntimeError: `server` is being served already, or signals are to be handled in another
            thread than the main one.
        ExceptionGroup: The server's lifespan failed, at its start or at its end.
    """
    calls = RunningCalls()
    with ExitStack() as context:
        context.enter_context(request_context(client_id="stdio"))
        context.enter_context(middleware(server, calls))
        stop = (
            context.enter_context(stop_on_signals(grace_seconds=grace_seconds))
            if handle_signals
            else Stop()
        )
        memory_trim = MemoryTrim()
        if isinstance(server, ToolServer):
            server.state.memory.given_back = memory_trim.add
        link = StdioConnection(reading, writing, stop, memory_trim.add)

        async def engine() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.write)
                nursery.start_soon(link.read)
                _log.info("serving MCP on standard input and output")
                task_status.started()
                async with trio.open_nursery() as meanwhile:
                    meanwhile.start_soon(memory_trim.run)
                    if reload is not None:
                        meanwhile.start_soon(reload.listen)
                    await serve_protocol(server, link.inlet, link.outlet)
                    meanwhile.cancel_scope.cancel(reason="nothing is served any more")
                link.end_input()

        async def wind_down() -> None:
            link.closing = True
            drain = server.drain if isinstance(server, ToolServer) else _nothing
            await answer_running(link.answered, drain, calls.cancel, grace_seconds=grace_seconds)
            link.end_input()

        await run_until_stopped(engine, stop, wind_down, grace_seconds=grace_seconds)


def _nothing() -> None:
    """Do nothing: the default for a server without batch calls."""

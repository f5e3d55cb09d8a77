"""MCP over Streamable HTTP on trio: all protocol versions, access checks, metrics and shutdown."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import trio
from mcp.server.mcpserver import MCPServer

from trio_tools.server import ToolServer, create_server
from trio_tools.settings import HttpSettings, Settings
from trio_tools.settings.groups.upstreams import check_upstreams_are_others
from trio_tools.transports.http.access.authentication import Authenticator
from trio_tools.transports.http.house import HttpServer
from trio_tools.transports.http.listening.handed import Handed
from trio_tools.transports.http.listening.listeners import (
    Address,
    Listener,
    address_of,
    listen,
    listen_for_metrics,
    metrics_url,
)
from trio_tools.transports.http.operators.metrics_door import MetricsAccess
from trio_tools.transports.http.operators.supervisor import Supervisor
from trio_tools.transports.http.operators.token_reload import watch_tokens
from trio_tools.transports.http.tls import tls_context
from trio_tools.transports.http.workers.child import Worker
from trio_tools.transports.http.workers.siblings import WorkerPlace
from trio_tools.transports.reload import Reload
from trio_tools.transports.sdk import quiet_ends_of_sessions
from trio_tools.transports.shutdown import (
    Stop,
    run_until_stopped,
    stop_on_signals,
)

_log = logging.getLogger("trio_tools")


async def serve_http(
    settings: Settings | None = None,
    *,
    server: MCPServer[Any] | None = None,
    handle_signals: bool = False,
    read_settings: Callable[[], Settings] | None = None,
    task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve MCP over Streamable HTTP until the server is stopped.

    Usage::

        async with trio.open_nursery() as nursery:
            address = await nursery.start(serve_http, settings)
            ...  # address.url is where clients connect
            nursery.cancel_scope.cancel()

    Besides MCP at `settings.http.path` it serves `/healthz` (alive), `/readyz` (accepts calls) and
    `/metrics` (for Prometheus).

    It stops on a cancel, and with `handle_signals` on SIGTERM and Ctrl-C. Then new requests are
    refused, and running calls have `settings.shutdown_grace_seconds` to answer. Halfway through,
    batch calls answer with their partial results. At the end the remaining calls are cancelled and
    answered with an error, and all connections are closed.

    Several servers may run in one process, each with its own server object.

    Args:
        settings: By default the settings of `server`; without a server, those of the environment.
            Port 0 binds a free port.
        server: The server, which no other transport may serve meanwhile; by default
            `create_server(settings)`.
        handle_signals: Install handlers for SIGTERM and SIGINT meanwhile, and end the process if
            the shutdown exceeds its time. Notify a supervisor named by the environment, and use the
            sockets that it opened instead of the configured address. Only for the owner of the
            process.
        read_settings: Returns the current settings for a reload; called in a thread. SIGHUP (with
            `handle_signals`) and `POST /reload` request a reload. Without this function, a reload
            reads only the token file.
        task_status: Reports the `Address` once requests are accepted.

    Raises:
        ValueError: The settings would serve other machines without tokens; a token is weak or
            missing; the certificate, its key or the key's password is wrong; or an upstream is this
            server itself.
        OSError: The address cannot be bound, or the token or certificate file cannot be read.
        RuntimeError: `server` is already served, or `handle_signals` is used outside the main
            thread.
        ExceptionGroup: The server's lifespan failed, at its start or at its end.
    """
    await _serve(
        settings,
        server,
        None,
        handle_signals=handle_signals,
        read_settings=read_settings,
        task_status=task_status,
    )


async def serve_worker(
    settings: Settings,
    server: MCPServer[Any],
    place: WorkerPlace,
    *,
    read_settings: Callable[[], Settings],
) -> None:
    """Serve as one of several worker processes, until a stop or the end of the parent.

    Args:
        settings: The settings of this worker.
        server: The server.
        place: The index of the worker, and its descriptors.
        read_settings: Returns the current settings of this worker.
    """
    await _serve(settings, server, Worker(place), handle_signals=True, read_settings=read_settings)


async def _serve(
    settings: Settings | None,
    server: MCPServer[Any] | None,
    worker: Worker | None,
    *,
    handle_signals: bool,
    read_settings: Callable[[], Settings] | None,
    task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
) -> None:
    own = server.state.settings if isinstance(server, ToolServer) else None
    settings = settings or own or Settings()
    read_settings = read_settings or partial(_same, settings)
    # Otherwise the supervisor belongs to another process.
    is_process = handle_signals and worker is None
    supervisor = Supervisor.of_environment() if is_process else Supervisor()
    handed = Handed.of_environment() if is_process else worker.handed if worker else Handed()
    # Not an AsyncExitStack: in a cancelled scope `aclose` of a listener would raise Cancelled
    # instead of the exception of the lifespan.
    with ExitStack() as context:
        context.callback(handed.close)
        settings = handed.applied(settings)
        check_upstreams_are_others(settings.upstreams, settings.http)
        http, grace_seconds = settings.http, settings.shutdown_grace_seconds
        doorkeeper, tls = Authenticator.from_settings(http), tls_context(http)
        house = HttpServer(server or create_server(settings), settings, doorkeeper, tls, worker)
        reload = Reload(
            lambda: handed.applied(read_settings()),
            house.take,
            owns_log=handle_signals,
            around=supervisor.reloading,
        )
        house.answer_reloads(reload)
        # Bound before the lifespan begins, so that a port in use fails early with a clear
        # message.
        listeners: Sequence[Listener]
        if worker is None:
            listeners = await listen(http, handed.clients, context)
            monitors = await listen_for_metrics(http, handed.metrics, context)
        else:
            listeners, monitors = worker.listeners, worker.metrics_listeners
            for listener in (*listeners, *monitors):
                context.callback(listener.socket.close)
            context.callback(worker.close)
        stop = (
            context.enter_context(stop_on_signals(grace_seconds=grace_seconds))
            if handle_signals
            else Stop()
        )
        context.enter_context(quiet_ends_of_sessions())
        context.enter_context(await house.middleware())

        level = logging.INFO if worker is None else logging.DEBUG  # the parent logs it once

        async def engine() -> None:
            async with house.lifespan():
                address = address_of(listeners[0], http)
                _log.log(level, "serving MCP at %s", address)
                for monitor in monitors:
                    _log.log(level, "serving metrics at %s", metrics_url(monitor, http))
                supervisor.ready()
                task_status.started(address)
                async with trio.open_nursery() as nursery:
                    if worker is not None:
                        nursery.start_soon(worker.follow, stop)
                    nursery.start_soon(supervisor.keep_alive)
                    nursery.start_soon(house.memory_trim.run)
                    nursery.start_soon(house.monitors.serve, monitors)
                    for file in (house.token_file, house.metrics_token_file):
                        nursery.start_soon(watch_tokens, file, house.read_tokens_again)
                    if handle_signals:
                        nursery.start_soon(reload.listen)
                    await house.connections.serve(listeners)
                    nursery.cancel_scope.cancel(reason="nothing is served any more")

        async def wind_down() -> None:
            supervisor.stopping()
            await house.wind_down(grace_seconds)

        await run_until_stopped(
            engine, stop, wind_down, grace_seconds=grace_seconds, log_level=level
        )


def _same(settings: Settings) -> Settings:
    """Default without a function that reads settings: only the tokens are read again."""
    return settings


def check_http(settings: HttpSettings) -> None:
    """Check everything that `serve_http` would refuse, without binding an address.

    Raises:
        ValueError, OSError: As `serve_http`.
    """
    Authenticator.from_settings(settings)
    MetricsAccess.from_settings(settings)
    tls_context(settings)

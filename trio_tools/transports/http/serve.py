"""MCP over Streamable HTTP: both eras of the protocol, on trio, guarded, measured, stoppable."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack
from functools import partial
from typing import Any

import trio
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.types import ASGIApp

from trio_tools.server import ToolServer, create_server
from trio_tools.settings import HttpSettings, Settings
from trio_tools.transports.http.asgi_guard import AsgiGuard
from trio_tools.transports.http.authentication import ANONYMOUS, Authenticator
from trio_tools.transports.http.connections import Connections
from trio_tools.transports.http.dashboard import Dashboard
from trio_tools.transports.http.forwarded import TrustedProxies
from trio_tools.transports.http.listeners import Address, Listener, address_of, listen
from trio_tools.transports.http.metrics import Metrics, metrics_of_all
from trio_tools.transports.http.sessions import IDLE_SECONDS, Sessions, watch_handshake
from trio_tools.transports.http.siblings import WorkerPlace
from trio_tools.transports.http.tls import tls_context
from trio_tools.transports.http.token_reload import reload_tokens
from trio_tools.transports.http.worker import Worker
from trio_tools.transports.memory_trim import MemoryTrim
from trio_tools.transports.requests import ClientShare, RunningCalls, middleware
from trio_tools.transports.sdk import let_go_of_request, quiet_ends_of_sessions
from trio_tools.transports.shutdown import (
    Stop,
    answer_running,
    run_until_stopped,
    stop_on_signals,
)

_log = logging.getLogger("trio_tools")


async def serve_http(
    settings: Settings | None = None,
    *,
    server: MCPServer[Any] | None = None,
    handle_signals: bool = False,
    task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve MCP over Streamable HTTP until the server is stopped.

    Usage::

        async with trio.open_nursery() as nursery:
            address = await nursery.start(serve_http, settings)
            ...  # address.url is where clients connect
            nursery.cancel_scope.cancel()

    Beside MCP at `settings.http.path` there are `/healthz` (alive), `/readyz` (takes calls) and
    `/metrics` (for Prometheus). It stops on a cancel, and on SIGTERM and Ctrl-C if asked to handle
    signals. Then new requests are refused, calls that run have `settings.shutdown_grace_seconds`
    to answer; halfway through it, batch calls are told to answer with what they have; the rest are
    cancelled and answered with an error, and all connections are closed.

    Several servers may run in one process, each with a server object of its own.

    Args:
        settings: By default those that `server` was made with; without one, from the environment.
            Port 0 binds a free one.
        server: What to serve, and over nothing else meanwhile; by default
            `create_server(settings)`.
        handle_signals: Install handlers for SIGTERM and SIGINT meanwhile, and end the process
            when something does not stop in time. For the owner of the process only.
        task_status: Reports the `Address` once requests are taken.

    Raises:
        ValueError: The settings would let other machines in without tokens, a token is weak or
            missing, or the certificate, its key or the key's password is not right.
        OSError: The address cannot be bound, or a file of tokens or of the certificate cannot be
            read.
        RuntimeError: `server` is being served already, or signals are to be handled in another
            thread than the main one.
        ExceptionGroup: The server's lifespan failed, at its start or at its end.
    """
    await _serve(settings, server, None, handle_signals=handle_signals, task_status=task_status)


async def serve_worker(settings: Settings, server: MCPServer[Any], place: WorkerPlace) -> None:
    """Serve as one of several worker processes, until told to stop or the parent is gone.

    Args:
        settings: Those of this worker alone.
        server: What to serve.
        place: Which worker it is.
    """
    await _serve(settings, server, Worker(place), handle_signals=True)


async def _serve(
    settings: Settings | None,
    server: MCPServer[Any] | None,
    worker: Worker | None,
    *,
    handle_signals: bool,
    task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
) -> None:
    own = server.state.settings if isinstance(server, ToolServer) else None
    settings = settings or own or Settings()
    http, grace_seconds = settings.http, settings.shutdown_grace_seconds
    doorkeeper, tls = Authenticator.from_settings(http), tls_context(http)
    house = _HttpServer(server or create_server(settings), http, doorkeeper, tls, worker)
    # Not an AsyncExitStack: in a cancelled scope `aclose` of a listener would raise Cancelled in
    # place of what the lifespan raised at its end.
    with ExitStack() as context:
        # Bound before the lifespan begins: a taken port costs nothing and says so plainly.
        listeners: Sequence[Listener]
        listeners = await listen(http) if worker is None else worker.listeners
        for listener in listeners:
            context.callback(listener.socket.close)
        if worker is not None:
            context.callback(worker.close)
        stop = (
            context.enter_context(stop_on_signals(grace_seconds=grace_seconds))
            if handle_signals
            else Stop()
        )
        context.enter_context(quiet_ends_of_sessions())
        context.enter_context(await house.middleware())

        async def engine() -> None:
            async with house.lifespan():
                address = address_of(listeners[0], http)
                level = logging.INFO if worker is None else logging.DEBUG  # the parent says it once
                _log.log(level, "serving MCP at %s", address)
                task_status.started(address)
                async with trio.open_nursery() as nursery:
                    if worker is not None:
                        nursery.start_soon(worker.follow, stop)
                    nursery.start_soon(house.memory_trim.run)
                    nursery.start_soon(
                        partial(
                            reload_tokens,
                            http,
                            house.replace_doorkeeper,
                            handle_signals=handle_signals,
                        )
                    )
                    await house.connections.serve(listeners)
                    nursery.cancel_scope.cancel(reason="nothing is served any more")

        await run_until_stopped(
            engine, stop, partial(house.wind_down, grace_seconds), grace_seconds=grace_seconds
        )


def check_http(settings: HttpSettings) -> None:
    """Look at what `serve_http` would refuse, without binding an address.

    Raises:
        ValueError, OSError: As `serve_http`.
    """
    Authenticator.from_settings(settings)
    tls_context(settings)


class _HttpServer:
    """The parts of one HTTP server, put together: gate, application, connections, figures."""

    def __init__(
        self,
        server: MCPServer[Any],
        settings: HttpSettings,
        doorkeeper: Authenticator,
        tls: ssl.SSLContext | None,
        worker: Worker | None = None,
    ) -> None:
        siblings = None if worker is None else worker.siblings
        self._server = server
        self._tool_server = server if isinstance(server, ToolServer) else None
        app = server.streamable_http_app(
            streamable_http_path=settings.path,
            max_request_body_size=settings.max_body_bytes,
            max_sessions=settings.max_sessions,
            session_idle_timeout=IDLE_SECONDS,
            # The gate checks Host and Origin, for all paths alike.
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        )
        self._calls = RunningCalls()
        state = self._tool_server.state if self._tool_server else None
        self._share = ClientShare(
            control=self._tool_server.control_tools if self._tool_server else (),
            max_calls=settings.max_calls_per_client,
            calls_per_second=settings.calls_per_second_per_client,
            seen=state.clients.seen if state else _nothing,
        )
        self._metrics = Metrics(
            state,
            connections=lambda: len(self.connections),
            restarts=None if siblings is None else siblings.place.restarts,
        )
        self.memory_trim = MemoryTrim()
        # What Starlette adds for one route is a twentieth of a call.
        sessions: ASGIApp = Sessions(
            server.session_manager.handle_request, max_sessions=settings.max_sessions
        )
        if siblings is not None:
            sessions = siblings.named(sessions)
        bare = settings.path.rstrip("/")
        routes = dict.fromkeys((bare or "/", f"{bare}/"), sessions)
        proxies = TrustedProxies(settings.trusted_proxies)
        self._gate = AsgiGuard(
            lambda scope, receive, send: routes.get(scope["path"], app)(scope, receive, send),
            doorkeeper,
            max_body_bytes=settings.max_body_bytes,
            overloaded=self._overloaded,
            metrics=partial(metrics_of_all, self._metrics, siblings),
            proxies=proxies,
            done=self.memory_trim.add,
            dashboard=Dashboard(state) if state and settings.dashboard else None,
        )
        self.connections = Connections(
            self._gate,
            max_connections=settings.max_connections,
            max_connections_per_peer=settings.max_connections_per_peer,
            max_header_bytes=settings.max_header_bytes,
            tokens=bool(doorkeeper.digests),
            shared_by_many=proxies.trusts,
            tls=tls,
            siblings=siblings,
            tell_load=_nothing if worker is None else worker.loads.tell,
        )

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Keep the server's services open, and the SDK's sessions."""
        return self._server.session_manager.run()

    async def middleware(self) -> AbstractContextManager[None]:
        """Watch every request of the server."""
        self._metrics.tools = {tool.name for tool in await self._server.list_tools()}
        return middleware(
            self._server,
            let_go_of_request,
            watch_handshake,
            self._metrics,
            self._share,
            self._calls,
        )

    def replace_doorkeeper(self, doorkeeper: Authenticator) -> None:
        """Let others in from now on. Calls that run go on."""
        self._gate.doorkeeper = doorkeeper

    async def wind_down(self, grace_seconds: float) -> None:
        """Take no more requests, let calls answer, close every connection."""
        self._gate.closing = True
        drain = self._tool_server.drain if self._tool_server else _nothing
        await answer_running(
            self._gate.answered, drain, self._calls.cancel, grace_seconds=grace_seconds
        )
        self.connections.close()

    def _overloaded(self) -> bool:
        """Whether a call of some tool would be refused now for lack of room.

        Where clients have tokens, that of one which has no calls yet: what one client's calls take
        is no reason to send the others elsewhere.
        """
        if self._tool_server is None:
            return False
        newcomer = object() if self._gate.doorkeeper.digests else ANONYMOUS
        lines = self._tool_server.state.admissions().values()
        return any(line.full_for(newcomer) for line in lines)


def _nothing(*_: object) -> None:
    """Stand in for the drain of a server that has no batch calls, and for who hears of loads."""

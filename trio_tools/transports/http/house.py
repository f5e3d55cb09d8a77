"""The parts of one HTTP server, combined."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.types import ASGIApp

from trio_tools.live.workers import Workers
from trio_tools.server import ToolServer
from trio_tools.settings import HttpSettings, Settings
from trio_tools.settings.changes import Changes, changes_between, settings_taken
from trio_tools.settings.groups.upstreams import check_upstreams_are_others
from trio_tools.transports.http.access.authentication import Authenticator
from trio_tools.transports.http.access.forwarded import TrustedProxies
from trio_tools.transports.http.asgi_guard import AsgiGuard
from trio_tools.transports.http.connections import Connections
from trio_tools.transports.http.dashboard import Dashboard, LiveView
from trio_tools.transports.http.metrics import Metrics, metrics_of_all, sums_of_all
from trio_tools.transports.http.oauth.scope_stage import bind_scopes
from trio_tools.transports.http.operators.metrics_door import MetricsAccess, MetricsDoor
from trio_tools.transports.http.sessions import IDLE_SECONDS, Sessions, watch_handshake
from trio_tools.transports.http.tls import tls_context
from trio_tools.transports.http.workers.child import Worker
from trio_tools.transports.memory_trim import MemoryTrim
from trio_tools.transports.reload import Reload
from trio_tools.transports.requests import ClientShare, RunningCalls, middleware
from trio_tools.transports.sdk import let_go_of_request
from trio_tools.transports.shutdown import answer_running

if TYPE_CHECKING:  # it imports a signature library that few servers need
    from trio_tools.transports.http.oauth.resource_server import ResourceServer

_MONITORS = 16
"""Limit of connections to the port of the metrics."""

_log = logging.getLogger("trio_tools")


class HttpServer:
    """The parts of one HTTP server, combined: guard, application, connections, figures.

    Args:
        server: The served server.
        settings: The operator's settings.
        doorkeeper: Checks who may use it.
        tls: For HTTPS.
        worker: The parts that it received from its parent, if it is one of several processes.
    """

    def __init__(
        self,
        server: MCPServer[Any],
        settings: Settings,
        doorkeeper: Authenticator,
        tls: ssl.SSLContext | None,
        worker: Worker | None = None,
    ) -> None:
        siblings = None if worker is None else worker.siblings
        self._worker = worker
        self._server = server
        self._settings = settings
        http = settings.http
        self._tool_server = server if isinstance(server, ToolServer) else None
        app = server.streamable_http_app(
            streamable_http_path=http.path,
            max_request_body_size=http.max_body_bytes,
            max_sessions=http.max_sessions,
            session_idle_timeout=IDLE_SECONDS,
            # The guard checks Host and Origin for all paths.
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        )
        self._calls = RunningCalls()
        state = self._tool_server.state if self._tool_server else None
        self._share = ClientShare(
            control=self._tool_server.control_tools if self._tool_server else (),
            max_calls=http.max_calls_per_client,
            calls_per_second=http.calls_per_second_per_client,
            seen=state.clients.seen if state else _nothing,
        )
        self._metrics = Metrics(
            state,
            connections=lambda: len(self.connections),
            restarts=None if siblings is None else siblings.place.restarts,
        )
        if state is not None and siblings is not None:
            place = siblings.place
            ask = partial(sums_of_all, self._metrics, siblings)
            state.workers = Workers(place.index, place.count, ask)
        self.memory_trim = MemoryTrim()
        if state is not None:
            state.memory.given_back = self.memory_trim.add
        # Starlette would add a twentieth of a call's cost for one route.
        sessions: ASGIApp = Sessions(
            server.session_manager.handle_request, max_sessions=http.max_sessions
        )
        if siblings is not None:
            sessions = siblings.named(sessions)
        bare = http.path.rstrip("/")
        routes = dict.fromkeys((bare or "/", f"{bare}/"), sessions)
        proxies = TrustedProxies(http.trusted_proxies)
        self._gate = AsgiGuard(
            lambda scope, receive, send: routes.get(scope["path"], app)(scope, receive, send),
            doorkeeper,
            max_body_bytes=http.max_body_bytes,
            overloaded=self._overloaded,
            metrics=partial(metrics_of_all, self._metrics, siblings),
            proxies=proxies,
            done=self.memory_trim.add,
            dashboard=Dashboard(LiveView(state)) if state and http.dashboard else None,
        )
        self._gate.in_memory_only = self._in_memory_only
        access = self._gate.metrics_access = MetricsAccess.from_settings(http)
        self._metrics_door = MetricsDoor(http, access, self._gate.answer_monitor)
        self.monitors = Connections(
            self._metrics_door,
            max_connections=_MONITORS,
            max_connections_per_peer=_MONITORS,
            max_header_bytes=http.max_header_bytes,
            tokens=False,
            tls=tls,
        )
        self._oauth = _resource_server(settings)
        if self._oauth is not None:
            self._gate.tokens = self._oauth.tokens
            if state is not None:
                self._gate.missing_scope = partial(self._oauth.missing_scope, state)
        self.connections = Connections(
            self._gate,
            max_connections=http.max_connections,
            max_connections_per_peer=http.max_connections_per_peer,
            max_header_bytes=http.max_header_bytes,
            tokens=doorkeeper.asks_for_tokens,
            shared_by_many=proxies.trusts,
            tls=tls,
            siblings=siblings,
            tell_load=_nothing if worker is None else worker.loads.tell,
        )

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Keep the server's services open, the SDK's sessions, and the issuer's keys."""
        async with (
            self._server.session_manager.run(),
            self._oauth.running() if self._oauth else nullcontext(),
        ):
            yield

    async def middleware(self) -> AbstractContextManager[None]:
        """Pass every request of the server through the stages."""
        self._metrics.tools = {tool.name for tool in await self._server.list_tools()}
        return middleware(
            self._server,
            let_go_of_request,
            watch_handshake,
            self._metrics,
            self._share,
            *((bind_scopes,) if self._oauth else ()),
            self._calls,
        )

    @property
    def http(self) -> HttpSettings:
        """The current settings."""
        return self._settings.http

    def token_file(self) -> Path | None:
        """Return the path of the token file."""
        return self.http.token_file

    def metrics_token_file(self) -> Path | None:
        """Return the path of the file with the metrics token."""
        return self.http.metrics_token_file

    def _take_access(self, access: MetricsAccess) -> None:
        self._gate.metrics_access = self._metrics_door.access = access

    def read_tokens_again(self) -> None:
        """Apply the current token files. Calls in flight continue.

        Raises:
            ValueError, OSError: As `Authenticator.from_settings`; nothing is changed then.
        """
        rules = Authenticator.from_settings(self.http)
        self._take_access(MetricsAccess.from_settings(self.http))
        self._gate.doorkeeper = rules
        _log.info("read the tokens again: %d clients", len(rules.digests))

    def take(self, settings: Settings) -> Changes:
        """Apply changed settings where possible. Calls in flight continue.

        Raises:
            ValueError, OSError: They are wrong; nothing is changed then.
        """
        changes = changes_between(self._settings, settings)
        taken = settings_taken(self._settings, settings)
        http = taken.http
        check_upstreams_are_others(taken.upstreams, http)
        doorkeeper, tls = Authenticator.from_settings(http), tls_context(http)
        access = MetricsAccess.from_settings(http)
        if self._tool_server is not None:
            self._tool_server.reload(taken)
        self._settings = taken
        self._gate.doorkeeper = doorkeeper
        self._take_access(access)
        self.connections.tls = self.monitors.tls = tls
        self._share.retune(
            max_calls=http.max_calls_per_client, calls_per_second=http.calls_per_second_per_client
        )
        return changes

    def answer_reloads(self, reload: Reload) -> None:
        """Let operators request a reload of all workers at `/reload`."""
        self._gate.reload = reload
        if self._worker is not None:
            self._gate.hand_on_reload = self._worker.hand_on_hangup

    async def wind_down(self, grace_seconds: float) -> None:
        """Accept no more requests, let calls answer, close every connection."""
        self._gate.closing = True
        drain = self._tool_server.drain if self._tool_server else _nothing
        await answer_running(
            self._gate.answered, drain, self._calls.cancel, grace_seconds=grace_seconds
        )
        self.connections.close()
        self.monitors.close()

    def _in_memory_only(self) -> bool:
        """Whether the state cannot be written now."""
        return self._tool_server is not None and bool(self._tool_server.state.store.trouble)

    def _overloaded(self) -> bool:
        """Whether several clients fill the queue of some tool, and a new client would be refused.

        The calls of one client alone do not count. Without tokens all clients count as one, and a
        refused call gets the time after which to try again.
        """
        if self._tool_server is None:
            return False
        newcomer = object()
        queues = self._tool_server.state.admissions().values()
        return any(queue.full_for(newcomer) and len(queue.keys()) > 1 for queue in queues)


def _resource_server(settings: Settings) -> ResourceServer | None:
    if settings.http.oauth.issuer is None:
        return None
    from trio_tools.transports.http.oauth.resource_server import (  # noqa: PLC0415 - see above
        ResourceServer,
    )

    return ResourceServer(settings)


def _nothing(*_: object) -> None:
    """Do nothing: the default for a server without batch calls, and for the load callback."""

"""The ASGI application in front of the SDK's: access, sizes, and whether requests are accepted.

An accepted request has its client's name in the request context, which both eras of the protocol
pass on to the tools.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

import trio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from starlette.types import ASGIApp, Receive, Scope, Send

from nursery_patterns import request_context
from trio_tools.settings.logs import FIELDS
from trio_tools.transports.http.access.authentication import (
    ANONYMOUS,
    Authenticator,
    Denied,
    bearer_token,
)
from trio_tools.transports.http.access.browsers import is_preflight, preflight_fields, readable
from trio_tools.transports.http.access.forwarded import TrustedProxies
from trio_tools.transports.http.bodies import BodyWeights
from trio_tools.transports.http.connections import KNOWN
from trio_tools.transports.http.dashboard import PAGE_PATHS, PREFIX, Dashboard
from trio_tools.transports.http.operators.metrics_door import METRICS_PATH, MetricsAccess
from trio_tools.transports.http.operators.reload_door import RELOAD_PATH, answer_reload
from trio_tools.transports.http.request_body import check_length, read_body, replay
from trio_tools.transports.http.sessions import BODY_BYTES
from trio_tools.transports.http.workers.siblings import SIBLING
from trio_tools.transports.json_weight import TOO_MANY, weigh
from trio_tools.transports.reload import Reload

if TYPE_CHECKING:  # they import a signature library that few servers need
    from trio_tools.transports.http.oauth.metadata import ResourceMetadata
    from trio_tools.transports.http.oauth.tokens import AccessTokens, Grant

MAX_BODIES_BYTES: Final = 128 * 2**20
"""Limit of the parsed weight of all requests in flight, in bytes; further ones are refused."""

MAX_STREAM_BODY_BYTES: Final = 2**14
"""Most bytes of a request for a stream of notifications, which is kept while the stream lasts."""

OPERATOR_PATHS: Final = frozenset({METRICS_PATH, RELOAD_PATH})
"""Paths for which an access token needs the scope of the family admin."""

NO_SUBJECTS: Final = frozenset({ANONYMOUS, "stdio"})
"""Client names without a token, which no access token may have as its subject."""

_TWO_LENGTHS: Final = frozenset({b"content-length", b"transfer-encoding"})

_log = logging.getLogger("trio_tools")


class _Caller(NamedTuple):
    """The client of a request, and the claims of its access token, if there is one."""

    client: str
    grant: Grant | None = None


class AsgiGuard:
    """Guards an ASGI application, and answers health checks itself.

    Args:
        app: The guarded application.
        doorkeeper: Checks headers.
        max_body_bytes: Limit of bytes of one request body.
        overloaded: Returns whether new calls would be refused because queues are full.
        metrics: Returns the text of `/metrics` for a request, and its content type.
        proxies: The proxies whose forwarding headers are trusted.
        done: Called with the weight of the body of each completed request, in bytes.
        dashboard: The page at `/` and its data; None for none.

    Attributes:
        doorkeeper: Checks headers; may be replaced at any time.
        reload: Reads the settings again, if operators may request that here.
        hand_on_reload: Makes other processes of the same address reload too.
        metrics_access: Checks requests for `/metrics`, if clients may not read it.
        tokens: Checks access tokens; None for none.
        missing_scope: Returns a scope that a body needs and a grant lacks.
    """

    def __init__(
        self,
        app: ASGIApp,
        doorkeeper: Authenticator,
        *,
        max_body_bytes: int,
        overloaded: Callable[[], bool],
        metrics: Callable[[Scope], Awaitable[tuple[bytes, str]]],
        proxies: TrustedProxies | None = None,
        done: Callable[[int], None] = lambda _: None,
        dashboard: Dashboard | None = None,
    ) -> None:
        self._app = app
        self.doorkeeper = doorkeeper
        self.reload: Reload | None = None
        self.metrics_access = MetricsAccess()
        self.hand_on_reload: Callable[[], None] = _nothing
        # Whether outcomes are kept in memory only, though they should be on the disk.
        self.in_memory_only: Callable[[], bool] = _never
        self.tokens: AccessTokens | None = None
        self.missing_scope: Callable[[Grant, bytes], str | None] | None = None
        self._max_body_bytes = max_body_bytes
        self._overloaded = overloaded
        self._metrics = metrics
        self._proxies = proxies or TrustedProxies(())
        self._dashboard = dashboard
        self._bodies = BodyWeights(done)
        # Set once the server stops: no request is accepted from then on.
        self.closing = False
        # Exchanges without a complete answer. _settled wakes tasks that wait for zero.
        self._exchanges = 0
        self._settled = trio.lowlevel.ParkingLot()

    async def answered(self) -> None:
        """Wait until every exchange has a complete answer."""
        while self._exchanges:
            await self._settled.park()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, as ASGI."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if scope["client"] == SIBLING:  # checked before a proxy can report another client
            await self._tell_metrics(scope, send)
            return
        scope = self._proxies.resolve(scope, headers)
        origin = headers.get(b"origin")
        if origin is not None and self.doorkeeper.allows_origin(origin):
            send = readable(send, origin)
            if is_preflight(scope["method"], headers):
                await send(
                    {
                        "type": "http.response.start",
                        "status": int(HTTPStatus.NO_CONTENT),
                        "headers": preflight_fields(headers),
                    }
                )
                await send({"type": "http.response.body"})
                return
        try:
            await self._serve(scope, receive, send)
        except Denied as denied:
            fields = {"status": int(denied.status), "peer": scope["client"][0]}
            _log.info("refused a request: %s", denied.reason, extra={FIELDS: fields})
            with self._owing():
                await _respond(send, denied.status, f"{denied.reason}\n".encode(), denied.headers)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if {name for name, _ in scope["headers"]} >= _TWO_LENGTHS:
            # If a proxy uses the other one, the rest would be a request that it has not seen.
            reason = "Send Content-Length or Transfer-Encoding, not both."
            raise Denied(HTTPStatus.BAD_REQUEST, reason, {"connection": "close"})
        if await self._answer_openly(path, scope, send):
            return
        if path == METRICS_PATH and self.metrics_access.opens_on_port_of_clients(scope):
            await self._tell_metrics(scope, send)
            return
        caller = await self._admit(scope)
        if caller.client != ANONYMOUS:
            scope[KNOWN]()
        if await self._answer_operator(path, caller, scope, send):
            return
        if self._dashboard is not None and path.startswith(PREFIX):
            await self._dashboard(scope, receive, send, caller.client)
            return
        if self.closing:
            raise Denied(HTTPStatus.SERVICE_UNAVAILABLE, "The server stops.", {"retry-after": "1"})
        longest = self._longest_body(scope)
        check_length(scope, longest)
        with self._bodies.weighing(caller.client, MAX_BODIES_BYTES) as count:
            body = await read_body(receive, count, longest)
            if body is None:
                return
            parsed = await weigh(body)
            if parsed is None:
                raise Denied(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, TOO_MANY)
            count(parsed)
            self._check_scopes(caller, body, scope)
            scope[BODY_BYTES] = len(body)
            receive = replay(body, receive)
            del body  # the request has its own copy
            await self._pass(scope, receive, send, caller)

    def _longest_body(self, scope: Scope) -> int:
        if _owes_an_answer(scope):
            return self._max_body_bytes
        return min(self._max_body_bytes, MAX_STREAM_BODY_BYTES)

    async def _admit(self, scope: Scope) -> _Caller:
        """Return the client of a request: by a token of the settings, or by an access token."""
        headers = scope["headers"]
        try:
            return _Caller(self.doorkeeper.admit(headers))
        except Denied as denied:
            if denied.status is not HTTPStatus.UNAUTHORIZED or self.tokens is None:
                raise
        reserved = {*self.doorkeeper.digests, *NO_SUBJECTS}
        grant = await self.tokens.check(bearer_token(headers), _origin_of(scope), reserved)
        return _Caller(grant.subject, grant)

    def _check_scopes(self, caller: _Caller, body: bytes, scope: Scope) -> None:
        """Refuse a call that needs another scope, with a challenge for the client.

        The policy around the call refuses it too, from the SDK's parsed request.
        """
        if caller.grant is None or self.tokens is None or self.missing_scope is None:
            return
        missing = self.missing_scope(caller.grant, body)
        if missing is not None:
            raise self.tokens.lacks(missing, _origin_of(scope))

    async def _answer_operator(self, path: str, caller: _Caller, scope: Scope, send: Send) -> bool:
        """Answer requests of operators; return whether it was one."""
        if path not in OPERATOR_PATHS or (path == RELOAD_PATH and self.reload is None):
            return False
        if caller.grant is not None and self.tokens is not None:
            self.tokens.check_admin(caller.grant, _origin_of(scope))
        if path == RELOAD_PATH and self.reload is not None:
            self.doorkeeper.check_operator(caller.client)
            await answer_reload(self.reload, self.hand_on_reload, scope["method"], send)
        else:
            await self._tell_metrics(scope, send)
        return True

    async def _tell_metrics(self, scope: Scope, send: Send) -> None:
        text, content_type = await self._metrics(scope)
        await _respond(send, HTTPStatus.OK, text, {"content-type": content_type})

    async def answer_monitor(self, scope: Scope) -> tuple[HTTPStatus, bytes, str]:
        """Answer `/metrics`, `/healthz` or `/readyz` at the port of the metrics."""
        if scope["path"] == METRICS_PATH:
            return HTTPStatus.OK, *await self._metrics(scope)
        await trio.lowlevel.checkpoint()
        return *self._health(scope["path"]), "text/plain; charset=utf-8"

    async def _answer_openly(self, path: str, scope: Scope, send: Send) -> bool:
        """Answer requests that need no token; return whether it was one."""
        if path in {"/healthz", "/readyz"}:
            # For supervisors: no secrets, no token, any Host.
            await _respond(send, *self._health(path))
            return True
        if path in PAGE_PATHS and self._dashboard is not None:
            # The page contains no data, and a browser has no token before it shows the page that
            # requests it.
            self.doorkeeper.check_address(scope["headers"])
            await self._dashboard.page(send, scope["method"])
            return True
        if self.tokens is not None and self.tokens.metadata.is_at(path):
            self.doorkeeper.check_address(scope["headers"])
            await self._tell_metadata(self.tokens.metadata, scope, send)
            return True
        if path.startswith("/.well-known/"):
            # A client that probes for OAuth takes 401 for a broken server, and 404 for none.
            json = {"content-type": "application/json"}
            await _respond(send, HTTPStatus.NOT_FOUND, b'{"error": "not_found"}\n', json)
            return True
        return False

    async def _tell_metadata(self, metadata: ResourceMetadata, scope: Scope, send: Send) -> None:
        if scope["method"] not in {"GET", "HEAD"}:
            raise Denied(HTTPStatus.METHOD_NOT_ALLOWED, "Use GET for this path.", {"allow": "GET"})
        headers = {"content-type": "application/json"}
        origin = dict(scope["headers"]).get(b"origin")
        if origin is not None and not self.doorkeeper.allows_origin(origin):
            headers["access-control-allow-origin"] = "*"  # it is public
        await _respond(send, HTTPStatus.OK, metadata.document(_origin_of(scope)), headers)

    async def _pass(self, scope: Scope, receive: Receive, send: Send, caller: _Caller) -> None:
        client, grant = caller
        if client != ANONYMOUS:
            # The SDK lets only the user that opened a session use it.
            token = AccessToken(token=client, client_id=client, scopes=[])
            if grant is not None:
                token.scopes, token.subject = sorted(grant.scopes), client
                token.claims = {"iss": grant.issuer}
            scope = {**scope, "user": AuthenticatedUser(token)}
        owing = self._owing() if _owes_an_answer(scope) else nullcontext()
        with owing, request_context(client_id=client):
            await self._app(scope, receive, send)

    @contextmanager
    def _owing(self) -> Generator[None]:
        self._exchanges += 1
        try:
            yield
        finally:
            self._exchanges -= 1
            self._settled.unpark_all()

    def _health(self, path: str) -> tuple[HTTPStatus, bytes]:
        if path == "/healthz":
            return HTTPStatus.OK, b"alive\n"
        if self.closing:
            return HTTPStatus.SERVICE_UNAVAILABLE, b"stopping\n"
        if self._overloaded():
            return HTTPStatus.SERVICE_UNAVAILABLE, b"overloaded\n"
        if self.in_memory_only():
            return (
                HTTPStatus.OK,
                b"ready, but the state cannot be written: work is in memory only\n",
            )
        return HTTPStatus.OK, b"ready\n"


def _never() -> bool:
    """Do nothing: the default for the state of a server that has none."""
    return False


def _nothing() -> None:
    """Do nothing: the default for other processes if there are none."""


def _origin_of(scope: Scope) -> str:
    """Return the origin of a request's URL. Its Host was checked."""
    host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
    return f"{scope['scheme']}://{host}"


def _owes_an_answer(scope: Scope) -> bool:
    """Whether the exchange ends by itself; a stream of notifications does not."""
    headers = dict(scope["headers"])
    return scope["method"] == "POST" and headers.get(b"mcp-method") != b"subscriptions/listen"


async def _respond(
    send: Send, status: HTTPStatus, body: bytes, headers: Mapping[str, str] | None = None
) -> None:
    fields = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body))}
    fields |= headers or {}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": int(status), "headers": raw})
    await send({"type": "http.response.body", "body": body})

"""Sessions of the older era: a bounded number, with a share for each client.

The SDK keeps the sessions, up to one limit for all clients. This module counts them by client. If
a session is opened at the limit, a session of the client with the most sessions ends: the one
that was unused longest, in the way in which its client would end it. A session whose handshake is
refused ends at once.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from http import HTTPStatus
from typing import Any, Final

import trio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nursery_patterns import current_request
from trio_tools.transports.http.access.authentication import ANONYMOUS, Denied

IDLE_SECONDS: Final = 30 * 60.0
"""Seconds after its last use at which the SDK ends a session by itself."""

MAX_HANDSHAKE_BYTES: Final = 2**17
"""Limit of the body of a request that opens a session: the SDK keeps it with the session."""

BODY_BYTES: Final = "trio_tools.body_bytes"
"""Key of the ASGI scope: the length of the body that was read."""

END_SECONDS: Final = 1.0
"""Seconds that ending a session may take. It waits for no peer."""

_SESSION_ID: Final = b"mcp-session-id"
_VERSION: Final = b"mcp-protocol-version"
_OLDER_VERSIONS: Final = frozenset(version.encode() for version in HANDSHAKE_PROTOCOL_VERSIONS)

_log = logging.getLogger("trio_tools")


class Sessions:
    """An ASGI application in front of the SDK's session manager.

    A session is in use while a request of it is in flight, either a call or its stream of
    notifications. After that it is unused. A session in use is never ended. Of the unused
    sessions, the one that was unused longest ends, of the client with the most sessions if it has
    at least two more than the new session's client, and otherwise of that client itself. If there
    is none, the new session is `Denied` before it reaches the SDK, which would give it the slot
    of a session that is just being ended for another one.

    An opening that fails or is cancelled is forgotten, as in the SDK; the session that ended for
    it stays ended. Opening a session at the limit costs O(clients), every other request O(1).

    Args:
        app: The SDK's session manager, with the same bound, and `IDLE_SECONDS`.
        max_sessions: Limit of sessions.
    """

    def __init__(self, app: ASGIApp, *, max_sessions: int) -> None:
        self._app = app
        self._max_sessions = max_sessions
        # Clients with a session, by name.
        self._clients: dict[str, _Client] = {}
        # Invariants: every session that the SDK keeps, and every one that is being opened, is in
        # `sessions` of one client, except those that are being ended; these are at most
        # `max_sessions`. `_by_id` has the opened ones. The SDK does not report when it ends one:
        # a session is forgotten here when it was unused for that long, or when it is requested.
        self._by_id: dict[bytes, _Session] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, as ASGI.

        Raises:
            Denied: It would open a session above the limit, or with a body that is too long.
        """
        # If a field is repeated the first one counts, as in the SDK.
        headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        version, session_id = headers.get(_VERSION), headers.get(_SESSION_ID)
        if version is not None and version not in _OLDER_VERSIONS:
            await self._app(scope, receive, send)
            return
        request = current_request()
        name = request.client_id if request else ANONYMOUS
        client = self._clients.get(name) or _Client(name)
        if session_id is None:
            if scope.get(BODY_BYTES, 0) > MAX_HANDSHAKE_BYTES:
                reason = f"A request without a session is longer than {MAX_HANDSHAKE_BYTES} bytes."
                raise Denied(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason)
            await self._open(client, scope, receive, send)
            return
        session = self._by_id.get(session_id)
        if session is None or session.client is not client:
            await self._app(scope, receive, send)  # the SDK does not find it either
            return
        await self._use(session, scope, receive, send)

    async def _open(self, client: _Client, scope: Scope, receive: Receive, send: Send) -> None:
        leaving = self._make_room(client)
        client = self._clients.setdefault(client.name, client)
        session = _Session(client, scope.get("user"))
        client.sessions.add(session)

        def begun(status: int, headers: dict[bytes, bytes]) -> None:
            if status < HTTPStatus.BAD_REQUEST:
                session.id = headers.get(_SESSION_ID)
                if session.id is not None:
                    self._by_id[session.id] = session

        try:
            if leaving is not None:
                await self._end(leaving)
            token = _opening.set(session)
            try:
                with session.in_use():
                    await self._app(scope, receive, _watched(send, begun))
            finally:
                _opening.reset(token)
        finally:
            if session.id is None or session.refused:
                self._forget(session)
        if session.id is not None and session.refused:
            await self._end(session)

    async def _use(self, session: _Session, scope: Scope, receive: Receive, send: Send) -> None:
        def begun(status: int, _: dict[bytes, bytes]) -> None:
            ended = scope["method"] == "DELETE" and status == HTTPStatus.OK
            if ended or status == HTTPStatus.NOT_FOUND:
                self._forget(session)

        with session.in_use():
            await self._app(scope, receive, _watched(send, begun))

    def _make_room(self, newcomer: _Client) -> _Session | None:
        """Choose the session that ends for a new one, forget it and return it."""
        if self._count() >= self._max_sessions:
            self._forget_ended()
        if self._count() < self._max_sessions:
            return None
        least = len(newcomer.sessions) + 2
        richer = [c for c in self._clients.values() if c.left and len(c.sessions) >= least]
        giver = max(richer, key=lambda client: len(client.sessions), default=newcomer)
        if not giver.left:
            raise Denied(HTTPStatus.SERVICE_UNAVAILABLE, "Too many sessions are open.")
        _log.info("a session that was left makes room for another one")
        session = next(iter(giver.left))
        self._forget(session)
        return session

    def _count(self) -> int:
        return sum(len(client.sessions) for client in self._clients.values())

    def _forget_ended(self) -> None:
        """Forget sessions that the SDK has ended by itself, which were unused longest."""
        latest = trio.current_time() - IDLE_SECONDS
        for client in list(self._clients.values()):
            while client.left and next(iter(client.left.values())) <= latest:
                self._forget(next(iter(client.left)))

    def _forget(self, session: _Session) -> None:
        session.client.sessions.discard(session)
        client = session.client
        if not client.sessions and self._clients.get(client.name) is client:
            del self._clients[client.name]
        session.client.left.pop(session, None)
        if session.id is not None:
            self._by_id.pop(session.id, None)

    async def _end(self, session: _Session) -> None:
        """End a session of the SDK with the request that its client would send."""
        assert session.id is not None
        scope: Scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "DELETE",
            "path": "/",
            "query_string": b"",
            "headers": [(_SESSION_ID, session.id)],
        }
        if session.user is not None:
            scope["user"] = session.user
        # Once begun, it is completed also after a cancel: the SDK would keep a half-ended
        # session.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + END_SECONDS):
            await self._app(scope, _no_body, _unsent)


class _Client:
    """The sessions of one client.

    Attributes:
        name: Its name.
        sessions: All of them, including those that are being opened.
        left: The unused ones, in the order in which they became unused.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.sessions: set[_Session] = set()
        self.left: OrderedDict[_Session, float] = OrderedDict()


class _Session:
    """One session, from its opening request on.

    Attributes:
        client: Its client.
        user: The SDK's name of its client.
        id: Its id, once it is opened.
        refused: Whether its handshake was refused.
    """

    def __init__(self, client: _Client, user: Any) -> None:
        self.client = client
        self.user = user
        self.id: bytes | None = None
        self.refused = False
        self._requests = 0

    @contextmanager
    def in_use(self) -> Generator[None]:
        """Mark it as in use within the block, so that it is not ended for another one."""
        self._requests += 1
        self.client.left.pop(self, None)
        try:
            yield
        finally:
            self._requests -= 1
            if not self._requests and self in self.client.sessions:
                self.client.left[self] = trio.current_time()


# The SDK answers 200 to a handshake that it refuses, and passes this to the task that handles it.
_opening: ContextVar[_Session | None] = ContextVar("the session that a request opens", default=None)


async def watch_handshake(
    ctx: ServerRequestContext[Any, Any], call_next: CallNext
) -> HandlerResult:
    """Mark a session whose handshake was refused, as a stage of the server's middleware."""
    session = _opening.get() if ctx.method == "initialize" else None
    if session is None:
        return await call_next(ctx)
    session.refused = True
    result = await call_next(ctx)
    session.refused = False
    return result


def _watched(send: Send, begun: Callable[[int, dict[bytes, bytes]], None]) -> Send:
    """Call back with the status and the headers of a response before they are sent."""

    def sent(message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            begun(message["status"], dict(message["headers"]))
        return send(message)

    return sent


async def _no_body() -> Message:
    await trio.lowlevel.checkpoint()
    return {"type": "http.request", "body": b"", "more_body": False}


async def _unsent(_: Message) -> None:
    """Do nothing: the default for a client that does not exist."""
    await trio.lowlevel.checkpoint()

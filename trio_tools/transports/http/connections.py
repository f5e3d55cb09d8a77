"""The open connections of one server: accepted up to a bound, fairly, and closable at once.

If tokens are required, slots are reserved for clients with one: while all are used, a new
connection replaces one that has sent no token and has no request in flight, the longest idle one
of the address with most of these. One address without a token has only a share of the slots in
any case.
"""

from __future__ import annotations

import logging
import math
import ssl
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, cast

import trio
from starlette.types import ASGIApp, Scope

from trio_tools.answers.shortages import is_shortage
from trio_tools.settings.logs import FIELDS
from trio_tools.transports.http import http11
from trio_tools.transports.http.http11 import HttpConnection
from trio_tools.transports.http.listening.listeners import Listener
from trio_tools.transports.http.workers.siblings import HandedOver, Siblings, pump

KNOWN: Final = "trio_tools.known"
"""Key of the ASGI scope: called without arguments when a request has sent a valid token."""

ACCEPT_PAUSE_SECONDS: Final = 0.1
"""Seconds without accepting after the system had no free descriptor."""

# Descriptors reserved for workers, databases and files of tools. If the process may have only
# few, half of them.
_RESERVE: Final = 128

_TURNED_AWAY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\n"
    b"connection: close\r\n\r\n"
)

_log = logging.getLogger("trio_tools")


class Connections:
    """The open connections of one server.

    Args:
        app: The ASGI application. It is never sent lifespan events.
        max_connections: Limit of open connections.
        max_connections_per_peer: Limit of connections from one address that have sent no token.
        max_header_bytes: Limit of bytes of the headers of a request.
        tokens: Whether clients send tokens.
        shared_by_many: Returns whether an address is that of a proxy, which has no limit of its
            own.
        tls: For HTTPS.
        siblings: Other processes that serve the same address; None for none.
        tell_load: Called with the number of open connections when it changes.

    Attributes:
        tls: For HTTPS; may be replaced at any time, for later connections.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_connections: int,
        max_connections_per_peer: int,
        max_header_bytes: int,
        tokens: bool,
        shared_by_many: Callable[[str], bool] = lambda _: False,
        tls: ssl.SSLContext | None = None,
        siblings: Siblings | None = None,
        tell_load: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._app = app
        self._siblings = siblings
        self._tell_load = tell_load
        self._tokens = tokens
        self._shared_by_many = shared_by_many
        self._max = min(max_connections, most_connections())
        self._max_per_peer = max_connections_per_peer
        self._max_header_bytes = max_header_bytes
        self.tls = tls
        self._scope = trio.CancelScope()
        self._open: set[_Place] = set()
        self._short = False

    def __len__(self) -> int:
        return len(self._open)

    async def serve(self, listeners: Sequence[Listener]) -> None:
        """Accept and serve connections until `close`."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                if self._siblings is not None:
                    nursery.start_soon(self._siblings.receive, self._serve_one, nursery)
                for listener in listeners:
                    nursery.start_soon(self._accept, listener, nursery)

    def close(self) -> None:
        """Stop accepting and close every connection, with any behaviour of its client."""
        self._scope.cancel(reason="the server stops")

    async def _accept(self, listener: Listener, nursery: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if not is_shortage(error):
                    raise
                if not self._short:  # only once per shortage
                    _log.warning("no connection is accepted for now: %s", error.strerror)
                self._short = True
                await trio.sleep(ACCEPT_PAUSE_SECONDS)
            else:
                self._short = False
                nursery.start_soon(self._serve_one, stream)

    async def _serve_one(
        self, stream: trio.SocketStream, handed_over: HandedOver | None = None
    ) -> None:
        try:
            peer = handed_over.peer if handed_over else _name(stream.socket.getpeername())
        except OSError:  # it has disconnected already
            stream.socket.close()
            return
        try:
            if not self._has_room(peer):
                fields = {"status": 503, "peer": peer[0]}
                _log.info("refused a connection: too many are open", extra={FIELDS: fields})
                await self._turn_away(stream)
                return
            place = _Place(peer)
            self._open.add(place)
            self._tell_load(len(self._open))
            try:
                with place.scope:
                    await self._serve(stream, place, handed_over)
            except* Exception:  # noqa: BLE001 - one connection's failure is not the server's
                _log.exception("a connection failed")
            finally:
                self._open.discard(place)
                self._tell_load(len(self._open))
        finally:
            stream.socket.close()

    async def _serve(
        self, stream: trio.SocketStream, place: _Place, handed_over: HandedOver | None
    ) -> None:
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "scheme": "http" if self.tls is None else "https",
            "root_path": "",
            "client": place.peer,
            "server": _name(stream.socket.getsockname()),
            "extensions": {},
            KNOWN: place.show_token,
        }
        secured: Any = stream
        if self.tls is not None and handed_over is None:
            secured = trio.SSLStream(stream, self.tls, server_side=True, https_compatible=True)
        try:
            if secured is not stream:
                with trio.fail_after(http11.HEADER_SECONDS):
                    await secured.do_handshake()
        except (trio.BrokenResourceError, trio.TooSlowError):
            return
        move = None if self._siblings is None else self._siblings.mover(stream, secured, place.peer)
        place.connection = HttpConnection(
            self._app,
            secured,
            scope,
            max_header_bytes=self._max_header_bytes,
            route=(lambda _: None) if move is None else move.route,
            received=handed_over.received if handed_over else b"",
        )
        await place.connection.run()
        if move is None or not place.connection.moved:
            await _linger(stream, secured)
        elif move.plain is not None:
            await pump(secured, move.plain)

    def _has_room(self, peer: tuple[str, int]) -> bool:
        """Whether a new connection gets a slot; closes the connection that it replaces."""
        unknown = [place for place in self._open if not place.known]
        of_peer = [place for place in unknown if place.peer[0] == peer[0]]
        if len(of_peer) >= self._max_per_peer and not self._shared_by_many(peer[0]):
            leaving = [place for place in of_peer if place.idle_since < math.inf]
        elif len(self._open) < self._max:
            return True
        elif self._tokens:
            leaving = _of_the_largest_peer([p for p in unknown if p.idle_since < math.inf])
        else:
            leaving = []
        if not leaving:
            return False
        place = min(leaving, key=lambda place: place.idle_since)
        self._open.remove(place)
        place.scope.cancel(reason="another connection needs the place")
        return True

    async def _turn_away(self, stream: trio.SocketStream) -> None:
        if self.tls is None:
            with trio.move_on_after(1), suppress(trio.BrokenResourceError):
                await stream.send_all(_TURNED_AWAY)


def most_connections() -> float:
    """Return how many connections leave enough descriptors; math.inf for no limit."""
    if sys.platform == "win32":
        return math.inf
    import resource  # noqa: PLC0415 - POSIX has it

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return math.inf
    return max(1, soft - min(_RESERVE, soft // 2))


class _Place:
    """A slot of an open connection.

    Attributes:
        peer: Address and port of the client.
        scope: Closes the connection when it is cancelled.
        connection: The served connection, once the TLS handshake is done.
        known: Whether a request has sent a valid token.
    """

    def __init__(self, peer: tuple[str, int]) -> None:
        self.peer = peer
        self.scope = trio.CancelScope()
        self.connection: HttpConnection | None = None
        self.known = False
        self._accepted = trio.current_time()

    @property
    def idle_since(self) -> float:
        """When it was accepted or last answered; math.inf while a request is unanswered."""
        return self.connection.idle_since if self.connection else self._accepted

    def show_token(self) -> None:
        """Reserve the slot from now on."""
        self.known = True


def _of_the_largest_peer(places: list[_Place]) -> list[_Place]:
    counts = Counter(place.peer[0] for place in places)
    most = max(counts.values(), default=0)
    return [place for place in places if counts[place.peer[0]] == most]


def _name(address: Any) -> tuple[str, int]:
    """Return host and port; a Unix socket has neither."""
    if not isinstance(address, tuple):
        return "unix", 0
    host, port, *_ = cast("tuple[str, int]", address)
    return host, port


async def _linger(stream: trio.SocketStream, secured: Any) -> None:
    """Close our side, and wait until the client has closed too, at most `LINGER_SECONDS`.

    Data that it still sends is read meanwhile. A connection that is closed with unread data is
    reset, and the client may lose an answer that was sent in the middle of its request (RFC 9112,
    9.6).
    """
    with trio.move_on_after(http11.LINGER_SECONDS), suppress(trio.BrokenResourceError):
        if secured is not stream:
            await secured.unwrap()
        await stream.send_eof()
        while await stream.receive_some(http11.CHUNK_BYTES):
            pass

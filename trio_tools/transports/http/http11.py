"""One HTTP/1.1 connection: h11 reads and writes the protocol, an ASGI application answers.

The application runs in the task of its connection and reads the body itself, so there is no queue
between them: a client that sends faster than it is served waits. HTTP/2 is answered with 505, and
an offer to upgrade is ignored, as RFC 9110 allows.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote

import h11
import trio
from starlette.types import ASGIApp, Message, Scope

from trio_tools.settings.logs import FIELDS

CHUNK_BYTES: Final = 2**16

STALL_SECONDS: Final = 30.0
"""Seconds that a client may take to read 64 KiB before it is disconnected."""

HEADER_SECONDS: Final = 10.0
"""Seconds that a connection may be idle, or take to send the headers of a request."""

LINGER_SECONDS: Final = 1.0
"""Seconds that a disconnected client may continue to send until it notices."""

DRAIN_BYTES: Final = 2**16
"""Limit of bytes of an unwanted body that are read to keep the connection."""

PIPELINE_BYTES: Final = 2**16
"""Limit of bytes that are read of requests after the one that is being served."""

_VERSIONS: Final = frozenset({b"1.0", b"1.1"})
_WITHOUT_BODY: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})

_log = logging.getLogger("trio_tools")

Elsewhere = Callable[[bytes], Awaitable[bool]]
"""Lets another process serve the rest of a connection, from the bytes of its next request on.

False if that process does not accept it."""

Route = Callable[[list[tuple[bytes, bytes]]], Elsewhere | None]
"""Returns the process for a request with such headers; None for this one."""


class HttpConnection:
    """Serves the requests of one connection, one after the other.

    Args:
        app: The ASGI application. It is never sent lifespan events.
        stream: The connection, plain or TLS.
        scope: The constant part of the ASGI scope of each request.
        max_header_bytes: Limit of bytes of the headers of a request.
        route: Chooses the process for a request; by default this one.
        received: Bytes that another process has read from the connection.

    Attributes:
        idle_since: When the last answer was sent; math.inf while a request that was received
            completely has no complete answer.
        moved: Whether another process serves the connection now.
    """

    def __init__(
        self,
        app: ASGIApp,
        stream: trio.abc.Stream,
        scope: Scope,
        *,
        max_header_bytes: int,
        route: Route = lambda _: None,
        received: bytes = b"",
    ) -> None:
        self._app = app
        self._stream = stream
        self._scope = scope
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=max_header_bytes)
        self._route = route
        if received:  # empty bytes would be the end of the input
            self._h11.receive_data(received)
        self.idle_since = trio.current_time()
        self.moved = False
        # The client disconnected, or nothing more can be sent to it.
        self._left = False
        # A part of an answer was sent, possibly before a cancel: no other answer can follow it.
        self._sending = False

    async def run(self) -> None:
        """Serve until the client disconnects, violates the protocol, or is idle too long.

        A cancel cancels the request that is being served.
        """
        while await self._serve_one():
            self._h11.start_next_cycle()

    async def _serve_one(self) -> bool:
        """Serve one request, and return whether another one may follow."""
        try:
            request = await self._next_request()
            if request is None:
                return False
            if request.http_version not in _VERSIONS:  # the preface of HTTP/2
                await self._refuse(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
                return False
            elsewhere = self._route(list(request.headers))
            if elsewhere is not None and await elsewhere(self._read_so_far(request)):
                self.moved, self.idle_since = True, math.inf
                return False
            exchange = _Exchange(self, request)
            await self._answer(request, exchange)
            return exchange.complete and await self._drained()
        except h11.RemoteProtocolError as error:
            await self._refuse(error.error_status_hint)
        return False

    def _read_so_far(self, request: h11.Request) -> bytes:
        """Return a request and the bytes that were read after its headers."""
        lines = [b" ".join((request.method, request.target, b"HTTP/" + request.http_version))]
        lines += (name + b": " + value for name, value in request.headers.raw_items())
        return b"\r\n".join((*lines, b"", self._h11.trailing_data[0]))

    async def _answer(self, request: h11.Request, exchange: _Exchange) -> None:
        try:
            await self._app(self._scope_of(request), exchange.receive, exchange.send)
        except* Exception:  # noqa: BLE001 - also beside a cancel, which goes on
            # The SDK continues after the answer to a notification; if the session ended, it
            # fails.
            level = logging.DEBUG if exchange.complete else logging.ERROR
            _log.log(level, "a request failed", exc_info=True)
        finally:
            self.idle_since = trio.current_time()
        if not exchange.begun:
            await self._refuse(exchange.refusal)

    async def _next_request(self) -> h11.Request | None:
        """Return the next request; None if the client disconnected or is idle."""
        with trio.move_on_after(HEADER_SECONDS):
            event = await self.next_event()
            return event if isinstance(event, h11.Request) else None
        return None

    async def _drained(self) -> bool:
        """Read an unwanted body, and return whether its end was reached in time."""
        drained = 0
        with trio.move_on_after(LINGER_SECONDS):
            while self._h11.their_state is h11.SEND_BODY and drained <= DRAIN_BYTES:
                event = await self.next_event()
                drained += len(event.data) if isinstance(event, h11.Data) else 0
        return self._h11.their_state is h11.DONE and self._h11.our_state is h11.DONE

    async def next_event(self) -> Any:
        """Return the next input of the client, as an event of h11.

        Raises:
            h11.RemoteProtocolError: It is not HTTP.
        """
        while True:
            event = self._h11.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._h11.receive_data(await self._receive_some())

    async def expect_body(self) -> None:
        """Send 100 Continue to a client that waits for it before it sends the body."""
        if self._h11.they_are_waiting_for_100_continue:
            await self.write(h11.InformationalResponse(status_code=100, headers=[]))

    async def wait_for_departure(self) -> None:
        """Wait until the client disconnects. Its input meanwhile is kept, up to a bound."""
        kept = 0
        while not self._left:
            if kept >= PIPELINE_BYTES:
                await trio.sleep_forever()
            data = await self._receive_some()
            kept += len(data)
            self._h11.receive_data(data)

    async def _receive_some(self) -> bytes:
        try:
            data = bytes(await self._stream.receive_some(CHUNK_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""  # a crash of the client also ends its input
        self._left = self._left or not data
        return data

    async def write(self, *events: h11.Event) -> bool:
        """Send events at once. False if that fails, which ends the connection."""
        data = b"".join(self._h11.send(event) or b"" for event in events)
        if self._left or self._sending:
            await trio.lowlevel.checkpoint()
            return False
        self._sending = True
        try:
            for start in range(0, len(data), CHUNK_BYTES):
                with trio.fail_after(STALL_SECONDS):
                    await self._stream.send_all(data[start : start + CHUNK_BYTES])
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            self._left = True
            return False
        self._sending = False
        return True

    async def _refuse(self, status: int) -> None:
        """Answer with only a status, and close, if an answer is still possible."""
        if self._h11.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        headers = [("date", formatdate(usegmt=True)), ("content-length", "0")]
        response = h11.Response(status_code=status, headers=[*headers, ("connection", "close")])
        fields = {"status": int(status), "peer": self._scope["client"][0]}
        _log.info("refused a request: %s", HTTPStatus(status).phrase, extra={FIELDS: fields})
        await self.write(response, h11.EndOfMessage())

    def _scope_of(self, request: h11.Request) -> Scope:
        path, _, query = request.target.partition(b"?")
        return {
            **self._scope,
            "http_version": request.http_version.decode(),
            "method": request.method.decode("ascii").upper(),
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "headers": list(request.headers),
        }


class _Exchange:
    """One request and its answer: the receive and send functions of the application.

    Attributes:
        begun: Whether a part of the answer was sent.
        complete: Whether the whole answer was sent.
        refusal: The status of the answer if the application sends none.
    """

    def __init__(self, connection: HttpConnection, request: h11.Request) -> None:
        self._connection = connection
        self._bodiless = request.method == b"HEAD"
        self._received = False
        # Applications have several tasks that wait for the client to disconnect.
        self._receiving = trio.Lock()
        self._until_complete = trio.CancelScope()
        self._held: list[h11.Event] = []
        self.begun = False
        self.complete = False
        self.refusal = HTTPStatus.INTERNAL_SERVER_ERROR

    async def receive(self) -> Message:
        """Return the next piece of body; after it, wait until a disconnect or the answer."""
        async with self._receiving:
            if not self._received:
                return await self._next_piece()
            if not self.complete:
                with self._until_complete:
                    await self._connection.wait_for_departure()
            return {"type": "http.disconnect"}

    async def _next_piece(self) -> Message:
        await self._connection.expect_body()
        body = b""
        try:
            event = await self._connection.next_event()
        except h11.RemoteProtocolError:  # it disconnected, or the rest is not a valid body
            self.refusal = HTTPStatus.BAD_REQUEST
            return {"type": "http.disconnect"}
        if isinstance(event, h11.Data):
            body = bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            self._received = True
            self._connection.idle_since = math.inf
        else:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": body, "more_body": not self._received}

    async def send(self, message: Message) -> None:
        """Send a part of the answer. After a disconnect it is dropped, as ASGI requires.

        Parts after the end are dropped too: the SDK answers some notifications a second time,
        when the session ends while it handles them.
        """
        if self.complete:
            await trio.lowlevel.checkpoint()
            return
        if message["type"] == "http.response.start":
            await self._begin(message["status"], list(message.get("headers", ())))
            return
        events = self._held
        self._held = []
        if (body := message.get("body", b"")) and not self._bodiless:
            events.append(h11.Data(data=body))
        ends = not message.get("more_body", False)
        if ends:
            events.append(h11.EndOfMessage())
        sent = await self._connection.write(*events)
        if ends or not sent:
            self.complete = ends and sent
            self._until_complete.cancel()

    async def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        headers.append((b"date", formatdate(usegmt=True).encode()))
        self._bodiless = self._bodiless or status in _WITHOUT_BODY
        self.begun = True
        response = h11.Response(status_code=status, headers=headers)
        # An answer with a known length is complete at once, and is sent in one piece.
        if any(name.lower() == b"content-length" for name, _ in headers):
            self._held = [response]
        else:
            await self._connection.write(response)

"""One request and its reply on a connection of the pool, with at most one implicit retry.

The peer may close a kept-alive connection at the moment it is used again. Such a request is sent
once more on a new connection if that is harmless: its method is idempotent, its body can be sent
again, and no byte of a reply was received.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import NamedTuple, cast

import trio

from trio_tools.http.wire.connection import Bytes, Connection
from trio_tools.http.wire.errors import Code, FetchError, FetchTimedOut, Phase, proxy_failed
from trio_tools.http.wire.pool import Pool
from trio_tools.http.wire.request_framing import LAST_CHUNK, chunk, wrong_length
from trio_tools.http.wire.response_parser import Reply, State
from trio_tools.http.wire.urls import Origin

_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
_PROXY_AUTH_REQUIRED = 407
_JOIN_BELOW_BYTES = 16_384
_NO_REPLY = Reply()
_BODY, _DONE = State.BODY, State.DONE


class Timeouts(NamedTuple):
    """Timeouts of single steps, in seconds; None for no bound.

    Attributes:
        connect: For opening a connection, from the look-up to the end of the TLS handshake.
        read: Between two pieces of the reply.
        write: For sending one piece of the request.
        pool: For waiting for a free connection.
    """

    connect: float | None = None
    read: float | None = None
    write: float | None = None
    pool: float | None = None


class WireRequest(NamedTuple):
    """A request as bytes.

    Attributes:
        origin: The destination.
        method: Upper case, as in `head`.
        head: Request line and fields with the empty line that ends them.
        body: None, the whole body as bytes, or a function that yields it in pieces, once.
        length: Sum of the pieces in bytes; None to send them as chunks.
        last: Whether the connection cannot be reused, since `head` requests to close it.
    """

    origin: Origin
    method: str
    head: bytes
    body: bytes | Callable[[], AsyncIterator[bytes]] | None = None
    length: int | None = 0
    last: bool = False

    def __repr__(self) -> str:  # `head` may contain a secret
        return f"<WireRequest {self.method} to {self.origin}>"


class Exchange:
    """One request and its reply.

    `await start()`, read `reply`, `await read()` until it returns b"", and `close()` in a
    `finally`. The connection returns to the pool as soon as the reply is complete. If `close`
    comes earlier, the connection is closed: the rest of a body is never read.
    """

    __slots__ = ("_all_sent", "_connection", "_pool", "_request", "_timeouts", "reply")

    def __init__(self, pool: Pool, request: WireRequest, timeouts: Timeouts) -> None:
        self._pool = pool
        self._request = request
        self._timeouts = timeouts
        self._connection: Connection | None = None
        self._all_sent = False
        self.reply = _NO_REPLY

    @property
    def finished(self) -> bool:
        """Whether the whole reply was received, read or not, so that no connection is held."""
        return self._connection is None

    async def start(self) -> None:  # noqa: C901 - one frame on purpose
        """Send the request and wait until the header fields of the reply are complete.

        After a cancel or a failure it holds no connection.

        Raises:
            FetchError: Of any kind; see `failures`.
        """
        request = self._request
        origin = request.origin
        started = fresh = False
        try:
            while True:
                # A wait passes through each frame between here and trio, and so does its end.
                connection = None if fresh else self._pool.checkout_idle(origin)
                if connection is None:
                    connection = await self._checkout(fresh=fresh)
                self._connection = connection
                parser = connection.parser
                try:
                    self.reply = parser.expect(head_only=request.method == "HEAD")
                    self._all_sent = False
                    if request.body is None and connection.proxy is None:
                        # Nearly always the kernel accepts the whole request.
                        rest = connection.send_nowait(request.head)
                        if rest:
                            await self._send_rest(connection, rest)
                        self._all_sent = True
                    else:
                        await self._send(connection)
                    while parser.state < _BODY:
                        await self._receive(connection)
                except FetchError as exc:
                    if not self._may_try_again(exc):
                        raise
                    self.close()
                    fresh = True
                    continue
                if parser.state >= _DONE:
                    self.close()
                if connection.proxy is not None and self.reply.status == _PROXY_AUTH_REQUIRED:
                    raise proxy_failed("it wants a user and password, or others")
                started = True
                return
        finally:
            if not started:
                self.close()

    async def read(self) -> bytes:
        """Return the next piece of body (still encoded); b"" after the last.

        Raises:
            FetchError: `CONNECTION_LOST`, `PROTOCOL_ERROR`, `TIMEOUT`.
        """
        reply = self.reply
        while not reply.parts and (connection := self._connection) is not None:
            await self._receive(connection)
            if connection.parser.state >= _DONE:
                self.close()
        return reply.take()

    def close(self) -> None:
        """Release the connection; close it if the reply is not complete. May be called twice."""
        connection = self._connection
        if connection is not None:
            self._connection = None
            reusable = self._all_sent and not self._request.last and connection.parser.reusable
            self._pool.checkin(connection, reusable=reusable)

    def _may_try_again(self, exc: FetchError) -> bool:
        connection = self._connection
        return (
            exc.error_code == Code.CONNECTION_LOST
            and connection is not None
            and connection.used
            and not connection.parser.begun
            and self._request.method in _IDEMPOTENT
            and (self._request.body is None or isinstance(self._request.body, bytes))
        )

    async def _checkout(self, *, fresh: bool) -> Connection:
        timeouts = self._timeouts
        return await self._pool.checkout(
            self._request.origin,
            pool_timeout=timeouts.pool,
            connect_timeout=timeouts.connect,
            fresh=fresh,
        )

    async def _send(self, connection: Connection) -> None:
        """Send a request that has a body, or goes through a proxy."""
        try:
            await self._send_all(connection)
            self._all_sent = True
        except FetchError as exc:
            # A peer that refuses a body may answer and close without reading it to the end.
            if exc.error_code != Code.CONNECTION_LOST or self._request.body is None:
                raise
            with contextlib.suppress(FetchError):
                await self._receive(connection)
            if not connection.parser.begun:
                raise

    async def _send_all(self, connection: Connection) -> None:
        head, body = self._request.head, self._request.body
        if connection.proxy is not None:
            head = connection.proxy.relayed(connection.origin, head)
        if body is None:
            await self._write(connection, head)
        elif isinstance(body, bytes):
            if len(body) <= _JOIN_BELOW_BYTES:
                await self._write(connection, head + body)
            else:
                await self._write(connection, head)
                await self._write(connection, body)
        else:
            await self._write(connection, head)
            await self._send_pieces(connection, body())

    async def _send_pieces(self, connection: Connection, pieces: AsyncIterator[bytes]) -> None:
        length, size = self._request.length, 0
        async with contextlib.AsyncExitStack() as stack:
            if isinstance(pieces, AsyncGenerator):
                generator = cast("AsyncGenerator[bytes, None]", pieces)
                await stack.enter_async_context(contextlib.aclosing(generator))
            async for piece in pieces:
                size += len(piece)
                if length is not None and size > length:
                    raise wrong_length(size, length)
                if piece:
                    await self._write(connection, chunk(piece) if length is None else piece)
        if length is None:
            await self._write(connection, LAST_CHUNK)
        elif size < length:
            raise wrong_length(size, length)

    async def _write(self, connection: Connection, data: bytes) -> None:
        rest = connection.send_nowait(data)
        if rest:
            await self._send_rest(connection, rest)

    async def _send_rest(self, connection: Connection, rest: Bytes) -> None:
        timeout = self._timeouts.write
        if timeout is None:
            await connection.send_rest(rest)
            return
        with trio.CancelScope(deadline=trio.current_time() + timeout):
            await connection.send_rest(rest)
            return
        raise self._timed_out(timeout, Phase.WRITE)

    def _receive(self, connection: Connection) -> Awaitable[None]:
        """Wait for the next bytes of the reply, and feed them to the parser."""
        timeout = self._timeouts.read
        return connection.receive() if timeout is None else self._receive_in(timeout, connection)

    async def _receive_in(self, seconds: float, connection: Connection) -> None:
        with trio.CancelScope(deadline=trio.current_time() + seconds):
            await connection.receive()
            return
        raise self._timed_out(seconds, Phase.READ)

    def _timed_out(self, seconds: float, phase: Phase) -> FetchTimedOut:
        return FetchTimedOut(
            f"{self._request.origin.host} did not move for {seconds:g} s while {phase.value}.",
            code=Code.TIMEOUT,
            remediation="The server is slow or gone; try later or allow more time.",
            phase=phase,
        )

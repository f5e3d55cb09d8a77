"""Connections: accepted up to a bound, served by Hypercorn's trio worker, all closable at once.

Hypercorn's own `serve` enters the lifespan before it binds, swallows what the lifespan raises, and
waits without end for a client that has stopped reading, since its sends are shielded. So the loop
that accepts is ours; what speaks HTTP on a connection is Hypercorn's `TCPServer`, over a stream
that gives up on a stalled client and that can be closed under whoever uses it.
"""

from __future__ import annotations

import logging
import math
import socket
import ssl
from contextlib import closing, suppress
from typing import Any, Final, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState

CHUNK_BYTES: Final = 2**16

STALL_SECONDS: Final = 30.0
"""How long a client may take to read 64 KiB before it is hung up on."""

HEADER_SECONDS: Final = 10
"""How long a connection may be idle, or take to send the headers of a request."""

LINGER_SECONDS: Final = 1.0
"""How long a client that is hung up on may go on sending until it sees that."""

_TURNED_AWAY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\n"
    b"connection: close\r\n\r\n"
)

_log = logging.getLogger("trio_tools")


class Connections:
    """The open connections of one server.

    Args:
        app: The ASGI application. It is never sent lifespan events.
        max_connections: Most of them at once; one more is told 503 and closed.
        max_header_bytes: Most bytes of the headers of a request.
        tls: For HTTPS.
    """

    def __init__(
        self,
        app: Any,
        *,
        max_connections: int,
        max_header_bytes: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._app = ASGIWrapper(cast("ASGIFramework", app))
        self._max = max_connections
        self._tls = tls
        self._config = Config()
        self._config.h11_max_incomplete_size = max_header_bytes
        self._config.ssl_handshake_timeout = HEADER_SECONDS
        self._config.errorlog = _log
        self._config.include_server_header = False
        self._context = WorkerContext(max_requests=None)
        self._scope = trio.CancelScope()
        self._open: set[_ClosableStream] = set()

    def __len__(self) -> int:
        return len(self._open)

    async def serve(self, listeners: list[trio.SocketListener]) -> None:
        """Accept and serve connections until `close`."""
        with self._scope:
            await trio.serve_listeners(self._serve_one, listeners)

    def close(self) -> None:
        """Stop accepting and close every connection, whatever its client does."""
        self._scope.cancel()
        for stream in self._open:
            stream.close()

    async def _serve_one(self, socket_stream: trio.SocketStream) -> None:
        with closing(_ClosableStream(socket_stream)) as stream:
            if len(self._open) >= self._max:
                await self._turn_away(stream)
                return
            self._open.add(stream)
            try:
                await _HttpConnection(
                    self._app, self._config, self._context, stream, self._secured(stream)
                ).run()
                await stream.linger()
            except Exception:  # noqa: BLE001 - one connection's failure is not the server's
                _log.exception("a connection failed")
            finally:
                self._open.remove(stream)

    def _secured(self, stream: _ClosableStream) -> Any:
        if self._tls is None:
            return stream
        return trio.SSLStream(stream, self._tls, server_side=True, https_compatible=True)

    async def _turn_away(self, stream: _ClosableStream) -> None:
        if self._tls is None:
            with trio.move_on_after(1), suppress(trio.BrokenResourceError):
                await stream.send_all(_TURNED_AWAY)


class _HttpConnection(TCPServer):
    """Hypercorn's server of one connection, whose reader ends with a scope.

    Left alone, its reader waits for ever behind an exchange whose client has left, if another
    request came behind that one. The scope is cancelled only when the application has been told
    that its client is gone: the reader may be the one who tells it.

    Args:
        app: The ASGI application.
        config: Of Hypercorn.
        context: Of Hypercorn.
        wire: The stream to the client.
        stream: The same, or TLS over it.
    """

    def __init__(
        self,
        app: ASGIWrapper,
        config: Config,
        context: WorkerContext,
        wire: _ClosableStream,
        stream: Any,
    ) -> None:
        super().__init__(app, config, context, ConnectionState({}), stream)
        self._wire = wire
        self._reading = trio.CancelScope()
        self.idle_task = cast("Any", _IdleTime(self._reading))

    async def protocol_send(self, event: Event) -> None:
        await super().protocol_send(event)
        if self._wire.hung_up:
            self._reading.cancel()

    async def _read_data(self) -> None:
        with self._reading:
            await super()._read_data()
            return
        await self.protocol.handle(Closed())


class _IdleTime:
    """When a connection has been idle for too long, told to its reader as a deadline.

    Hypercorn would start a task for that after each request and cancel it at the next one, which
    costs as much as a tenth of a call, and keeps the connection of a client that has left.
    """

    def __init__(self, reading: trio.CancelScope) -> None:
        self._reading = reading

    async def restart(self, *_: object) -> None:
        self._reading.deadline = trio.current_time() + HEADER_SECONDS

    async def stop(self) -> None:
        self._reading.deadline = math.inf


class _ClosableStream(trio.abc.HalfCloseableStream):
    """A socket stream that can be closed from outside and does not wait for a stalled client.

    Args:
        stream: The socket stream.

    Attributes:
        socket: The socket, which Hypercorn asks for addresses.
        hung_up: Whether nothing more is sent: it was hung up, closed or found broken.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.socket = stream.socket
        self.hung_up = False
        # The same descriptor, to send what the kernel takes at once, which is nearly always all:
        # to ask trio first costs an answer of two pieces a thirtieth of its time.
        self._plain = socket.socket(fileno=stream.socket.fileno())
        self._plain.settimeout(0)

    def close(self) -> None:
        """Close the socket now. Whoever reads or writes gets `trio.ClosedResourceError`."""
        self.hung_up = True
        self._plain.detach()
        self.socket.close()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        # Hypercorn and SSLStream see to it that one sends at a time.
        try:
            with memoryview(data) as view:
                for start in range(self._send_at_once(view), len(view), CHUNK_BYTES):
                    with trio.fail_after(STALL_SECONDS):
                        await self._stream.send_all(view[start : start + CHUNK_BYTES])
        except trio.BrokenResourceError:
            self.hung_up = True
            raise
        except trio.TooSlowError:
            self.close()
            raise trio.BrokenResourceError("the client has stopped reading") from None

    def _send_at_once(self, data: memoryview) -> int:
        """Send what the kernel has room for, and return how many bytes that were."""
        try:
            return self._plain.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            if self._plain.fileno() < 0:
                raise trio.ClosedResourceError from None
            raise trio.BrokenResourceError("the client is gone") from error

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            return await self._stream.receive_some(max_bytes)
        except trio.BrokenResourceError:
            return b""  # a crash of the client ends what it sends, too

    async def send_eof(self) -> None:
        # Trio's own is for one task at a time; Hypercorn has two that may hang up at once.
        await trio.lowlevel.checkpoint()
        with suppress(OSError):  # closed, or the client is gone
            self.socket.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        """Hang up: send nothing more. `linger` and `close` come next, when the reader has ended."""
        self.hung_up = True
        await self.send_eof()

    async def linger(self) -> None:
        """Hang up, and wait until the client has too, for at most `LINGER_SECONDS`.

        What it still sends is read meanwhile: a connection that is closed with something unread is
        reset, and an answer in the middle of a request may be lost by that (RFC 9112, 9.6).
        """
        await self.send_eof()
        with trio.move_on_after(LINGER_SECONDS), suppress(trio.ClosedResourceError):
            while await self.receive_some(CHUNK_BYTES):
                pass

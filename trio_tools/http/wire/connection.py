"""One connection: send, receive, and close at once without waiting.

A connection serves one exchange at a time, so it needs no locks. It is closed synchronously, so
that no clean-up in this package must await. The plain wire calls the kernel without the
checkpoints of `trio.SocketStream`: sending succeeds at once nearly always, and the following wait
for the reply is the checkpoint. That saves one pass through the scheduler per request.
"""

from __future__ import annotations

import socket
import ssl
from typing import Protocol

import trio
from trio.lowlevel import wait_readable

from trio_tools.http.wire.errors import Code, FetchError, Phase
from trio_tools.http.wire.proxies import Proxy
from trio_tools.http.wire.response_parser import ReplyParser
from trio_tools.http.wire.urls import Origin

_RECEIVE_BYTES = 65_536

Bytes = bytes | memoryview


class Wire(Protocol):
    """Sends and receives bytes. Errors are those of trio streams and `OSError`."""

    def open_fd(self) -> int:
        """Return the descriptor of the socket, to wait for.

        Raises:
            trio.ClosedResourceError: It was closed here.
        """
        ...

    def send_nowait(self, data: bytes) -> Bytes:
        """Send what the kernel accepts now, and return the rest for `send_rest`."""
        ...

    async def send_rest(self, rest: Bytes) -> None:
        """Send the data that `send_nowait` returned."""
        ...

    def receive_nowait(self) -> bytes | None:
        """Return received bytes; b"" at the end, None if more must be received first."""
        ...

    async def flush(self) -> None:
        """Send what `receive_nowait` left to send. Called before each wait after it."""
        ...

    def holds_bytes(self) -> bool:
        """Whether bytes were read from the socket that `receive_nowait` has not returned yet."""
        ...

    def close(self) -> None:
        """Close at once and wake the task that waits for it."""
        ...


class PlainWire(Wire):
    """TCP. Takes over `stream`, whose standard socket is `sock`."""

    __slots__ = ("_fd", "_sock", "_stream")

    def __init__(self, stream: trio.SocketStream, sock: socket.socket) -> None:
        self._stream = stream
        self._sock = sock
        self._fd = sock.fileno()

    def open_fd(self) -> int:
        """Return the descriptor of the socket."""
        if self._fd < 0:
            raise trio.ClosedResourceError("this connection was closed here")
        return self._fd

    def send_nowait(self, data: bytes) -> Bytes:
        """Send what the kernel accepts now, and return the rest."""
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            return data
        return b"" if sent == len(data) else memoryview(data)[sent:]

    async def send_rest(self, rest: Bytes) -> None:
        """Send the data that `send_nowait` returned."""
        await self._stream.send_all(rest)

    async def send(self, data: bytes) -> None:
        """Send all of `data`, without a checkpoint if the kernel accepts it at once."""
        rest = self.send_nowait(data)
        if rest:
            await self.send_rest(rest)

    async def receive(self) -> bytes:
        """Wait for bytes and return them; b"" at the end."""
        while True:
            await trio.lowlevel.wait_readable(self.open_fd())
            data = self.receive_nowait()
            if data is not None:
                return data

    def receive_nowait(self) -> bytes | None:
        """Return received bytes; b"" at the end."""
        try:
            return self._sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:  # a spurious wake-up
            return None

    async def flush(self) -> None:
        """Do nothing: receiving sends nothing."""

    def holds_bytes(self) -> bool:
        """False: bytes from the socket are returned at once."""
        return False

    def close(self) -> None:
        """Close at once."""
        self._stream.socket.close()
        self._fd = -1


class TlsWire(Wire):
    """TLS over a plain wire. One task uses it at a time, first sending and then receiving.

    So it is short: `trio.SSLStream` supports a concurrent sender and receiver, with three locks
    and a checkpoint per step, which costs half as much CPU again per request.

    It is closed without `close_notify`, as HTTP clients do: every complete reply declares its
    length. For the same reason an end without `close_notify` is accepted: a truncated reply is
    detected by its length.
    """

    __slots__ = ("_incoming", "_outgoing", "_plain", "_tls")

    def __init__(self, plain: PlainWire, context: ssl.SSLContext, server_hostname: str) -> None:
        self._plain = plain
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=server_hostname
        )

    async def shake_hands(self) -> None:
        """Do the handshake, in which the certificate and its name are verified.

        Raises:
            ssl.SSLError: It failed.
            OSError: The connection broke.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.flush()
                self._give(await self._plain.receive())
            except ssl.SSLError:
                await self.flush()  # the alert with the reason for the peer
                raise
            else:
                await self.flush()
                return

    def open_fd(self) -> int:
        """Return the descriptor of the socket."""
        return self._plain.open_fd()

    def send_nowait(self, data: bytes) -> Bytes:
        """Encrypt all of `data`, send what the kernel accepts now, and return the rest."""
        self._tls.write(data)
        return self._plain.send_nowait(self._outgoing.read())

    async def send_rest(self, rest: Bytes) -> None:
        """Send the data that `send_nowait` returned."""
        await self._plain.send_rest(rest)

    def receive_nowait(self) -> bytes | None:
        """Return decrypted bytes; b"" at the end.

        None means an incomplete record, or a protocol message.
        """
        data = self._decrypted() if self.holds_bytes() else None
        if data is None:
            encrypted = self._plain.receive_nowait()
            if encrypted is None:
                return None
            self._give(encrypted)
            data = self._decrypted()
        return data

    def holds_bytes(self) -> bool:
        """Whether more records, or parts of one, arrived with those that were read."""
        return bool(self._tls.pending() or self._incoming.pending)

    def close(self) -> None:
        """Close at once."""
        self._plain.close()

    def _give(self, encrypted: bytes) -> None:
        if encrypted:
            self._incoming.write(encrypted)
        else:
            self._incoming.write_eof()

    def _decrypted(self) -> bytes | None:
        try:
            return self._tls.read(_RECEIVE_BYTES)
        except ssl.SSLWantReadError:
            return None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    async def flush(self) -> None:
        """Send what OpenSSL has for the peer: steps of the handshake, alerts, new keys."""
        if self._outgoing.pending:
            await self._plain.send(self._outgoing.read())


class Connection:
    """A wire to one origin, the parser of its replies, and the time of its last use.

    Attributes:
        origin: The origin it connects to.
        parser: Parses the reply of the current exchange.
        used: Whether an exchange was completed on it; if so, the peer may have closed it since.
        proxy: The proxy that receives its requests; None if the origin receives them, also
            through a tunnel.
        idle_since: When it became idle, in seconds of `trio.current_time`.
    """

    __slots__ = ("_sock", "_wire", "idle_since", "origin", "parser", "proxy", "used")

    def __init__(
        self,
        origin: Origin,
        wire: Wire,
        sock: socket.socket,
        parser: ReplyParser,
        proxy: Proxy | None = None,
    ) -> None:
        self.origin = origin
        self.parser = parser
        self.proxy = proxy
        self.used = False
        self.idle_since = 0.0
        self._wire = wire
        self._sock = sock

    def send_nowait(self, data: bytes) -> Bytes:
        """Send what the kernel accepts now, nearly always everything, and return the rest.

        Raises:
            FetchError: `CONNECTION_LOST`.
        """
        try:
            return self._wire.send_nowait(data)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise self._lost(exc, Phase.WRITE) from exc

    async def send_rest(self, rest: Bytes) -> None:
        """Send the data that `send_nowait` returned.

        Raises:
            FetchError: `CONNECTION_LOST`.
        """
        try:
            await self._wire.send_rest(rest)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise self._lost(exc, Phase.WRITE) from exc

    async def receive(self) -> None:
        """Wait for the next bytes, or the end of the connection, and feed them to `parser`.

        Raises:
            FetchError: `CONNECTION_LOST` if it was reset or ended before a reply had begun;
                `PROTOCOL_ERROR` or `TOO_LARGE` from the parser.
        """
        wire = self._wire
        try:
            if not wire.holds_bytes():  # nearly always, and asking for what is not here raises
                await wait_readable(wire.open_fd())
            data = wire.receive_nowait()
            while data is None:
                await wire.flush()
                await wait_readable(wire.open_fd())
                data = wire.receive_nowait()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise self._lost(exc, Phase.READ) from exc
        if not data and not self.parser.begun:
            raise FetchError(
                f"{self.origin.host} closed the connection without a reply.",
                code=Code.CONNECTION_LOST,
                remediation="The server may be restarting or refusing this client; try later.",
                phase=Phase.REPLY,
            )
        self.parser.feed(data)

    def is_stale(self) -> bool:
        """Whether the peer has closed it, or sent unrequested bytes. Never waits."""
        if self._wire.holds_bytes():
            return True
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        """Close at once. A waiting task gets `CONNECTION_LOST`. May be called twice."""
        self._wire.close()

    def _lost(self, exc: Exception, phase: Phase) -> FetchError:
        cause = exc.__cause__ or exc
        reason = "TLS failure" if isinstance(cause, ssl.SSLError) else str(cause) or "it broke"
        return FetchError(
            f"The connection to {self.origin.host} was lost while {phase.value}: {reason}.",
            code=Code.CONNECTION_LOST,
            remediation="The server or the network ended it; trying again may help.",
            phase=phase,
        )
